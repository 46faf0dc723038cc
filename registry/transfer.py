"""Blobs in transfer, several at once, with one progress display: shared by pull and push."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING

from classifier.progress import show_progress
from registry.remote.connection import CONNECTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from classifier.progress import Advance
    from registry.oci.manifest import Descriptor


def transfer_blobs(transfer: Callable[[Descriptor, Advance], None], blobs: Sequence[Descriptor], title: str) -> None:
    """Call `transfer` for all blobs, several at once; raise the first failure, which stops the others.

    Args:
        transfer: moves one blob and reports each number of bytes moved.
        blobs: what to move.
        title: names the work in the progress display.
    """
    if not blobs:
        return
    stop = threading.Event()
    with show_progress(sum(blob.size for blob in blobs), title=title, unit="bytes") as show:

        def advance(size: int) -> None:
            if stop.is_set():
                raise _Stopped
            show(size)

        with ThreadPoolExecutor(CONNECTIONS) as threads:
            # The largest first: the small ones fit beside them.
            order = sorted(blobs, key=lambda blob: -blob.size)
            try:
                for done in as_completed([threads.submit(transfer, blob, advance) for blob in order]):
                    done.result()
            except BaseException:
                stop.set()
                threads.shutdown(cancel_futures=True)
                raise


class _Stopped(Exception):
    """Another blob failed, or the user interrupted."""
