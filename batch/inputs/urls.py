"""Files behind URLs, through fsspec: object stores, HTTP, HDFS and every other store that it has a driver for."""

from __future__ import annotations

from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from classifier.errors import DataError, UnreadableImage

if TYPE_CHECKING:
    from collections.abc import Iterator


def is_url(path: str) -> bool:
    """Return whether `path` is a URL, `s3://bucket/key`. A file with such a name is written `./s3:/…`."""
    scheme, separator, _ = path.partition("://")
    return bool(separator) and scheme.isalnum()


def is_folder(url: str) -> bool:
    """Return whether a URL names a folder, or an object store's equivalent; False for an object.

    Raises:
        DataError: nothing is there, or it can't be reached.
    """
    with reaching(url):
        files, path = _open_file_system(url)
        return bool(files.info(path)["type"] == "directory")


def list_folder(url: str) -> Iterator[tuple[str, bool, int]]:
    """Yield each entry directly below a URL: name, whether it is a folder, size in bytes.

    Raises:
        DataError: it can't be listed.
    """
    with reaching(url):
        files, path = _open_file_system(url)
        for entry in files.ls(path, detail=True):
            name = entry["name"].rstrip("/").rpartition("/")[2]
            # An object store can hold an object for the folder itself.
            if entry["name"].rstrip("/") != path.rstrip("/"):
                yield name, entry["type"] == "directory", int(entry.get("size") or 0)


def open_url(url: str) -> IO[bytes]:
    """Return a file that can be read and sought. Use it inside `reaching`."""
    files, path = _open_file_system(url)
    file: IO[bytes] = files.open(path, "rb")
    return file


def read_url(url: str, *, start: int | None = None, end: int | None = None) -> bytes:
    """Return the bytes of the file behind a URL, from `start` up to `end`; by default all.

    Raises:
        UnreadableImage: it does not exist (reason `missing`), or is closed to this user (`permission_denied`).
        DataError: the store can't be reached, or fails.
    """
    try:
        with reaching(url):
            files, path = _open_file_system(url)
            data: bytes = files.cat_file(path, start=start, end=end)
            return data
    except DataError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise UnreadableImage(f"'{url}' does not exist: check the path", reason="missing") from error
        if isinstance(error.__cause__, PermissionError):
            raise UnreadableImage(
                f"'{url}' can't be read with these credentials: grant them access", reason="permission_denied"
            ) from error
        raise


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
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"'{url}' can't be read ({why}); check the URL, the credentials and the network, and give the same "
            "command again"
        ) from error


def _open_file_system(url: str) -> tuple[Any, str]:
    import fsspec  # noqa: PLC0415 # not needed for local files

    # fsspec caches the file system with its connections. Its cache of listings would only take memory.
    files, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    return files, path
