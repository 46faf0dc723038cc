"""What an image's scores depend on besides its bytes: while all of it is equal, an earlier answer still holds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from PIL import features

from classifier.extras import installed_version
from classifier.images.limits import LIMITS, Limits
from classifier.types import to_json

if TYPE_CHECKING:
    from classifier.model import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Shaping:
    """Everything, besides an image's bytes, that decides whether it gets scores, and which.

    The container's memory is left out: it can refuse an image, but never change a score.

    Attributes:
        digest: the model's. It covers graphs, labels and preprocessing.
        numerics: `EngineInfo.numerics`.
        versions: `library_versions()`.
        limits: of the images that are accepted.
    """

    digest: str
    numerics: tuple[str | int | None, ...]
    versions: dict[str, str]
    limits: Limits

    @classmethod
    def of(cls, model: Model, limits: Limits = LIMITS) -> Self:
        """Return what shapes the scores of an opened model on this machine, for images within `limits`."""
        return cls(
            digest=model.digest,
            numerics=model.engine.info.numerics,
            versions=library_versions(),
            limits=limits,
        )

    @property
    def sha256(self) -> bytes:
        """The SHA-256 of all of it, 32 bytes: equal exactly if every field is equal."""
        return hashlib.sha256(to_json(self)).digest()


def library_versions(*more: str) -> dict[str, str]:
    """Return the versions of the libraries that shape pixels, and of the packages `more`."""
    found = {name: installed_version(name) or "not installed" for name in ("tandem", "pillow", *more)}
    # A Pillow built from source decodes with the libraries of its machine.
    for codec in ("libjpeg_turbo", "zlib", "webp"):
        found[codec] = str(features.version(codec))
    return found
