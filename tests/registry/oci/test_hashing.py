"""Hashing beside a transfer, and files that are checked while they are read."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING

import pytest

from classifier.errors import DamagedArtifact
from registry.oci.hashing import BackgroundHash, open_checked
from registry.oci.manifest import describe

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

DATA = bytes(range(256)) * 10_000


def test_pieces_have_the_digest_of_the_whole() -> None:
    """However the bytes are cut, also with a digest taken in between; no thread is left."""
    before = threading.active_count()
    whole = BackgroundHash()
    for start in range(0, len(DATA), 100_001):
        whole.update(DATA[start : start + 100_001])
        whole.digest()
    assert whole.digest() == f"sha256:{hashlib.sha256(DATA).hexdigest()}"
    assert threading.active_count() == before
    assert BackgroundHash().digest() == f"sha256:{hashlib.sha256().hexdigest()}"


@pytest.mark.parametrize("on_disk", [DATA[:-1] + b"x", DATA[:-1], DATA + b"x"], ids=["changed", "shorter", "longer"])
def test_a_damaged_file_never_arrives_whole(tmp_path: Path, on_disk: bytes) -> None:
    """Reading ends in an error before the last piece."""
    (tmp_path / "blob").write_bytes(on_disk)
    arrived: list[bytes] = []

    def read_to_the_end(file: BinaryIO) -> None:
        while piece := file.read(1 << 20):
            arrived.append(piece)

    file = open_checked(tmp_path / "blob", describe(DATA, ""), lambda size: None, DamagedArtifact)
    with file, pytest.raises(DamagedArtifact, match="not what its digest says"):
        read_to_the_end(file)
    assert sum(map(len, arrived)) < len(DATA)


def test_a_whole_file_is_read_and_counted(tmp_path: Path) -> None:
    """Progress adds up to the size of the file."""
    (tmp_path / "blob").write_bytes(DATA)
    counts: list[int] = []
    with open_checked(tmp_path / "blob", describe(DATA, ""), counts.append, DamagedArtifact) as file:
        assert file.read() == DATA
    assert sum(counts) == len(DATA)


def test_a_missing_file_is_damage(tmp_path: Path) -> None:
    """The model's own error is raised, with the path and the reason."""
    with pytest.raises(DamagedArtifact, match=r"absent can't be read \(No such file or directory\)"):
        open_checked(tmp_path / "absent", describe(DATA, ""), lambda size: None, DamagedArtifact)


def test_a_file_that_can_t_be_read_is_damage(tmp_path: Path) -> None:
    """On a failing disk, say: the reason is in the sentence, and nobody takes it for the target's."""
    # Reading the first byte of a process's memory is an I/O error.
    (tmp_path / "blob").symlink_to("/proc/self/mem")
    file = open_checked(tmp_path / "blob", describe(DATA, ""), lambda size: None, DamagedArtifact)
    with file, pytest.raises(DamagedArtifact, match=r"blob can't be read \(Input/output error\)"):
        file.read()
