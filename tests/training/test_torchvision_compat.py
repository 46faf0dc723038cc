from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from training import torchvision_compat

SCRIPT = """
from training.torchvision_compat import import_torchvision
torchvision = import_torchvision()
import torchvision as again, torch
assert again is torchvision
assert len(torchvision.models.list_models(module=torchvision.models)) >= 80
torchvision.models.resnet18()(torch.zeros(2, 3, 32, 32))
torchvision.transforms.v2.RandomResizedCrop(8)(torch.zeros(3, 16, 16))
"""


def test_networks_and_transforms_work_beside_any_torch() -> None:
    """In a new process, with the installed torch and torchvision, matching or not."""
    subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, check=True)


def test_other_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the one known mismatch is worked around."""

    def broken() -> None:
        raise RuntimeError("libtorch is damaged")

    monkeypatch.setattr(torchvision_compat, "_import", broken)
    with pytest.raises(RuntimeError, match="libtorch is damaged"):
        torchvision_compat.import_torchvision.__wrapped__()
