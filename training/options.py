"""The options of `tandem train`; without torch, so that `--help` can show their defaults quickly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from classifier.types import Decode

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """What a user can choose, with defaults; None means that the data set and the other options decide."""

    arch: str | None = None
    weights: str | None = None
    image_size: int | None = None
    decode: Decode = "exact"
    val_fraction: float | None = None
    skip_unreadable: bool = False
    epochs: int = 20
    batch_size: int = 64
    lr: float | None = None
    label_smoothing: float = 0.1
    flip: bool | None = None
    patience: int = 10
    seed: int = 0
    device: Device = "auto"
    amp: bool | None = None
