"""torchvision, also where its wheel was built for another torch than the one that is installed."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from types import ModuleType

# Of the operators that torchvision's compiled half brings, those that its Python half names while it is imported.
_MISSING_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

_declared: list[torch.library.Library] = []


@cache
def import_torchvision() -> ModuleType:
    """Return the module `torchvision`, with `models` and `transforms.v2` imported.

    A torchvision wheel for CUDA beside a torch for the CPU can't load its compiled operators, and its import then
    fails for want of `torchvision::nms`. Networks and transforms need none of them: declaring their signatures is
    enough. What does need them, such as `torchvision.ops.nms`, stays unusable.
    """
    try:
        return _import()
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # They are half imported.
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]  # torch's own
    for schema in _MISSING_OPERATORS:
        library.define(schema)  # type: ignore[no-untyped-call]  # likewise
    _declared.append(library)  # The declarations end with the object that made them.
    return _import()


def _import() -> ModuleType:
    import_module("torchvision.models")
    import_module("torchvision.transforms.v2")
    return import_module("torchvision")
