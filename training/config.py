"""The config of a run: what the options say, and what the data decides where they don't."""

from __future__ import annotations

import logging
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from classifier.errors import EngineUnavailable, ImageError
from classifier.images import decode_image, read_image
from classifier.types import Preprocessing
from training.augment import SMALL_IMAGE_SIZE
from training.network import SMALL_CNN, check_architecture, pretrained_preprocessing

if TYPE_CHECKING:
    from training.folders import ImageFolders, Sample
    from training.options import Device, TrainingOptions

logger = logging.getLogger(__name__)

TrainingPrecision = Literal["fp32", "bf16", "fp16"]

_LR = 2e-3
_FINE_TUNING_LR = 3e-4
_SAMPLED_IMAGES = 100
_SMALLEST_IMAGE_SIZE = 8
_LARGE_IMAGE_SIZE = 224
_RESIZE_RATIO = 256 / 224  # torchvision's references: a margin of an eighth is cut off large images.


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """All that a run's result depends on, beside the versions of the libraries.

    Attributes:
        data: the data set's folder, absolute.
        data_digest: `ImageFolders.digest()` of what was in it.
        val_folder: `ImageFolders.val_folder`.
        labels: the classes, in the order of the network's outputs.
        architecture: torchvision's name of the network, or `small_cnn`.
        weights: what the network started from: `DEFAULT`, a file, or None for random weights.
        flip: whether training mirrors images.
        patience: training stops after so many epochs without a better one.
        device: `cpu` or `cuda`.
        precision: of training; validation is always fp32.
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


def choose_config(folders: ImageFolders, options: TrainingOptions) -> TrainingConfig:
    """Return the config in which the data set has decided what `options` leave open.

    Raises:
        DataError: there is no such network, or no weights for it.
        EngineUnavailable: the device or the mixed precision that was asked for can't be had.
    """
    if options.arch is not None:
        check_architecture(options.arch)
    device = choose_device(options.device)
    preprocessing = _choose_preprocessing(folders, options)
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
        # A mirrored digit or letter is another one; a mirrored photograph rarely is.
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
        EngineUnavailable: `cuda` was asked for, and torch can't use it.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        fact = "finds no GPU that it can use" if torch.version.cuda else "is a build for the CPU"
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
                "this CPU has no bf16 instructions, so mixed precision would be slower than fp32: leave out --amp"
            )
        return "bf16"
    return "fp32"


def resolve_weights(weights: str | None) -> str | None:
    """Return `weights` as a config holds it: a file by its full path."""
    return weights if weights in (None, "DEFAULT") else str(Path(weights).resolve())


def _default_architecture(preprocessing: Preprocessing, options: TrainingOptions) -> str:
    if options.weights != "DEFAULT" and preprocessing.crop_size <= SMALL_IMAGE_SIZE:
        return SMALL_CNN
    return "resnet18"


def _choose_preprocessing(folders: ImageFolders, options: TrainingOptions) -> Preprocessing:
    return replace(_choose_sizes(folders, options), decode=options.decode)


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
    """Return the image size that suits the shorter sides of some images, evenly taken from all."""
    probe = Preprocessing(resize_size=1, crop_size=1)
    sides = []
    for sample in samples[:: max(1, len(samples) // _SAMPLED_IMAGES)]:
        try:
            image = decode_image(read_image(sample.path), probe)
        except ImageError:
            continue  # All that can't be read are listed before the first epoch.
        sides.append(min(image.width, image.height))
    side = int(statistics.median(sides)) if sides else _LARGE_IMAGE_SIZE
    if side <= SMALL_IMAGE_SIZE:
        return max(_SMALLEST_IMAGE_SIZE, side)
    return min(_LARGE_IMAGE_SIZE, side // 32 * 32)
