"""Read the image and the options from a request's body, a multipart form or the image itself, within the limits."""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from classifier.answers import DEFAULT_TOP_K
from classifier.errors import ImageError, ImageTooLarge
from service import limits
from service.edge.refusals import BadRequest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from starlette.datastructures import FormData
    from starlette.requests import Request

_MAX_DIGITS = 99


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """The image that a client sent, and how many labels it asked for."""

    image: bytes
    top_k: int


async def read_upload(request: Request, reserve: Callable[[int], None]) -> Upload:
    """Return the image and the options in `request`. Calls `reserve` with the size of each chunk that arrives.

    A multipart form has the image in its field `image`. Any other body is the image itself: the bytes decide, whatever
    the Content-Type says.

    Raises:
        BadRequest: the form is malformed, or has no image or several; or `top_k` is not a number of labels.
        ImageTooLarge: the body is larger than any accepted image. The rest of it is not read.
    """
    top_k = parse_top_k(request.query_params.get("top_k"))
    if is_form(request):
        form = await read_form(request, reserve)
        image = await _image_of(form)
        top_k = parse_top_k(await text_of(form.get("top_k", str(top_k))))
    else:
        image = b"".join([chunk async for chunk in bounded_stream(request, reserve)])
    return Upload(image=image, top_k=top_k)


class _InMemoryParser(MultiPartParser):
    # Keep files in memory, whatever their size: the body's is limited, and a temporary file could fail on a full disk.
    spool_max_size = 0


def is_form(request: Request) -> bool:
    """Return whether the body says that it is a multipart form."""
    return request.headers.get("content-type", "").lower().startswith("multipart/form-data")


async def read_form(request: Request, reserve: Callable[[int], None]) -> FormData:
    """Return the form in `request`, kept in memory. Raises as `read_upload`."""
    try:
        return await _InMemoryParser(request.headers, bounded_stream(request, reserve)).parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise too_many_images() from error
        raise BadRequest(f"the multipart form can't be read: {error.message}", reason="malformed_form") from error


async def _image_of(form: FormData) -> bytes:
    images = form.getlist("image")
    if len(images) > 1:
        raise BadRequest(f"the form has {len(images)} fields 'image'; send one image", reason="several_images")
    if not images:
        raise BadRequest("the form has no field 'image'; send the image as a file of that name", reason="no_image")
    if not isinstance(images[0], UploadFile):
        raise BadRequest("the field 'image' is text; send it as a file (curl -F image=@FILE)", reason="no_image")
    return await content_of(images[0])


async def content_of(file: UploadFile) -> bytes:
    """Return what a file of a form holds, and free its memory."""
    content = await file.read()
    await file.close()
    return content


async def bounded_stream(request: Request, reserve: Callable[[int], None]) -> AsyncGenerator[bytes, None]:
    """Yield the body in chunks; raise ImageTooLarge once its declared or received length is over the limit."""
    declared = request.headers.get("content-length", "0")
    received = 0
    if declared.isdecimal() and int(declared) > limits.MAX_BODY_BYTES:
        raise _too_large()
    async for chunk in request.stream():
        received += len(chunk)
        if received > limits.MAX_BODY_BYTES:
            raise _too_large()
        reserve(len(chunk))
        yield chunk


def _too_large() -> ImageTooLarge:
    return ImageTooLarge(f"the body is over the limit of {limits.MAX_BODY_BYTES:,} bytes: send a smaller image")


async def text_of(field: UploadFile | str | None) -> str | None:
    """Return a field's text. Swagger UI sends a number as a file of type application/json."""
    if not isinstance(field, UploadFile):
        return field
    return (await field.read(_MAX_DIGITS + 1)).decode(errors="replace")


def parse_top_k(value: str | None) -> int:
    """Return the number of labels that was asked for, or the default.

    Raises:
        BadRequest: it is not a number of labels.
    """
    if value is None:
        return DEFAULT_TOP_K
    # int() alone would accept '1_0', ' 7' and '+7', and raises above 4,300 digits.
    top_k = int(value) if value.isascii() and value.isdecimal() and len(value) <= _MAX_DIGITS else 0
    if top_k < 1:
        raise BadRequest("top_k is the number of labels to answer, 1 or more", reason="bad_top_k", status=422)
    return top_k


def bytes_of_texts(body: bytes) -> int:
    """Return the most bytes that the strings in `body`, which is JSON, take once they are decoded."""
    # Python keeps a string that has one emoji in 4 bytes per character, and an escaped one is copied meanwhile.
    return (1 if body.isascii() and b"\\" not in body else 8) * len(body)


def has_more_strings(body: bytes, most: int) -> bool:
    """Return whether `body`, which is JSON, has more than `most` strings, without decoding it.

    A decoded string takes 50 bytes and more, so a body of many small ones would become many times as large.
    """
    at = -1
    for _ in range(2 * most + 1):
        at = body.find(b'"', at + 1)
        if at < 0:
            return False
    return True


def image_in(text: str) -> bytes | ImageError:
    """Return the image that a string in JSON holds, which is base64, or the reason why it holds none."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError):
        return ImageError("the string is not base64; encode the bytes of the image's file", reason="not_base64")


def too_many_images(count: int | None = None) -> BadRequest:
    """Return the refusal of a request with more images than it may have; `count` of them, if that is known."""
    how_many = f"{count}" if count is not None else f"more than {limits.MAX_IMAGES}"
    return BadRequest(
        f"the request has {how_many} images; send at most {limits.MAX_IMAGES}", reason="too_many_images", status=413
    )
