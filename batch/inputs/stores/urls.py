"""Files behind URLs, through fsspec: object stores, HTTP, HDFS and every other store that it has a driver for."""

from __future__ import annotations

from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from batch.inputs.stamps import Stamp
from classifier.environment import seconds_in
from classifier.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_DEFAULT_TIME_LIMIT_S = 60.0

_MARKS = ("ETag", "etag", "LastModified", "Last-Modified", "last_modified", "mtime", "updated", "content_hash")
"""Names under which drivers tell a version of an object, the surest first."""


def is_url(path: str) -> bool:
    """Return whether `path` is a URL, `s3://bucket/key`. A file with such a name is written `./s3:/…`."""
    scheme, separator, _ = path.partition("://")
    return bool(separator) and scheme.isalnum()


def time_limit_s() -> float:
    """Return how many seconds one request to a store may take: `$TANDEM_URL_TIMEOUT`, else 60.

    Raises:
        DataError: the variable is not a number of seconds.
    """
    try:
        return seconds_in("TANDEM_URL_TIMEOUT", _DEFAULT_TIME_LIMIT_S)
    except ValueError as error:
        raise DataError(str(error)) from error


def is_folder(url: str) -> bool:
    """Return whether a URL names a folder, or an object store's equivalent; False for an object.

    Raises:
        DataError: nothing is there, or it can't be reached.
    """
    return bool(_info(url)["type"] == "directory")


def stamp_of(url: str) -> Stamp:
    """Return the stamp of an object.

    Raises:
        DataError: nothing is there, or it can't be reached.
    """
    info = _info(url)
    mark = next((info[name] for name in _MARKS if info.get(name)), None)
    return Stamp(size=info.get("size"), written=None if mark is None else str(mark))


def _info(url: str) -> dict[str, Any]:
    with reaching(url):
        files, path = open_file_system(url)
        info: dict[str, Any] = call(files, "info", path)
        return info


def list_folder(url: str) -> Iterator[tuple[str, bool, int]]:
    """Yield each entry directly below a URL: name, whether it is a folder, size in bytes.

    A key such as `a//b.png` gives a folder without a name.

    Raises:
        DataError: it can't be listed.
    """
    with reaching(url):
        files, path = open_file_system(url)
        for entry in files.ls(path, detail=True):
            name, is_folder = entry["name"].rstrip("/"), entry["type"] == "directory"
            # An object store can hold an object for the folder itself.
            if name != path.rstrip("/") or (is_folder and name != entry["name"]):
                yield entry["name"][len(path) :].strip("/"), is_folder, int(entry.get("size") or 0)


def open_url(url: str) -> IO[bytes]:
    """Return a file that can be read and sought. Use it inside `reaching`."""
    files, path = open_file_system(url)
    file: IO[bytes] = files.open(path, "rb")
    return file


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Turn an exception of an fsspec driver into a DataError with a remedy."""
    try:
        yield
    except DataError:
        raise
    except ImportError as error:
        raise DataError(f"'{url}' can't be read without a driver ({error}); install it beside Tandem") from error
    except Exception as error:
        # Each driver raises its own client library's exceptions, which have no common base.
        raise DataError(
            f"'{url}' can't be read ({why(error)}); check the URL, the credentials and the network, and give the same "
            "command again"
        ) from error


def why(error: BaseException) -> str:
    """Return what a driver's exception says, on one line."""
    if isinstance(error, TimeoutError):
        return f"no answer within {time_limit_s():g} s, as TANDEM_URL_TIMEOUT allows"
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        return why(error.__cause__)  # fsspec's HTTP driver says so of every failure
    return " ".join(str(error).split())[:200] or type(error).__name__


def open_file_system(url: str) -> tuple[Any, str]:
    """Return fsspec's file system for a URL, and the path in it.

    The URL names one object in one store: `::` in it is part of a key, not a chain of file systems.
    """
    import fsspec  # noqa: PLC0415 # not needed for local files

    driver = fsspec.get_filesystem_class(url.partition("://")[0])
    # fsspec caches the file system with its connections. Its cache of listings would only take memory.
    options = {**driver._get_kwargs_from_urls(url), "use_listings_cache": False}  # a driver's interface
    return fsspec.filesystem(url.partition("://")[0], **options), driver._strip_protocol(url)


def call(files: Any, method: str, *arguments: Any, **options: Any) -> Any:
    """Return what a method of a driver returns, within the time limit. A driver without coroutines keeps its own."""
    if not files.async_impl:
        return getattr(files, method)(*arguments, **options)
    return wait_for(files, getattr(files, f"_{method}"), *arguments, **options)


def wait_for(files: Any, coroutine: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Return what a coroutine returns in the driver's loop, within the time limit.

    Raises:
        TimeoutError: it took longer.
    """
    import fsspec.asyn  # noqa: PLC0415

    return fsspec.asyn.sync(files.loop, coroutine, *arguments, timeout=time_limit_s(), **options)
