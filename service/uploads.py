"""A request's body → the image and the options in it, without buffering more than is accepted."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from classifier.errors import ImageTooLarge
from classifier.images import LIMITS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

    from starlette.datastructures import FormData
    from starlette.requests import Request

DEFAULT_TOP_K = 5
MAX_BODY_BYTES = LIMITS.max_bytes + 64 * 2**10
"""An image with the boundaries and headers that a multipart form puts around it."""
MAX_BUFFERED_BYTES = 512 * 2**20
"""Of all bodies that are being read, waiting or classified at one time."""


class BadRequest(Exception):
    """A request that says no image and options.

    Attributes:
        status: of HTTP.
        reason: the kind of failure in one word, stable across releases.
    """

    def __init__(self, message: str, *, reason: str, status: int = 400) -> None:
        super().__init__(message)
        self.reason = reason
        self.status = status


class Overloaded(Exception):
    """A request that came when too many others did."""


class Buffer:
    """The bodies that the service holds, all requests together."""

    def __init__(self) -> None:
        self._held = 0

    @contextmanager
    def body(self) -> Iterator[Callable[[int], None]]:
        """Yield what makes room for so many more bytes of one body; the end of the block gives all of them back.

        Raises:
            Overloaded: there is no room.
        """
        held = 0

        def make_room(size: int) -> None:
            nonlocal held
            if self._held + size > MAX_BUFFERED_BYTES:
                raise Overloaded("the images that others are sending fill the service's memory; try again")
            self._held += size
            held += size

        try:
            yield make_room
        finally:
            self._held -= held


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """What a client asks to have classified."""

    image: bytes
    top_k: int


async def read_upload(request: Request, make_room: Callable[[int], None]) -> Upload:
    """Return the image and the options that `request` brings, for whose bytes `make_room` is called as they come.

    A multipart form has the image in its field `image`; any other body is the image itself, whatever its Content-Type
    claims: the bytes decide.

    Raises:
        BadRequest: the form is malformed, has no image or several, or `top_k` is no number of labels.
        ImageTooLarge: the body is larger than any accepted image. What follows of it is not read.
    """
    top_k: UploadFile | str | None = request.query_params.get("top_k")
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        form = await _read_form(request, make_room)
        image = await _image_of(form)
        top_k = form.get("top_k", top_k)
    else:
        image = b"".join([chunk async for chunk in _bounded_stream(request, make_room)])
    return Upload(image=image, top_k=_parse_top_k(top_k))


class _InMemoryParser(MultiPartParser):
    # The body is bounded; a temporary file would only add a disk to what can fail.
    spool_max_size = MAX_BODY_BYTES


async def _read_form(request: Request, make_room: Callable[[int], None]) -> FormData:
    try:
        return await _InMemoryParser(request.headers, _bounded_stream(request, make_room)).parse()
    except MultiPartException as error:
        raise BadRequest(f"the multipart form can't be read: {error.message}", reason="malformed_form") from error


async def _image_of(form: FormData) -> bytes:
    images = form.getlist("image")
    if len(images) > 1:
        raise BadRequest(f"the form has {len(images)} fields 'image'; send one image", reason="several_images")
    if not images:
        raise BadRequest("the form has no field 'image'; send the image as a file of that name", reason="no_image")
    if not isinstance(images[0], UploadFile):
        raise BadRequest("the field 'image' is text; send it as a file (curl -F image=@FILE)", reason="no_image")
    return await images[0].read()


async def _bounded_stream(request: Request, make_room: Callable[[int], None]) -> AsyncGenerator[bytes, None]:
    """Yield the body in pieces, until it is larger than any accepted image."""
    declared = request.headers.get("content-length", "0")
    received = 0
    if declared.isdecimal() and int(declared) > MAX_BODY_BYTES:
        raise _too_large()
    async for chunk in request.stream():
        received += len(chunk)
        if received > MAX_BODY_BYTES:
            raise _too_large()
        make_room(len(chunk))
        yield chunk


def _too_large() -> ImageTooLarge:
    return ImageTooLarge(f"the body is larger than an image may be: {LIMITS.max_bytes:,} bytes")


def _parse_top_k(value: UploadFile | str | None) -> int:
    if value is None:
        return DEFAULT_TOP_K
    # isdecimal: int() takes '1_0', ' 7' and '+7' as well. 4300 digits are the most that it reads.
    top_k = int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 100 else 0
    if top_k < 1:
        raise BadRequest("top_k is the number of labels to answer, 1 or more", reason="bad_top_k", status=422)
    return top_k
