"""The values that every layer of Tandem speaks in.

All are frozen, slotted, keyword-only dataclasses, and check themselves when they are made: a value that
can't be right can't be constructed. They are written to and read from JSON by `to_json` and `from_json`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

import msgspec

Precision = Literal["fp32", "bf16", "fp16", "int8"]
DeviceKind = Literal["cpu", "cuda"]
CpuFeature = Literal["vnni", "bf16"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
Decode = Literal["exact", "scaled"]

SCHEMA_VERSION = 1
"""Of `config.json`. A reader refuses a newer one."""

_T = TypeVar("_T")


def to_json(value: object) -> bytes:
    """Return `value` as indented JSON that is the same bytes for the same value."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def from_json(data: bytes, type: type[_T]) -> _T:
    """Return the `type` that `data` describes.

    Raises:
        ValueError: the JSON is malformed, lacks a field, or has a value out of its range.
    """
    try:
        return msgspec.json.decode(data, type=type)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error
    except RecursionError as error:
        raise ValueError("JSON is malformed: it is nested too deeply") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How the bytes of an image become the pixels that a model takes.

    `classifier.images` does the first half (decode, orient, resize, crop), the graph the second (cast,
    normalise, transpose).

    Attributes:
        resize_size: length of the shorter side after the resize, in pixels.
        crop_size: length of both sides after the centre crop, in pixels; at most `resize_size`.
        interpolation: Pillow's filter of that name, antialiased when it makes an image smaller.
        mean: subtracted from each RGB channel, scaled to 0…1.
        std: divides each RGB channel after that.
        background: the sRGB colour that transparent pixels are laid over.
        decode: `exact` decodes every pixel; `scaled` lets the JPEG codec shrink a large photograph first.
    """

    resize_size: int
    crop_size: int
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    background: tuple[int, int, int] = (255, 255, 255)
    decode: Decode = "exact"

    def __post_init__(self) -> None:
        if not 1 <= self.crop_size <= self.resize_size <= 4096:
            raise ValueError(
                f"preprocessing wants 1 <= crop_size <= resize_size <= 4096, got {self.crop_size}, {self.resize_size}"
            )
        if min(self.std) <= 0:
            raise ValueError(f"preprocessing wants a std above 0, got {self.std}")
        if not all(0 <= level <= 255 for level in self.background):
            raise ValueError(f"preprocessing wants a background of three levels in 0…255, got {self.background}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowedPrecision:
    """One way in which an artifact may be run, because its accuracy was measured to be within the limit.

    Attributes:
        precision: the arithmetic of convolutions and matrix products.
        engine: what it was measured with, `onnxruntime` or `openvino`.
        device: the kind of device that it was measured on.
        graph: the file of the artifact that this precision runs, `model.onnx`; bf16 is how an engine executes that of
            fp32.
        needs: instructions of the CPU without which the answers would be wrong (int8), or slower than those of fp32
            (bf16).
    """

    precision: Precision
    engine: str
    device: DeviceKind
    graph: str
    needs: tuple[CpuFeature, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """What one must know of a model to run it: the artifact's `config.json`.

    Attributes:
        name: the model's name, without a version: the registry gives that.
        architecture: the network, in torchvision's name for it, or `small_cnn`.
        labels: the classes, in the order of the graph's outputs.
        allowed: how the artifact may be run, the most exact first: fp32 with ONNX Runtime is always there.
        opset: of the ONNX graphs.
        embedding_size: how many numbers an image's embedding has, which is what the last layer takes; UNSET where the
            graphs don't give it, and then `config.json` does not speak of it.
    """

    name: str
    architecture: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    allowed: tuple[AllowedPrecision, ...]
    opset: int
    embedding_size: int | msgspec.UnsetType = msgspec.UNSET
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.schema_version > SCHEMA_VERSION:
            raise ValueError(
                f"config.json has schema version {self.schema_version}, this Tandem reads up to {SCHEMA_VERSION}: "
                "update Tandem"
            )
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise ValueError("a model wants two or more distinct labels")
        if not self.allowed:
            raise ValueError("a model wants at least one allowed precision")
        if self.embedding_size is not msgspec.UNSET and self.embedding_size < 1:
            raise ValueError(f"a model's embeddings want 1 number or more, got {self.embedding_size}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A label with its score.

    Attributes:
        index: the label's position in `ModelConfig.labels`.
        score: the softmax probability, a float32 value held exactly.
    """

    label: str
    index: int
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What ran a model: all on which the bits of a score depend, beside model and image.

    Attributes:
        name: `onnxruntime` or `openvino`.
        version: of the engine's library.
        device: `cpu`, `cuda:0`.
        instruction_set: of the CPU (`avx512_vnni`, `avx2`, …); of a GPU the compute capability with the name (`sm_90
            NVIDIA H200`), since GPUs of one capability may run different kernels.
        batch_size: the one size that every execution is padded to; None where any size gives the same bits.
    """

    name: str
    version: str
    device: str
    precision: Precision
    instruction_set: str
    batch_size: int | None = None

    def __str__(self) -> str:
        """Return the engine for people to read: `onnxruntime 1.31.1, cpu (avx512_vnni), fp32`."""
        batch = "" if self.batch_size is None else f", batches of {self.batch_size}"
        return f"{self.name} {self.version}, {self.device} ({self.instruction_set}), {self.precision}{batch}"

    def bit_equal_to(self, other: EngineInfo) -> bool:
        """Return whether equal images must get bit-equal scores from both; else they agree within the tolerance."""
        return self._numerics() == other._numerics()

    def _numerics(self) -> tuple[str | int | None, ...]:
        device_kind = self.device.partition(":")[0]
        return self.name, self.version, device_kind, self.precision, self.instruction_set, self.batch_size
