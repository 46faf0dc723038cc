"""The values that all layers of Tandem exchange.

All are frozen, slotted, keyword-only dataclasses that validate themselves, so an invalid value can't be constructed.
`to_json` and `from_json` write and read them.
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
"""Version of the format of `config.json`. Readers refuse a newer one."""

_T = TypeVar("_T")


def to_json(value: object) -> bytes:
    """Return `value` as indented JSON; equal values give equal bytes."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def from_json(data: bytes, type: type[_T]) -> _T:
    """Return the value of `type` that the JSON `data` describes.

    Raises:
        ValueError: the JSON is malformed, lacks a field, or has an invalid value.
    """
    try:
        return msgspec.json.decode(data, type=type)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error
    except RecursionError as error:
        raise ValueError("JSON is malformed: it is nested too deeply") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How an encoded image becomes a model's input.

    `classifier.images` does the first half (decode, orient, resize, crop), the graph the second (cast, normalise,
    transpose).

    Attributes:
        resize_size: length of the shorter side after the resize, in pixels.
        crop_size: length of both sides after the centre crop, in pixels; at most `resize_size`.
        interpolation: name of the Pillow filter, which antialiases when it shrinks an image.
        mean: subtracted from each RGB channel after it was scaled to 0…1.
        std: each RGB channel is divided by it after that.
        background: the sRGB colour behind transparent pixels.
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
                f"preprocessing needs 1 <= crop_size <= resize_size <= 4096, got {self.crop_size}, {self.resize_size}"
            )
        if min(self.std) <= 0:
            raise ValueError(f"preprocessing needs a std above 0, got {self.std}")
        if not all(0 <= level <= 255 for level in self.background):
            raise ValueError(f"preprocessing needs a background of three levels in 0…255, got {self.background}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowedPrecision:
    """A way in which an artifact may run: its measured accuracy is within the limit.

    Attributes:
        precision: the arithmetic of convolutions and matrix products.
        engine: the engine it was measured with, `onnxruntime` or `openvino`.
        device: the kind of device it was measured on.
        graph: the artifact's file that runs, such as `model.onnx`; bf16 runs the graph of fp32.
        needs: CPU features without which the scores would be wrong (int8), or slower to get than in fp32 (bf16).
        batch_size: 1 if each image is run alone on the CPU, because its scores would depend on those beside it; UNSET,
            and not in `config.json`, if they don't.
    """

    precision: Precision
    engine: str
    device: DeviceKind
    graph: str
    needs: tuple[CpuFeature, ...] = ()
    batch_size: int | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        if self.batch_size not in (1, msgspec.UNSET):
            raise ValueError(f"a way of running has a batch_size of 1 or none, got {self.batch_size}")

    @property
    def runs_alone(self) -> bool:
        """Whether each image is run alone."""
        return self.batch_size == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Everything needed to run a model: the artifact's `config.json`.

    Attributes:
        name: the model's name; the registry adds the version.
        architecture: torchvision's name of the network, or `small_cnn`.
        labels: the classes, in the order of the graph's outputs.
        preprocessing: how an encoded image becomes the graph's input.
        allowed: how the artifact may run, the most exact first; always has fp32 with ONNX Runtime.
        opset: the ONNX opset of the graphs.
        embedding_size: length of an image's embedding, the input of the network's last layer; UNSET, and not in
            `config.json`, if the graphs don't output it.
        schema_version: the format of `config.json`.
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
            raise ValueError("a model needs at least two distinct labels")
        if not self.allowed:
            raise ValueError("a model needs at least one allowed precision")
        if self.embedding_size is not msgspec.UNSET and self.embedding_size < 1:
            raise ValueError(f"embedding_size must be at least 1, got {self.embedding_size}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A label with its score.

    Attributes:
        index: the label's position in `ModelConfig.labels`.
        score: the softmax probability; a float32 value, held exactly.
    """

    label: str
    index: int
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """The engine that ran a model: everything, besides model and image, that the bits of a score depend on.

    Attributes:
        name: `onnxruntime` or `openvino`.
        version: the version of the engine's library.
        device: `cpu`, `cuda:0`; `cuda:0,1` for several GPUs.
        precision: the arithmetic of convolutions and matrix products.
        instruction_set: the CPU's (`avx512_vnni`, `avx2`, …); a GPU's compute capability and name (`sm_90 NVIDIA
            H200`), since GPUs of one capability may run different kernels.
        batch_size: the size that every batch is padded to; None if every size gives the same bits.
    """

    name: str
    version: str
    device: str
    precision: Precision
    instruction_set: str
    batch_size: int | None = None

    def __str__(self) -> str:
        """Return one line for people: `onnxruntime 1.31.1, cpu (avx512_vnni), fp32`."""
        batch = "" if self.batch_size is None else f", batches of {self.batch_size}"
        return f"{self.name} {self.version}, {self.device} ({self.instruction_set}), {self.precision}{batch}"

    def bit_equal_to(self, other: EngineInfo) -> bool:
        """Return whether both give bit-equal scores; else the scores agree within the tolerance."""
        return self.numerics == other.numerics

    @property
    def numerics(self) -> tuple[str | int | None, ...]:
        """What the bits of a score depend on: all fields, but of the device only its kind."""
        device_kind = self.device.partition(":")[0]
        return self.name, self.version, device_kind, self.precision, self.instruction_set, self.batch_size
