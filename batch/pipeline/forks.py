"""The process that decodes dangerous images: it forks for each one, and sets the limits in the fork.

If the kernel kills a fork because memory has run out, that says nothing about its image.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from dataclasses import dataclass
from typing import IO, NoReturn

import msgspec

from batch.pipeline.processes import Process, pipes, receive, send
from classifier.errors import ImageError, ImageTooLarge
from classifier.images import LIMITS, decode_image
from classifier.types import Preprocessing  # noqa: TC001 # msgspec reads the annotations

MAX_MEMORY_BYTES = LIMITS.max_memory + 256 * 2**20
"""Address space allowed above the process's baseline: what an image within the limits can need, and what allocators
reserve beside it."""

_TOO_MUCH_MEMORY = "decoding the image needs more memory than allowed: shrink it"
_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGSYS, signal.SIGTRAP}
"""Signals that code sends to itself. Any other comes from outside."""


_KEPT = ("PATH", "PYTHON", "LD_", "DYLD_", "LANG", "LC_", "TZ", "TMPDIR", "VIRTUAL_ENV", "MALLOC_")
"""How the names of variables begin that the process inherits."""


class NoAnswer(Exception):
    """The process can't be started, or ended for no cause of the image's; the message says which: `was killed …`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """An encoded image, and how to decode it.

    Attributes:
        timeout_s: CPU time that decoding may take.
    """

    data: bytes
    preprocessing: Preprocessing
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
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


def _environment() -> dict[str, str]:
    """Return what Python and its libraries need to start, and no password: a codec that is broken into finds none."""
    return {name: value for name, value in os.environ.items() if name.startswith(_KEPT)}


class ForkingProcess(Process):
    """The child process, which forks for each image.

    Raises:
        NoAnswer: from the constructor, if it can't be started.
    """

    def __init__(self) -> None:
        try:
            super().__init__("batch.pipeline.forks", environment=_environment())
        except OSError as error:
            raise NoAnswer(f"can't be started ({error.strerror})") from error
        self.has_ended = False

    def ask(self, request: Request) -> Reply:
        """Return the reply.

        Raises:
            NoAnswer: the fork ended for no cause of the image's, or the process did: then `has_ended` is true.
        """
        try:
            self.send(msgspec.msgpack.encode(request))
            reply = msgspec.msgpack.decode(self.receive(), type=Reply)
        except (OSError, EOFError) as error:
            self.has_ended = True
            how = _describe_end(self.exit_code())
            self.close()
            raise NoAnswer(how) from error
        if reply.ended:
            raise NoAnswer(reply.ended)
        return reply


def serve(requests: IO[bytes], replies: IO[bytes]) -> None:
    """Answer requests, each in a fork, until the stream ends."""
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            message = receive(requests)
            try:
                reply = _decode_in_a_fork(message)
            except OSError as error:
                reply = msgspec.msgpack.encode(Reply(ended=f"can't be started ({error.strerror})"))
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
    request = msgspec.msgpack.decode(message, type=Request)
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
        reply = Reply(
            pixels=image.pixels.tobytes(),
            size=len(image.pixels),
            width=image.width,
            height=image.height,
            format=image.format,
        )
    except ImageError as error:
        reply = Reply(error=type(error).__name__, reason=error.reason, message=str(error))
    except MemoryError:
        reply = Reply(error="ImageTooLarge", reason=ImageTooLarge.reason, message=_TOO_MUCH_MEMORY)
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


def _explain_death(message: bytes, code: int) -> Reply:
    timeout_s = msgspec.msgpack.decode(message, type=Request).timeout_s
    if code == -signal.SIGPROF:
        what = f"decoding the image takes over {timeout_s:g} s of CPU time: re-encode it, or raise --image-timeout"
        return Reply(error="UnreadableImage", reason="timeout", message=what)
    if -code in _CRASHES:
        what = f"decoding the image crashes the codec ({signal.Signals(-code).name}): re-encode it"
        return Reply(error="UnreadableImage", reason="codec_crash", message=what)
    return Reply(ended=_describe_end(code))


def _describe_end(code: int | None) -> str:
    if code is None:
        return "gave no answer"
    return f"was killed (signal {-code})" if code < 0 else f"ended with exit code {code}"


if __name__ == "__main__":
    serve(*pipes())
