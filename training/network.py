"""Networks: torchvision's classifiers by name, and a small CNN for small images."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from classifier.errors import DataError
from classifier.types import Preprocessing
from training.files import NOT_A_TORCH_FILE
from training.torchvision_compat import import_torchvision
from training.weights import as_expected_by, read_state_dict

if TYPE_CHECKING:
    from training.weights import StateDict

SMALL_CNN = "small_cnn"

# By default, these two return auxiliary logits in training. torchvision's weights for them rescale the input.
_WITHOUT_AUXILIARY = {"aux_logits": False, "transform_input": True, "init_weights": True}
_BUILD_OPTIONS = {"googlenet": _WITHOUT_AUXILIARY, "inception_v3": _WITHOUT_AUXILIARY}


class SmallCNN(nn.Module):
    """Six 3 × 3 convolutions in three stages, for images of 8 to about 64 pixels.

    Takes float32 `[N, 3, H, W]` with any H, W >= 4; returns logits `[N, classes]`.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(3, 32),
            *_block(32, 64),
            nn.MaxPool2d(2),
            *_block(64, 64),
            *_block(64, 128),
            nn.MaxPool2d(2),
            *_block(128, 128),
            *_block(128, 128),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(128, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits `[N, classes]`."""
        logits: torch.Tensor = self.head(torch.flatten(self.pool(self.features(images)), 1))
        return logits


def _block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    # No bias: batch normalisation would subtract it.
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)


def architectures() -> list[str]:
    """Return the names of all trainable networks."""
    models = import_torchvision().models
    return [SMALL_CNN, *models.list_models(module=models)]


def check_architecture(name: str) -> None:
    """Check that a network called `name` exists.

    Raises:
        DataError: it doesn't; the message suggests similar names.
    """
    if name == SMALL_CNN or name in architectures():
        return
    close = difflib.get_close_matches(name, architectures(), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else "give small_cnn or the name of a torchvision network"
    raise DataError(f"there is no classification network {name!r}: {hint}")


def build_network(name: str, *, classes: int, image_size: int) -> nn.Module:
    """Return a network with fresh weights from torch's generator; it maps normalised float32 `[N, 3, H, W]` to logits.

    Raises:
        DataError: the network can't take images of `image_size` pixels.
    """
    if name == SMALL_CNN:
        return SmallCNN(classes)
    options: dict[str, Any] = dict(_BUILD_OPTIONS.get(name, {}))
    if name.startswith("vit_"):
        options["image_size"] = image_size
    if name.startswith("maxvit_"):
        options["input_size"] = (image_size, image_size)
    try:
        network: nn.Module = import_torchvision().models.get_model(name, weights=None, num_classes=classes, **options)
    except (ValueError, RuntimeError, AssertionError) as error:
        raise _wrong_size(name, image_size, error) from error
    return network


def check_image_size(network: nn.Module, name: str, image_size: int) -> None:
    """Check that `network` can take images of this size, before an epoch is spent on it.

    Raises:
        DataError: they are too small, or not a multiple of the network's stride.
    """
    network.eval()
    try:
        with torch.inference_mode():
            network(torch.zeros(1, 3, image_size, image_size))
    except (ValueError, RuntimeError, AssertionError) as error:
        raise _wrong_size(name, image_size, error) from error


def _wrong_size(name: str, image_size: int, error: Exception) -> DataError:
    fact = str(error).partition("\n")[0] or "its layers don't fit"
    return DataError(f"{name} can't take images of {image_size} pixels ({fact}): choose another --image-size or --arch")


def pretrained_preprocessing(name: str) -> Preprocessing:
    """Return the preprocessing of torchvision's weights for `name`.

    Raises:
        DataError: torchvision has no weights for this network.
    """
    transforms = _default_weights(name).transforms()
    return Preprocessing(
        resize_size=transforms.resize_size[0],
        crop_size=transforms.crop_size[0],
        interpolation=transforms.interpolation.value,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )


def _default_weights(name: str) -> Any:
    weights = None if name == SMALL_CNN else import_torchvision().models.get_model_weights(name)
    if not weights:
        raise DataError(f"torchvision has no weights for {name}: leave out --weights, or give a file")
    return weights.DEFAULT


def load_weights(network: nn.Module, weights: str, name: str, *, classes: int, image_size: int) -> None:
    """Load `weights` into `network`, except a head for another number of classes.

    torch's `load_state_dict` does it, so names and versions of older files are converted as torchvision converts them.

    Args:
        network: from `build_network`, with the last three arguments.
        weights: `DEFAULT` for torchvision's best, or a file with a state dict.
        name: the network's architecture.
        classes: its number of logits.
        image_size: its input size.

    Raises:
        DataError: the weights can't be loaded, or belong to another network.
    """
    state = _download(name) if weights == "DEFAULT" else read_state_dict(Path(weights))
    state = as_expected_by(network, state)
    own = network.state_dict()
    other = [key for key, tensor in state.items() if key in own and tensor.shape != own[key].shape]
    if other:
        one_more = build_network(name, classes=classes + 1, image_size=image_size).state_dict()
        for key in other:
            if one_more[key].shape != own[key].shape:  # in the head, whose shape depends on the number of classes
                state[key] = own[key]
    try:
        missing, unexpected = network.load_state_dict(state, strict=False)
    except (RuntimeError, ValueError) as error:
        raise _unfit(weights, name, state, network, error) from error
    if missing or unexpected:
        odd = f"has no {min(missing)!r}" if missing else f"has {min(unexpected)!r}"
        raise DataError(
            f"the weights {weights} are not those of {name} (the file {odd}): give the --arch that they belong to"
        )


def _unfit(weights: str, name: str, state: StateDict, network: nn.Module, error: Exception) -> DataError:
    own = network.state_dict()
    for key, tensor in state.items():
        if key in own and tensor.shape != own[key].shape:
            return DataError(
                f"the weights {weights} don't fit {name}: {key!r} is {tuple(tensor.shape)} in the file and "
                f"{tuple(own[key].shape)} in the network; give the --arch and --image-size they were trained with"
            )
    return DataError(
        f"the weights {weights} don't fit {name} ({str(error).splitlines()[0]}): give the --arch and --image-size they "
        "were trained with"
    )


def _download(name: str) -> StateDict:
    weights = _default_weights(name)
    try:
        state: StateDict = weights.get_state_dict(progress=sys.stderr.isatty(), check_hash=True)
    except NOT_A_TORCH_FILE as error:
        if isinstance(error, RuntimeError) and "hash" in str(error):
            raise _no_download(name, weights, error) from error
        file = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
        raise DataError(f"torchvision's weights for {name} in {file} are damaged: delete the file") from error
    except OSError as error:  # a URLError is one
        raise _no_download(name, weights, error) from error
    return state


def _no_download(name: str, weights: Any, error: Exception) -> DataError:
    return DataError(
        f"torchvision's weights for {name} can't be downloaded ({error}): fetch {weights.url} elsewhere and give the "
        "file with --weights"
    )
