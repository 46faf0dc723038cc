"""The config of a run: what the user chose, and what the data set decides otherwise."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from classifier.errors import EngineUnavailable, ImageError
from classifier.images import decode_image, read_image
from classifier.types import Preprocessing
from training.data.augment import SMALL_IMAGE_SIZE
from training.network import SMALL_CNN, build_network, check_architecture, pretrained_preprocessing

if TYPE_CHECKING:
    from torch import nn

    from training.data.folders import ImageFolders, Sample
    from training.options import Device, TrainingOptions

TrainingPrecision = Literal["fp32", "bf16", "fp16"]

_LR = 2e-3
_FINE_TUNING_LR = 3e-4
_SAMPLED_IMAGES = 100
_SMALLEST_IMAGE_SIZE = 8
_LARGE_IMAGE_SIZE = 224
_RESIZE_RATIO = 256 / 224  # as in torchvision's references: the crop cuts an eighth off large images


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Everything that a run's result depends on, except library versions.

    Attributes:
        data: the data set's folder, absolute.
        data_digest: `ImageFolders.digest()` when the run began.
        val_folder: `ImageFolders.val_folder`.
        labels: the classes, in the order of the network's outputs.
        architecture: torchvision's name of the network, or `small_cnn`.
        weights: initial weights: `DEFAULT` for torchvision's, a file, or None for random ones.
        flip: whether training mirrors images.
        patience: training stops after this many epochs without a better one.
        precision: of training; validation always runs in fp32.
    """

    data: str
    data_digest: str
    val_folder: str
    labels: tuple[str, ...]
    architecture: str
    weights: str | None
    preprocessing: Preprocessing
    epochs: int
    batch_size: int
    lr: float
    label_smoothing: float
    flip: bool
    patience: int
    val_fraction: float | None
    seed: int
    device: Literal["cpu", "cuda"]
    precision: TrainingPrecision

    def build_network(self) -> nn.Module:
        """Return the network with fresh weights from torch's generator, as `training.network.build_network` does."""
        return build_network(self.architecture, classes=len(self.labels), image_size=self.preprocessing.crop_size)


def choose_config(folders: ImageFolders, options: TrainingOptions) -> TrainingConfig:
    """Return the config for `options`; the data set decides everything they leave open.

    Raises:
        DataError: the network, or its weights, don't exist.
        EngineUnavailable: this machine lacks the requested device or mixed precision.
    """
    if options.arch is not None:
        check_architecture(options.arch)
    device = choose_device(options.device)
    preprocessing = replace(_choose_sizes(folders, options), decode=options.decode)
    small = preprocessing.crop_size <= SMALL_IMAGE_SIZE
    default_lr = _LR if options.weights is None else _FINE_TUNING_LR
    return TrainingConfig(
        data=str(folders.root.resolve()),
        data_digest=folders.digest(),
        val_folder=folders.val_folder,
        labels=folders.labels,
        architecture=options.arch or _default_architecture(preprocessing, options),
        weights=resolve_weights(options.weights),
        preprocessing=preprocessing,
        epochs=options.epochs,
        batch_size=options.batch_size,
        lr=default_lr if options.lr is None else options.lr,
        label_smoothing=options.label_smoothing,
        # A mirrored digit or letter is another character; a mirrored photograph keeps its class.
        flip=not small if options.flip is None else options.flip,
        patience=options.patience,
        val_fraction=options.val_fraction,
        seed=options.seed,
        device=device,
        precision=_choose_precision(device, amp=options.amp),
    )


def choose_device(device: Device) -> Literal["cpu", "cuda"]:
    """Return the device that `device` means on this machine.

    Raises:
        EngineUnavailable: `device` is `cuda`, and torch can't use a GPU.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        fact = "finds no usable GPU" if torch.version.cuda else "is a CPU-only build"
        raise EngineUnavailable(f"torch {torch.__version__} {fact}, so it can't train on cuda: give --device cpu")
    return device


def _choose_precision(device: str, *, amp: bool | None) -> TrainingPrecision:
    if device == "cuda":
        if amp is False:
            return "fp32"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if amp:
        capabilities = torch.cpu.get_capabilities()
        if not (capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")):
            raise EngineUnavailable(
                "this CPU lacks bf16 instructions, so mixed precision would be slower than fp32: leave out --amp"
            )
        return "bf16"
    return "fp32"


def resolve_weights(weights: str | None) -> str | None:
    """Return `weights` as stored in a config: a file as an absolute path."""
    return weights if weights in (None, "DEFAULT") else str(Path(weights).resolve())


def _default_architecture(preprocessing: Preprocessing, options: TrainingOptions) -> str:
    if options.weights != "DEFAULT" and preprocessing.crop_size <= SMALL_IMAGE_SIZE:
        return SMALL_CNN
    return "resnet18"


def _choose_sizes(folders: ImageFolders, options: TrainingOptions) -> Preprocessing:
    if options.weights == "DEFAULT":
        pretrained = pretrained_preprocessing(options.arch or "resnet18")
        if options.image_size is None:
            return pretrained
        return replace(pretrained, resize_size=_resize_size(options.image_size), crop_size=options.image_size)
    size = options.image_size or _typical_size(folders.train)
    return Preprocessing(resize_size=_resize_size(size), crop_size=size)


def _resize_size(image_size: int) -> int:
    return image_size if image_size <= SMALL_IMAGE_SIZE else round(image_size * _RESIZE_RATIO)


def _typical_size(samples: tuple[Sample, ...]) -> int:
    """Return an image size that suits the median shorter side of images sampled evenly from all."""
    probe = Preprocessing(resize_size=1, crop_size=1)
    sides = []
    for sample in samples[:: max(1, len(samples) // _SAMPLED_IMAGES)]:
        try:
            image = decode_image(read_image(sample.path), probe)
        except ImageError:
            continue  # `read_images` reports unreadable images, before the first epoch.
        sides.append(min(image.width, image.height))
    side = int(statistics.median(sides)) if sides else _LARGE_IMAGE_SIZE
    if side <= SMALL_IMAGE_SIZE:
        return max(_SMALLEST_IMAGE_SIZE, side)
    return min(_LARGE_IMAGE_SIZE, side // 32 * 32)
