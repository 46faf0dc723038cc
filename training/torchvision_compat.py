"""Importing torchvision even if its wheel was built for a different build of torch."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from types import ModuleType

# The compiled operators that torchvision's Python code refers to while it is imported.
_MISSING_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

_declared: list[torch.library.Library] = []


@cache
def import_torchvision() -> ModuleType:
    """Return the module `torchvision`, with `models` and `transforms.v2` imported.

    A CUDA wheel of torchvision beside a CPU build of torch can't load its compiled operators, and its import fails
    because `torchvision::nms` is missing. Networks and transforms don't use these operators, so declaring their
    signatures is enough. Functions that use them, such as `torchvision.ops.nms`, stay unusable.
    """
    try:
        return _import()
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # the failed import left them incomplete
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]  # torch's own
    for schema in _MISSING_OPERATORS:
        library.define(schema)  # type: ignore[no-untyped-call]  # likewise
    _declared.append(library)  # deleting the library would remove its declarations
    return _import()


def _import() -> ModuleType:
    import_module("torchvision.models")
    import_module("torchvision.transforms.v2")
    return import_module("torchvision")
