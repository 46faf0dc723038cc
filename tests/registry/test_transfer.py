"""Blobs in transfer: the largest first, several at once, and an end to all with the first failure."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from registry.oci.manifest import Descriptor
from registry.transfer import transfer_blobs

if TYPE_CHECKING:
    from classifier.progress import Advance

BLOBS = [Descriptor(media_type="", digest=f"sha256:{size}", size=size) for size in range(1, 20)]


def test_the_largest_go_first() -> None:
    """Each blob is transferred once."""
    sizes: list[int] = []
    transfer_blobs(lambda blob, advance: sizes.append(blob.size), BLOBS, "pulling digits")
    assert sorted(sizes) == list(range(1, 20))
    assert sizes[0] == 19
    transfer_blobs(lambda blob, advance: sizes.clear(), [], "pulling nothing")
    assert sizes


def test_the_first_failure_stops_the_others() -> None:
    """Running transfers end at their next piece, the rest never start, and the failure itself is raised."""
    failed = threading.Event()
    started: list[int] = []

    def transfer(blob: Descriptor, advance: Advance) -> None:
        started.append(blob.size)
        if blob.size == 19:
            failed.set()
            raise ConnectionError("broke")
        failed.wait(30)
        for _ in range(3000):
            advance(1)
            threading.Event().wait(0.01)

    with pytest.raises(ConnectionError, match="broke"):
        transfer_blobs(transfer, BLOBS, "pulling digits")
    assert len(started) < len(BLOBS)
