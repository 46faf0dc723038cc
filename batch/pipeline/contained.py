"""Contained decoding: a dangerous image is decoded in a process of its own, with limits on memory and CPU time.

Most images are decoded by threads of the run. An image that may need much memory or time, judging by its header, goes
to a small process. It forks for each image and sets the limits in the fork, so every such image meets the same fresh
process and gets the same row in every run. CPU time does not depend on how busy the machine is.

An image that crashes its codec may be why a run was killed. So the next attempt decodes its first chunk contained, and
the image becomes a row.

The limits allow what `LIMITS` allows every road. An image whose process ended for no cause of the image's is decoded
again, with no other beside it.
"""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Self

import numpy as np

from batch.pipeline.forks import ForkingProcess, NoAnswer, Reply, Request
from classifier.errors import ImageError, ImageTooLarge, NotAnImage, UnreadableImage
from classifier.images import LIMITS, DecodedImage, Limits, decode_image

if TYPE_CHECKING:
    from types import TracebackType

    from classifier.types import Preprocessing

IMAGE_TIMEOUT_S = 10.0
"""More than twice the 4 s of the slowest image of 100 million pixels, a PNG with transparency."""

AT_ONCE = 2
"""Contained images decoded at a time, since their memory adds up."""

TRIES = 3
"""How often an image is decoded whose process ends for no cause of the image's. From the second time on, alone."""

RETRY_AFTER_S = 0.5

# Limits for threads of the run: 4 bytes a pixel, twice that if converted or turned, so up to 128 MiB.
_INLINE = Limits(max_pixels=16_000_000, max_resized_pixels=16_000_000)
_INLINE_WEBP = Limits(max_pixels=6_000_000, max_resized_pixels=16_000_000)  # up to 20 bytes a pixel
_INLINE_SLOW = Limits(max_pixels=4_000_000, max_resized_pixels=16_000_000)  # all scans of a JPEG; 12 Mpx/s of RLE

_ERRORS: dict[str, type[ImageError]] = {
    error.__name__: error for error in (ImageError, NotAnImage, ImageTooLarge, UnreadableImage)
}


class Decoder:
    """Decodes images as `decode_image` does, dangerous ones contained. Safe to call from several threads.

    Args:
        preprocessing: of the model.
        timeout_s: CPU seconds allowed for a contained image.
        suspects: number of images, from the first on, to decode contained in any case.
    """

    def __init__(self, preprocessing: Preprocessing, *, timeout_s: float = IMAGE_TIMEOUT_S, suspects: int = 0) -> None:
        self._preprocessing = preprocessing
        self._timeout_s = timeout_s
        self.suspects = suspects
        self._is_stopped = False
        self._taking = threading.Lock()
        self._workers: queue.LifoQueue[ForkingProcess | None] = queue.LifoQueue()
        for _ in range(AT_ONCE):
            self._workers.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for _ in range(AT_ONCE):
            if worker := self._workers.get():
                worker.close()

    def stop(self) -> None:
        """Stop loading: an ending run discards its read-ahead."""
        self._is_stopped = True

    def check_goes_on(self) -> None:
        """Check that `stop` was not called.

        Raises:
            CancelledError: it was.
        """
        if self._is_stopped:
            raise CancelledError

    def __call__(self, data: bytes) -> DecodedImage:
        """Return the pixels of an encoded image.

        Raises:
            ImageError: it can't be decoded, or not within the limits.
        """
        if self.suspects > 0:
            self.suspects -= 1  # threads may miscount by a few, which does no harm
            return self.contained(data)
        try:
            return decode_image(data, self._preprocessing, inline_limits(data))
        except ImageTooLarge:
            return self.contained(data)

    def contained(self, data: bytes) -> DecodedImage:
        """Return the pixels of an encoded image, decoded contained in any case.

        Raises:
            ImageError: it can't be decoded, or not within the limits.
        """
        if len(data) > LIMITS.max_bytes:
            return decode_image(data, self._preprocessing)  # raises the error
        request = Request(data=data, preprocessing=self._preprocessing, timeout_s=self._timeout_s)
        reply = self._ask_again(request)
        if reply.error:
            raise _ERRORS[reply.error](reply.message, reason=reply.reason)
        pixels = np.frombuffer(reply.pixels, dtype=np.uint8).reshape(reply.size, reply.size, 3).copy()
        return DecodedImage(pixels=pixels, width=reply.width, height=reply.height, format=reply.format)

    def _ask_again(self, request: Request) -> Reply:
        """Return the reply, of the first of a few processes that gives one."""
        for attempt in range(1, TRIES + 1):
            try:
                return self._ask(request, alone=attempt > 1)
            except NoAnswer as error:
                if attempt == TRIES:
                    raise UnreadableImage(
                        f"the process that decodes the image {error} at the last of {TRIES} tries: give the run more "
                        "memory, or fewer --decode-threads, and add --retry-failed",
                        reason="not_decoded",
                    ) from error
            time.sleep(RETRY_AFTER_S)
        raise AssertionError("the last try returns or raises")

    def _ask(self, request: Request, *, alone: bool) -> Reply:
        """Return a process's reply; if `alone`, while no other process decodes."""
        with self._taking:  # else two threads could each hold a process that the other one waits for
            worker, *others = [self._workers.get() for _ in range(AT_ONCE if alone else 1)]
        try:
            self.check_goes_on()  # the wait for a worker may have been long
            worker = worker or ForkingProcess()
            return worker.ask(request)
        finally:
            for each in (*others, None if worker and worker.has_ended else worker):
                self._workers.put(each)


def inline_limits(data: bytes) -> Limits:
    """Return the limits within which a thread of the run decodes the image."""
    if data.startswith(b"RIFF"):
        return _INLINE_WEBP
    is_rle_bitmap = data.startswith(b"BM") and data[30:31] in {b"\1", b"\2"}
    # SOF2 marks a progressive JPEG. Inside pixel data, 0xC2 never follows 0xFF.
    if is_rle_bitmap or (data.startswith(b"\xff\xd8") and b"\xff\xc2" in data):
        return _INLINE_SLOW
    return _INLINE
