"""Contained decoding: a dangerous image is decoded in a process of its own, with limits on memory and CPU time.

Most images are decoded by threads of the run. An image that may need much memory or time, judging by its header, goes
to a small process. It forks for each image and sets the limits in the fork, so every such image meets the same fresh
process and gets the same row in every run. CPU time does not depend on how busy the machine is.

An image that crashes its codec may be why a run was killed. So the next attempt decodes its first chunk contained, and
the image becomes a row.
"""

from __future__ import annotations

import contextlib
import os
import queue
import resource
import signal
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

MAX_MEMORY_BYTES = 960 * 2**20
"""Memory allowed above the process's baseline. An upright JPEG of 100 million pixels takes half of it."""

IMAGE_TIMEOUT_S = 10.0
"""More than twice the 4 s of the slowest image of 100 million pixels, a PNG with transparency."""

AT_ONCE = 2
"""Contained images decoded at a time, since their memory adds up."""

# Limits for threads of the run: 4 bytes a pixel, twice that if converted or turned, so up to 128 MiB.
_INLINE = Limits(max_pixels=16_000_000, max_resized_pixels=16_000_000)
_INLINE_WEBP = Limits(max_pixels=6_000_000, max_resized_pixels=16_000_000)  # up to 20 bytes a pixel
_INLINE_SLOW = Limits(max_pixels=4_000_000, max_resized_pixels=16_000_000)  # all scans of a JPEG; 12 Mpx/s of RLE

_ERRORS: dict[str, type[ImageError]] = {
    error.__name__: error for error in (ImageError, NotAnImage, ImageTooLarge, UnreadableImage)
}
_TOO_MUCH_MEMORY = "decoding the image needs more memory than allowed: shrink it"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    data: bytes
    preprocessing: Preprocessing
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reply:
    """A decoded image; or an error, if `error` names its class."""

    pixels: bytes = b""
    size: int = 0
    width: int = 0
    height: int = 0
    format: str = ""
    error: str = ""
    reason: str = ""
    message: str = ""


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
        worker = self._workers.get()
        try:
            self.check_goes_on()  # the wait for a worker may have been long
            worker = worker or _Worker()
            reply = worker.ask(request)
        except (OSError, EOFError) as error:
            # The process itself died, not its fork: the kernel does that when memory runs out.
            if worker:
                worker.close()
            worker = None
            raise ImageTooLarge(_TOO_MUCH_MEMORY) from error
        finally:
            self._workers.put(worker)
        if reply.error:
            raise _ERRORS[reply.error](reply.message, reason=reply.reason)
        pixels = np.frombuffer(reply.pixels, dtype=np.uint8).reshape(reply.size, reply.size, 3).copy()
        return DecodedImage(pixels=pixels, width=reply.width, height=reply.height, format=reply.format)


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


def serve(requests: IO[bytes], replies: IO[bytes]) -> None:
    """Answer requests, each in a fork, until the stream ends."""
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            message = receive(requests)
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(reading)
                _answer(message, writing)
            os.close(writing)
            with open(reading, "rb") as pipe:  # noqa: PTH123 # a descriptor
                reply = pipe.read()
            _, status = os.waitpid(child, 0)
            code = os.waitstatus_to_exitcode(status)
            send(replies, reply if code == 0 else msgspec.msgpack.encode(_explain_death(message, code)))


def _answer(message: bytes, writing: int) -> NoReturn:
    """Write the reply into a pipe and end the process, unless the limits end it first."""
    request = msgspec.msgpack.decode(message, type=_Request)
    memory = (_address_space_bytes() or resource.RLIM_INFINITY - MAX_MEMORY_BYTES) + MAX_MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
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
    if code == -signal.SIGKILL or code > 0:
        return _Reply(error="ImageTooLarge", reason=ImageTooLarge.reason, message=_TOO_MUCH_MEMORY)
    what = f"decoding the image crashes the codec ({signal.Signals(-code).name}): re-encode it"
    return _Reply(error="UnreadableImage", reason="codec_crash", message=what)


if __name__ == "__main__":
    serve(*pipes())
