from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

import pytest
import torch

from classifier.errors import OutputError
from training.files import make_next_folder, replace_file

if TYPE_CHECKING:
    from pathlib import Path


class Interrupted:
    """A file whose third write fails: the user presses Ctrl-C, or the disk is full."""

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
    """The old file stays, no other file is left, and the cause is raised instead of torch's own error."""
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"before")

    def write() -> None:
        with replace_file(path) as file:
            torch.save({"weights": torch.zeros(1000)}, Interrupted(file, error))  # type: ignore[arg-type]

    with pytest.raises(raised):
        write()
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_readers_keep_the_file_they_opened(tmp_path: Path) -> None:
    """A checkpoint is replaced as a whole, so a reader never gets half of it."""
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"before")
    with path.open("rb") as reader:
        with replace_file(path) as file:
            file.write(b"after, and longer")
        assert reader.read() == b"before"
    assert path.read_bytes() == b"after, and longer"


def test_next_folder(tmp_path: Path) -> None:
    """It has the lowest free number."""
    made = [make_next_folder(tmp_path / "runs", "cats").name for _ in range(3)]
    assert made == ["cats-1", "cats-2", "cats-3"]
    (tmp_path / "runs" / "cats-2").rmdir()
    assert make_next_folder(tmp_path / "runs", "cats").name == "cats-2"
