"""Fetches bytes of objects within a time limit, and reads failures of fsspec's drivers, which have no common base."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batch.inputs.stores.urls import call, open_file_system, reaching, wait_for
from classifier.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batch.inputs.stamps import Stamp

_NOT_IN_RANGE = 416


class _Answer(Exception):  # it never leaves this module
    """An answer over HTTP that is not the object. `status` is its status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


def fetch(url: str, start: int, end: int, *, exact: bool = False, stamp: Stamp | None = None) -> bytes:
    """Return the bytes of an object from `start` up to `end`, or to its own end.

    Args:
        url: of the object.
        start: the first byte.
        end: one past the last byte.
        exact: whether to refuse the whole object instead.
        stamp: of the object when its contents were listed; None if unknown.
    """
    files, path = open_file_system(url)
    try:
        if "https" in files.protocol:
            data: bytes = wait_for(files, _get, files, path, start, end, exact=exact, stamp=stamp)
        else:
            data = call(files, "cat_file", path, start=start, end=end)
    except Exception as error:
        if start == 0 and status_of(error) == _NOT_IN_RANGE:
            return b""  # an empty object has no first byte
        raise
    if exact and len(data) > end - start:
        raise _range_ignored(url)
    return data[: end - start]


async def _get(files: Any, url: str, start: int, end: int, *, exact: bool, stamp: Stamp | None) -> bytes:
    # fsspec's own method takes any answer for the range, and all of it into memory.
    session = await files.set_session()
    options = dict(files.kwargs)
    range = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
    options["headers"] = {**options.get("headers", {}), **range}
    async with session.get(files.encode_url(url), **options) as response:
        if response.status >= 400:
            raise _Answer(response.status)
        is_range = response.status == 206
        sent = response.headers.get("Content-Range", "" if exact else f"bytes {start}-")
        is_other = is_range and not sent.startswith(f"bytes {start}-")
        if exact and (is_other or not is_range):
            raise _range_ignored(url)
        if is_other:
            raise _Answer(response.status)
        version = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if stamp is not None and None not in {version, stamp.written} and version != stamp.written:
            raise DataError(
                f"'{url}' was written again after its images were planned; restore it, or name another --output"
            )
        data = bytearray()
        async for block in response.content.iter_chunked(1 << 20):
            data += block
            if len(data) >= end - start:
                break
        return bytes(data[: end - start])


def _range_ignored(url: str) -> DataError:
    return DataError(
        f"the server of '{url}' sends other bytes than the range that it is asked for, so no single image can be read "
        "from there; download the file, or serve it with a server that knows HTTP's Range"
    )


def first_bytes(url: str, size: int) -> bytes:
    """Return the first bytes of an object.

    Raises:
        DataError: it can't be read.
    """
    with reaching(url):
        return fetch(url, 0, size)


def require_ranges(url: str) -> None:
    """Check that a server sends parts of an object.

    Raises:
        DataError: it sends the whole object, or can't be reached.
    """
    with reaching(url):
        fetch(url, 1, 2, exact=True)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that an exception, or one of its causes, stands for; None if there was no answer."""
    for each in _chain(error):
        if isinstance(each, FileNotFoundError):
            return 404
        if isinstance(each, PermissionError):
            return 403
        of_s3 = _response(each).get("ResponseMetadata", {}).get("HTTPStatusCode")
        found = (getattr(each, name, None) for name in ("status", "status_code", "code"))
        of_http = getattr(getattr(each, "response", None), "status_code", None)
        if (status := next((each for each in (of_s3, of_http, *found) if isinstance(each, int)), None)) is not None:
            return status
    return None


def codes_of(error: BaseException) -> Iterator[str]:
    """Yield S3's codes, and the names of the exceptions: botocore's `NoCredentialsError` has no code."""
    for each in _chain(error):
        yield type(each).__name__
        yield str(_response(each).get("Error", {}).get("Code"))


def _response(error: BaseException) -> dict[str, Any]:
    response = getattr(error, "response", None)  # botocore's
    return response if isinstance(response, dict) else {}
