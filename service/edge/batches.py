"""Read the images of `POST /classify_batch`: a multipart form, or a JSON list of base64 strings."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio.to_thread
import msgspec
from starlette.datastructures import UploadFile

from classifier.errors import ImageError
from service import limits
from service.edge.refusals import BadRequest
from service.edge.uploads import bounded_stream, content_of, is_form, parse_top_k, read_form, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.datastructures import FormData
    from starlette.requests import Request

_DECODER = msgspec.json.Decoder(list[str])


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchUpload:
    """The images that a client sent, each as its bytes or as the reason why it has none."""

    images: Sequence[bytes | ImageError]
    top_k: int


async def read_batch(request: Request, reserve: Callable[[int], None]) -> BatchUpload:
    """Return the images and the options in `request`. Calls `reserve` with the size of each chunk that arrives.

    Raises:
        BadRequest: the body is neither form nor list, or has no image or too many; or `top_k` is not a number.
        ImageTooLarge: the body is over the limit. The rest of it is not read.
    """
    top_k = parse_top_k(request.query_params.get("top_k"))
    if is_form(request):
        form = await read_form(request, reserve)
        images: Sequence[bytes | ImageError] = await _images_of(form)
        top_k = parse_top_k(await text_of(form.get("top_k", str(top_k))))
    else:
        body = b"".join([chunk async for chunk in bounded_stream(request, reserve)])
        reserve(len(body))  # the images and the text that they are decoded from
        # In a thread: a large body would hold up every other request.
        images = await anyio.to_thread.run_sync(_parse, body)
    if not images:
        raise BadRequest("the request has no image; send at least one in the field 'images'", reason="no_image")
    return BatchUpload(images=images, top_k=top_k)


async def _images_of(form: FormData) -> Sequence[bytes]:
    fields = form.getlist("images")
    _check_count(len(fields))
    files = [field for field in fields if isinstance(field, UploadFile)]
    if len(files) < len(fields):
        raise BadRequest(
            "a field 'images' is text; send each image as a file (curl -F images=@FILE)", reason="no_image"
        )
    return [await content_of(file) for file in files]


def _parse(body: bytes) -> Sequence[bytes | ImageError]:
    try:
        texts = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(
            f"the body is neither a multipart form nor a JSON list of base64 strings ({error}); send one of them",
            reason="malformed_list",
        ) from error
    _check_count(len(texts))
    return [_decode(text) for text in texts]


def _decode(text: str) -> bytes | ImageError:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return ImageError("the string is not base64; encode the bytes of the image's file", reason="not_base64")


def _check_count(images: int) -> None:
    if images > limits.MAX_IMAGES:
        raise BadRequest(
            f"the request has {images} images; send at most {limits.MAX_IMAGES}", reason="too_many_images", status=413
        )
