"""A blob on its way in: continued, checked, and published only when it is whole."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from classifier.errors import RegistryUnwritable
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
