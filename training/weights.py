"""State dicts from files, and the names and versions by which torch converts those of older networks."""

from __future__ import annotations

import argparse
import re
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import torch

from classifier.errors import DataError
from training.files import NOT_A_TORCH_FILE

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    StateDict = OrderedDict[str, torch.Tensor]

_AUXILIARY_PREFIXES = ("aux1.", "aux2.", "AuxLogits.")
_WRAPPERS = ("state_dict", "model_state_dict", "model", "network")
"""Names under which training scripts save a state dict beside other things; the last is Tandem's."""

_COUNT_OF_AVERAGES = "n_averaged"  # of `torch.optim.swa_utils.AveragedModel`

# From torchvision's densenet.py: module names may hold no dots any more, but the published files have them.
_DENSENET_NAMES = re.compile(
    r"^(.*denselayer\d+\.(?:norm|relu|conv))\.((?:[12])\.(?:weight|bias|running_mean|running_var))$"
)


def load_own(network: nn.Module, state: StateDict) -> None:
    """Load a state dict that this network's architecture gave; older runs saved it without the versions."""
    network.load_state_dict(with_versions(state, network.state_dict()))


def with_versions(state: dict[str, torch.Tensor], source: dict[str, torch.Tensor]) -> StateDict:
    """Return `state` with the versions of the modules of `source`, by which torch recognises older names and shapes."""
    versioned = OrderedDict(state)
    metadata = getattr(state, "_metadata", None) or getattr(source, "_metadata", None)
    versioned._metadata = metadata  # type: ignore[attr-defined]  # so torch does it
    return versioned


def as_expected_by(network: nn.Module, state: StateDict) -> StateDict:
    """Return `state` with the names and versions that `network.load_state_dict` understands.

    Prefixes of other trainers are taken off, and the auxiliary heads left out, which Tandem doesn't train.
    """
    own: Any = network.state_dict()
    metadata = dict(getattr(state, "_metadata", None) or {})
    while prefix := _foreign_prefix(state, own):
        state = OrderedDict((key.removeprefix(prefix), tensor) for key, tensor in state.items())
        metadata = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)} | {
            "": metadata.get(prefix.rstrip("."), {})
        }
    renamed = OrderedDict(
        (_DENSENET_NAMES.sub(r"\1\2", key), tensor)
        for key, tensor in state.items()
        if not key.startswith(_AUXILIARY_PREFIXES)
    )
    # A file without versions: torch then expects old names in its modules, and mnasnet needs one for the whole.
    if not metadata.get(""):
        metadata[""] = own._metadata[""]
    renamed._metadata = OrderedDict(metadata)  # type: ignore[attr-defined]
    return renamed


def _foreign_prefix(state: StateDict, own: dict[str, torch.Tensor]) -> str | None:
    """Return what stands before every name, such as `module.` or `_orig_mod.`, but not in the network's own names."""
    prefixes = {key.partition(".")[0] + "." for key in state}
    if len(prefixes) != 1 or all(key.startswith(prefix := min(prefixes)) for key in own):
        return None
    return prefix if all("." in key for key in state) else None


def read_state_dict(file: Path) -> StateDict:
    """Return the state dict in `file`, which may hold other things beside it, as a training script's checkpoint does.

    Raises:
        DataError: the file is missing, or holds none.
    """
    try:
        # weights_only, because unpickling can run any code. A Namespace, the options of many training scripts, can't.
        with torch.serialization.safe_globals([argparse.Namespace]):
            saved = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DataError(
            f"there is no weights file {file}: give a file, or DEFAULT for torchvision's weights"
        ) from error
    except OSError as error:
        raise DataError(f"the weights file {file} can't be read ({error.strerror}): check its permissions") from error
    except NOT_A_TORCH_FILE as error:
        raise DataError(
            f"{file} is not a weights file: save a state dict with torch.save(network.state_dict(), …)"
        ) from error
    state = _unwrap(saved)
    if state is None:
        raise DataError(f"{file} does not hold a state dict: save one with torch.save(network.state_dict(), …)")
    return state


def _unwrap(saved: object) -> StateDict | None:
    """Return the state dict that `saved` is or holds; None if there is none."""
    for name in _WRAPPERS:
        if isinstance(saved, dict) and isinstance(saved.get(name), dict):
            saved = saved[name]
    if not isinstance(saved, dict) or not saved:
        return None
    if not all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in saved.items()):
        return None
    state = OrderedDict((key, tensor) for key, tensor in saved.items() if key != _COUNT_OF_AVERAGES)
    state._metadata = getattr(saved, "_metadata", None)  # type: ignore[attr-defined]
    return state
