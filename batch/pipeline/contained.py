"""Contained decoding: a dangerous image is decoded in a process of its own, with limits on memory and CPU time.

Most images are decoded by threads of the run. An image that may need much memory or time, judging by its header, goes
to a small process. It forks for each image and sets the limits in the fork, so every such image meets the same fresh
process and gets the same row in every run. CPU time does not depend on how busy the machine is.

An image that crashes its codec may be why a run was killed. So the next attempt decodes its first chunk contained, and
the image becomes a row.

The limits allow what `LIMITS` allows every road. A process that ended for no cause of the image's, as when the kernel
kills it for want of memory, says nothing about the image: it is decoded again, with no other beside it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import resource
import signal
import threading
import time
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, NoReturn, Self

import msgspec
import numpy as np

from batch.pipeline.processes import Process, pipes, receive, send
from classifier.errors import ImageError, ImageTooLarge, NotAnImage, UnreadableImage
from classifier.images import LIMITS, DecodedImage, Limits, decode_image
from classifier.types import Preprocessing  # noqa: TC001 # msgspec reads the annotations

if TYPE_CHECKING:
    from types import TracebackType

log = logging.getLogger(__name__)

MAX_MEMORY_BYTES = LIMITS.max_memory + 256 * 2**20
"""Address space allowed above the process's baseline: what an image within the limits can need, and what allocators
reserve beside it."""

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
_TOO_MUCH_MEMORY = "decoding the image needs more memory than allowed: shrink it"
_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGSYS, signal.SIGTRAP}
"""Signals that code sends to itself. Any other comes from outside."""


class _NoAnswer(Exception):
    """The process can't be started, or ended for no cause of the image's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    data: bytes
    preprocessing: Preprocessing
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reply:
    """A decoded image; or an error, if `error` names its class; or how the process ended, if that says nothing."""

    pixels: bytes = b""
    size: int = 0
    width: int = 0
    height: int = 0
    format: str = ""
    error: str = ""
    reason: str = ""
    message: str = ""
    ended: str = ""


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
        self._workers: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
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
        request = _Request(data=data, preprocessing=self._preprocessing, timeout_s=self._timeout_s)
        reply = self._ask_again(request)
        if reply.error:
            raise _ERRORS[reply.error](reply.message, reason=reply.reason)
        pixels = np.frombuffer(reply.pixels, dtype=np.uint8).reshape(reply.size, reply.size, 3).copy()
        return DecodedImage(pixels=pixels, width=reply.width, height=reply.height, format=reply.format)

    def _ask_again(self, request: _Request) -> _Reply:
        """Return the reply, of the first of a few processes that gives one."""
        try:
            return self._ask(request, alone=False)
        except _NoAnswer as error:
            log.info("decoding an image again: its process %s", error)
        for attempt in range(2, TRIES + 1):
            time.sleep(RETRY_AFTER_S)
            try:
                return self._ask(request, alone=True)
            except _NoAnswer as error:
                if attempt == TRIES:
                    raise UnreadableImage(
                        f"the process that decodes the image {error}, at {TRIES} tries: give the run more memory, or "
                        "fewer --decode-threads, and add --retry-failed",
                        reason="not_decoded",
                    ) from error
        raise AssertionError("the last try returns or raises")

    def _ask(self, request: _Request, *, alone: bool) -> _Reply:
        """Return a process's reply; if `alone`, while no other process decodes."""
        with self._taking:  # else two threads could each hold a process that the other one waits for
            worker, *others = [self._workers.get() for _ in range(AT_ONCE if alone else 1)]
        try:
            self.check_goes_on()  # the wait for a worker may have been long
            worker = worker or _start_worker()
            reply = worker.ask(request)
        except (OSError, EOFError) as error:
            if worker:
                worker.close()
            worker = None
            raise _NoAnswer("was killed") from error
        finally:
            for each in (*others, worker):
                self._workers.put(each)
        if reply.ended:
            raise _NoAnswer(reply.ended)
        return reply


def inline_limits(data: bytes) -> Limits:
    """Return the limits within which a thread of the run decodes the image."""
    if data.startswith(b"RIFF"):
        return _INLINE_WEBP
    is_rle_bitmap = data.startswith(b"BM") and data[30:31] in {b"\1", b"\2"}
    # SOF2 marks a progressive JPEG. Inside pixel data, 0xC2 never follows 0xFF.
    if is_rle_bitmap or (data.startswith(b"\xff\xd8") and b"\xff\xc2" in data):
        return _INLINE_SLOW
    return _INLINE


class _Worker(Process):
    """The child process, which forks for each image."""

    def __init__(self) -> None:
        super().__init__("batch.pipeline.contained")

    def ask(self, request: _Request) -> _Reply:
        """Return the reply.

        Raises:
            OSError, EOFError: the process has ended.
        """
        self.send(msgspec.msgpack.encode(request))
        return msgspec.msgpack.decode(self.receive(), type=_Reply)


def _start_worker() -> _Worker:
    try:
        return _Worker()
    except OSError as error:
        raise _NoAnswer(f"can't be started ({error.strerror})") from error


def serve(requests: IO[bytes], replies: IO[bytes]) -> None:
    """Answer requests, each in a fork, until the stream ends."""
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            message = receive(requests)
            try:
                reply = _decode_in_a_fork(message)
            except OSError as error:
                reply = msgspec.msgpack.encode(_Reply(ended=f"can't be started ({error.strerror})"))
            send(replies, reply)


def _decode_in_a_fork(message: bytes) -> bytes:
    reading, writing = os.pipe()
    with open(reading, "rb") as pipe:  # noqa: PTH123 # a descriptor
        try:
            child = os.fork()
            if child == 0:
                pipe.close()
                try:
                    _answer(message, writing)
                finally:
                    os._exit(1)  # the loop of `serve` belongs to the parent
        finally:
            os.close(writing)
        reply = pipe.read()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return reply if code == 0 else msgspec.msgpack.encode(_explain_death(message, code))


def _answer(message: bytes, writing: int) -> NoReturn:
    """Write the reply into a pipe and end the process, unless the limits end it first."""
    request = msgspec.msgpack.decode(message, type=_Request)
    if now := _address_space_bytes():
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        memory = now + MAX_MEMORY_BYTES if most == resource.RLIM_INFINITY else min(now + MAX_MEMORY_BYTES, most)
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write("1000")  # if memory runs out, the kernel kills this process, not the run
    signal.setitimer(signal.ITIMER_PROF, request.timeout_s)  # SIGPROF ends the process by default
    try:
        image = decode_image(request.data, request.preprocessing)
        reply = _Reply(
            pixels=image.pixels.tobytes(),
            size=len(image.pixels),
            width=image.width,
            height=image.height,
            format=image.format,
        )
    except ImageError as error:
        reply = _Reply(error=type(error).__name__, reason=error.reason, message=str(error))
    except MemoryError:
        reply = _Reply(error="ImageTooLarge", reason=ImageTooLarge.reason, message=_TOO_MUCH_MEMORY)
    with open(writing, "wb") as pipe:  # a descriptor
        pipe.write(msgspec.msgpack.encode(reply))
    os._exit(0)  # at once: open files and buffers belong to the parent


def _address_space_bytes() -> int:
    """Return the size of this process's address space; 0 if the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def _explain_death(message: bytes, code: int) -> _Reply:
    timeout_s = msgspec.msgpack.decode(message, type=_Request).timeout_s
    if code == -signal.SIGPROF:
        what = f"decoding the image takes over {timeout_s:g} s of CPU time: re-encode it, or raise --image-timeout"
        return _Reply(error="UnreadableImage", reason="timeout", message=what)
    if -code in _CRASHES:
        what = f"decoding the image crashes the codec ({signal.Signals(-code).name}): re-encode it"
        return _Reply(error="UnreadableImage", reason="codec_crash", message=what)
    return _Reply(ended=f"was killed (signal {-code})" if code < 0 else f"ended with exit code {code}")


if __name__ == "__main__":
    serve(*pipes())
