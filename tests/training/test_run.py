from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from classifier.errors import DataError
from training.files import RECORD
from training.run import Run

if TYPE_CHECKING:
    from pathlib import Path


def test_network_is_ready_for_export(undisturbed: Run) -> None:
    """The network is in eval mode and fp32, on the CPU, and takes normalised images."""
    network = undisturbed.load_network()
    assert not network.training
    assert {(parameter.dtype, parameter.device.type) for parameter in network.parameters()} == {(torch.float32, "cpu")}
    assert network(torch.zeros(2, 3, 8, 8)).shape == (2, 4)


def test_run_without_an_epoch(undisturbed: Run, tmp_path: Path) -> None:
    """A run that was interrupted in its first epoch has no network yet."""
    (tmp_path / RECORD).write_bytes((undisturbed.path / RECORD).read_bytes())
    with pytest.raises(DataError, match="has no complete epoch yet"):
        Run.open(tmp_path).load_network()


def test_run_of_a_newer_tandem(undisturbed: Run, tmp_path: Path) -> None:
    """A record written by a later version is refused, not misread."""
    newer = (undisturbed.path / RECORD).read_text().replace('"schema_version": 1', '"schema_version": 2')
    (tmp_path / RECORD).write_text(newer)
    with pytest.raises(DataError, match="has schema version 2, this Tandem reads 1"):
        Run.open(tmp_path)
