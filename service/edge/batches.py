"""Read the images of `POST /classify_batch`: a multipart form, or a JSON list of base64 strings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio.to_thread
import msgspec
from starlette.datastructures import UploadFile

from service import limits
from service.edge.refusals import BadRequest
from service.edge.uploads import (
    bounded_stream,
    bytes_of_texts,
    content_of,
    has_more_strings,
    image_in,
    is_form,
    parse_top_k,
    read_form,
    text_of,
    too_many_images,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.datastructures import FormData
    from starlette.requests import Request

    from classifier.errors import ImageError

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
        if has_more_strings(body, limits.MAX_IMAGES):
            raise too_many_images()
        reserve(len(body) + bytes_of_texts(body))  # the images, and the text that they are decoded from
        # In a thread, so that other requests are answered between two images.
        images = await anyio.to_thread.run_sync(_parse, body)
    if not images:
        raise BadRequest("the request has no image; send at least one in the field 'images'", reason="no_image")
    return BatchUpload(images=images, top_k=top_k)


async def _images_of(form: FormData) -> Sequence[bytes]:
    fields = form.getlist("images")
    if len(fields) > limits.MAX_IMAGES:
        raise too_many_images(len(fields))
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
    return [image_in(text) for text in texts]
