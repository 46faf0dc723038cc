"""What lies behind a URL, by way of fsspec: object stores, HTTP, HDFS and whatever else it has a driver for."""

from __future__ import annotations

from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from classifier.errors import DataError, UnreadableImage

if TYPE_CHECKING:
    from collections.abc import Iterator


def is_url(path: str) -> bool:
    """Return whether `path` is a URL, `s3://bucket/key`; a file of such a name is written `./s3:/…`."""
    scheme, separator, _ = path.partition("://")
    return bool(separator) and scheme.isalnum()


def is_folder(url: str) -> bool:
    """Return whether a URL names a folder, or what an object store has for one; False for an object.

    Raises:
        DataError: there is nothing, or it can't be reached.
    """
    with reaching(url):
        files, path = _open_file_system(url)
        return bool(files.info(path)["type"] == "directory")


def list_folder(url: str) -> Iterator[tuple[str, bool, int]]:
    """Yield what is right below a URL: its name, whether it is a folder, and the size in bytes.

    Raises:
        DataError: it can't be listed.
    """
    with reaching(url):
        files, path = _open_file_system(url)
        for entry in files.ls(path, detail=True):
            name = entry["name"].rstrip("/").rpartition("/")[2]
            # An object store may hold an object that stands for the folder itself.
            if entry["name"].rstrip("/") != path.rstrip("/"):
                yield name, entry["type"] == "directory", int(entry.get("size") or 0)


def open_url(url: str) -> IO[bytes]:
    """Return a file that can be read and sought. Use it within `reaching`."""
    files, path = _open_file_system(url)
    file: IO[bytes] = files.open(path, "rb")
    return file


def read_url(url: str, *, start: int | None = None, end: int | None = None) -> bytes:
    """Return the bytes from `start` up to `end` of what lies behind a URL; all of them without the two.

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
                f"'{url}' may not be read with these credentials: allow it", reason="permission_denied"
            ) from error
        raise


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Turn what a driver of fsspec raises into one sentence with its remedy."""
    try:
        yield
    except DataError:
        raise
    except ImportError as error:
        raise DataError(f"'{url}' can't be read without a driver ({error}); install it beside Tandem") from error
    except Exception as error:
        # Each driver raises what its own client library does: there is no list of them to name.
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"'{url}' can't be read ({why}); check the URL, the credentials and the network, and give the same "
            "command again"
        ) from error


def _open_file_system(url: str) -> tuple[Any, str]:
    import fsspec  # noqa: PLC0415 # not needed for local files

    # fsspec keeps one file system for all calls, with its connections; listings, it need not keep for us.
    files, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    return files, path
