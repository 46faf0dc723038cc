"""A blob on its way in: continued, checked, and published only when it is whole."""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING

import pytest

from classifier.errors import DamagedArtifact, RegistryUnwritable
from registry.oci.layout import Layout
from registry.oci.manifest import describe
from registry.oci.receiving import DamagedInTransit

if TYPE_CHECKING:
    from pathlib import Path

DATA = b"graph" * 1000
BLOB = describe(DATA, "")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


def partials(layout: Layout) -> list[bytes]:
    """Return the contents of the files that a killed transfer left."""
    return [path.read_bytes() for path in layout.root.glob("blobs/sha256/.tandem-*.part")]


def receive(layout: Layout, *pieces: bytes, error: Exception | None = None) -> list[int]:
    """Receive `pieces`, then fail with `error`; return the reported progress."""
    counts: list[int] = []
    with layout.receiving(BLOB, counts.append) as partial:
        assert partial is not None
        for piece in pieces:
            partial.write(piece)
        if error is not None:
            raise error
    return counts


def test_a_broken_transfer_is_continued(layout: Layout) -> None:
    """The bytes received so far stay, count as progress, and are part of the digest."""
    with pytest.raises(RuntimeError):
        receive(layout, DATA[:3000], error=RuntimeError())
    assert not layout.has_blob(BLOB)
    assert receive(layout, DATA[3000:]) == [3000, 2000]
    assert layout.read_blob(BLOB) == DATA
    assert partials(layout) == []
    with layout.receiving(BLOB, lambda size: None) as partial:
        assert partial is None
    assert partials(layout) == []


@pytest.mark.parametrize("pieces", [(DATA, b"x"), (DATA[:-1], b"x"), (DATA[:-1],)], ids=["longer", "other", "shorter"])
def test_damage_is_discarded(layout: Layout, pieces: tuple[bytes, ...]) -> None:
    """What differs in size or digest gets no name, and isn't continued."""
    with pytest.raises(DamagedInTransit):
        receive(layout, *pieces)
    assert not layout.has_blob(BLOB)
    assert partials(layout) == [b""]
    receive(layout, DATA)
    assert layout.read_blob(BLOB) == DATA


def test_a_full_disk_keeps_no_partial_file(layout: Layout) -> None:
    """The file itself would fill the disk."""
    with pytest.raises(RegistryUnwritable, match="free some space"):
        receive(layout, DATA[:3000], error=OSError(errno.ENOSPC, "No space left on device"))
    assert partials(layout) == []


def test_another_process_that_receives_nothing_is_not_waited_for(layout: Layout) -> None:
    """After the patience the error names the file."""
    with layout.receiving(BLOB, lambda size: None) as partial:
        assert partial is not None
        with pytest.raises(RegistryUnwritable, match=r"another process holds .*\.part and received nothing for 0 s"):
            layout.receiving(BLOB, lambda size: None, patience_s=0.1).__enter__()
        partial.write(DATA)
    assert layout.read_blob(BLOB) == DATA


def test_a_planted_link_is_not_followed(layout: Layout, tmp_path: Path) -> None:
    """Who may write to a shared registry can't make a pull write to another file."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    partial = layout.blob_path(BLOB.digest).with_name(f".tandem-{BLOB.digest.removeprefix('sha256:')}.part")
    partial.parent.mkdir(parents=True)
    for target in (victim, tmp_path / "new", tmp_path):
        partial.symlink_to(target)
        with pytest.raises(
            RegistryUnwritable, match=r"\.part is a link or not a file, and may have been planted: remove"
        ):
            receive(layout, DATA)
        partial.unlink()
    os.mkfifo(partial)
    with pytest.raises(RegistryUnwritable, match="may have been planted"):
        receive(layout, DATA)
    partial.unlink()
    assert victim.read_bytes() == b"precious"
    assert not (tmp_path / "new").exists()
    receive(layout, DATA)
    (layout.root / ".tandem.lock").symlink_to(tmp_path / "new")
    with pytest.raises(RegistryUnwritable, match=r"\.tandem\.lock is a link"), layout.writing():
        pass
    assert not (tmp_path / "new").exists()


def test_a_hard_link_to_the_beginning_is_not_written(layout: Layout, tmp_path: Path) -> None:
    """A file with another name is left to it, and the download starts anew."""
    with pytest.raises(RuntimeError):
        receive(layout, DATA[:3000], error=RuntimeError())
    [partial] = layout.root.glob("blobs/sha256/.tandem-*.part")
    (tmp_path / "kept").hardlink_to(partial)
    assert receive(layout, DATA) == [0, 5000]
    assert (tmp_path / "kept").read_bytes() == DATA[:3000]
    assert layout.read_blob(BLOB) == DATA


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's file")
def test_the_beginning_of_another_user_is_not_trusted(layout: Layout) -> None:
    """Its owner could change it after it was checked."""
    with pytest.raises(RuntimeError):
        receive(layout, DATA[:3000], error=RuntimeError())
    [partial] = layout.root.glob("blobs/sha256/.tandem-*.part")
    os.chown(partial, 12345, 12345)
    assert receive(layout, DATA) == [0, 5000]
    assert layout.blob_path(BLOB.digest).stat().st_uid == 0


def test_a_blob_is_new_when_it_is_published(layout: Layout) -> None:
    """`models gc` keeps young blobs; a download that was complete before a kill counts from its publication."""
    with pytest.raises(RuntimeError):
        receive(layout, DATA, error=RuntimeError())
    [partial] = layout.root.glob("blobs/sha256/.tandem-*.part")
    os.utime(partial, (0, 0))
    assert receive(layout) == [5000]
    assert time.time() - layout.blob_path(BLOB.digest).stat().st_mtime < 60


def test_a_planted_pipe_is_not_waited_for(layout: Layout) -> None:
    """In place of a blob, it is damage like any other."""
    path = layout.blob_path(BLOB.digest)
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    with pytest.raises(DamagedArtifact, match="has 0 bytes instead of 5000"):
        layout.check_blob(BLOB)
    receive(layout, DATA)
    assert layout.read_blob(BLOB) == DATA
