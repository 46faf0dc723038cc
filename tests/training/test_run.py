from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

import pytest
import torch

from classifier.errors import DataError, OutputError
from training.files import RECORD, make_next_folder, replace_file
from training.metrics import EpochMetrics, best_epoch
from training.optimizer import lr_factor
from training.run import Run

if TYPE_CHECKING:
    from pathlib import Path


def metrics(epoch: int, val_acc1: float, val_loss: float) -> EpochMetrics:
    return EpochMetrics(
        epoch=epoch, loss=1, acc1=0.5, val_loss=val_loss, val_acc1=val_acc1, lr=0.1, images_per_s=1, elapsed_s=1
    )


def test_best_epoch() -> None:
    """The highest acc1 wins; of equal ones the lowest loss; of equal ones the first."""
    history = [metrics(1, 0.8, 0.1), metrics(2, 0.9, 0.5), metrics(3, 0.9, 0.4), metrics(4, 0.9, 0.4)]
    assert best_epoch(history).epoch == 3


def test_learning_rate() -> None:
    """It rises in equal steps to its full value in a tenth of the steps, then falls to almost nothing."""
    factors = [lr_factor(step, 100) for step in range(100)]
    assert factors[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[10] == 1
    assert 0 < factors[-1] < 0.001


def test_network_is_ready_for_export(undisturbed: Run) -> None:
    """The network comes in eval mode, fp32, on the CPU, and takes normalised images."""
    network = undisturbed.load_network()
    assert not network.training
    assert {(parameter.dtype, parameter.device.type) for parameter in network.parameters()} == {(torch.float32, "cpu")}
    assert network(torch.zeros(2, 3, 8, 8)).shape == (2, 4)


def test_run_without_an_epoch(undisturbed: Run, tmp_path: Path) -> None:
    """A run that was interrupted before its first epoch ended has no network yet."""
    (tmp_path / RECORD).write_bytes((undisturbed.path / RECORD).read_bytes())
    with pytest.raises(DataError, match="has no complete epoch yet"):
        Run.open(tmp_path).load_network()


def test_run_of_a_newer_tandem(undisturbed: Run, tmp_path: Path) -> None:
    """A record that a later version wrote is refused, not misread."""
    newer = (undisturbed.path / RECORD).read_text().replace('"schema_version": 1', '"schema_version": 2')
    (tmp_path / RECORD).write_text(newer)
    with pytest.raises(DataError, match="has schema version 2, this Tandem reads 1"):
        Run.open(tmp_path)


class Interrupted:
    """A file during whose third write somebody presses Ctrl-C, or the disk fills up."""

    def __init__(self, file: BinaryIO, error: BaseException) -> None:
        self.file, self.error, self.writes = file, error, 0

    def write(self, data: bytes) -> int:
        self.writes += 1
        if self.writes == 3:
            raise self.error
        return self.file.write(data)


@pytest.mark.parametrize(
    ("error", "raised"),
    [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, "No space left on device"), OutputError)],
)
def test_interrupted_write(tmp_path: Path, error: BaseException, raised: type[BaseException]) -> None:
    """What was there stays, nothing else is left, and the reason comes through torch's own error."""
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"before")

    def write() -> None:
        with replace_file(path) as file:
            torch.save({"weights": torch.zeros(1000)}, Interrupted(file, error))  # type: ignore[arg-type]

    with pytest.raises(raised):
        write()
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_whoever_reads_keeps_what_he_opened(tmp_path: Path) -> None:
    """A checkpoint is replaced as a whole: there is no moment at which a reader gets half of it."""
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"before")
    with path.open("rb") as reader:
        with replace_file(path) as file:
            file.write(b"after, and longer")
        assert reader.read() == b"before"
    assert path.read_bytes() == b"after, and longer"


def test_next_folder(tmp_path: Path) -> None:
    """The lowest number that is free."""
    made = [make_next_folder(tmp_path / "runs", "cats").name for _ in range(3)]
    assert made == ["cats-1", "cats-2", "cats-3"]
    (tmp_path / "runs" / "cats-2").rmdir()
    assert make_next_folder(tmp_path / "runs", "cats").name == "cats-2"
