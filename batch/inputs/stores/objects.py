"""Reads objects from stores, each for itself: one that fails is an image that failed, not the store.

A run stops only if the store is lost: if an object that this process has read before can't be read any more, if
credentials are refused, or if no object at all could be read.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from batch.inputs.stores.fetching import codes_of, fetch, status_of
from batch.inputs.stores.urls import reaching, why
from classifier.errors import DataError, UnreadableImage

if TYPE_CHECKING:
    from collections.abc import Callable

    from batch.inputs.stamps import Stamp

FAILURES_BEFORE_ANY_SUCCESS = 20
"""Objects in a row that may fail before one was read."""

_STORES_REMEMBERED = 1000
_PAUSE_S = 1.0

_MISSING, _DENIED, _TOO_MANY = (404, 410), (401, 403), 429
"""Statuses of HTTP."""

_REFUSED_CREDENTIALS = frozenset(
    {
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidToken",
        "NoCredentialsError",
        "PartialCredentialsError",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
    }
)
"""S3's codes for credentials that open nothing, and botocore's exceptions where there are none."""


def read_object(url: str, *, at_most: int) -> bytes:
    """Return the first `at_most` bytes of an object; fewer if it is smaller.

    Raises:
        UnreadableImage: it does not exist (reason `missing`), is closed to this user (`permission_denied`), its host
            does not answer in time (`unreachable`), or its store fails (`store_error`).
        DataError: the store is lost, credentials are refused, or a driver is not installed.
    """
    return _read(url, lambda: fetch(url, 0, at_most))


def read_range(url: str, start: int, size: int, *, stamp: Stamp | None = None) -> bytes:
    """Return `size` bytes of an object from `start` on.

    Args:
        url: of the object.
        start: the first byte.
        size: number of bytes.
        stamp: of the object when its contents were listed; None if unknown.

    Raises:
        UnreadableImage: as `read_object`; or the object ends before (`unreadable`).
        DataError: as `read_object`; the server sends the whole object instead; or the object was written anew.
    """
    if not size:
        return b""
    data = _read(url, lambda: fetch(url, start, start + size, exact=True, stamp=stamp))
    if len(data) != size:
        raise UnreadableImage(f"'{url}' ends before byte {start + size:,}: copy it again")
    return data


def note_read(url: str) -> None:
    """Note that an object was read, also by another process: its store works."""
    _STORES.note_read(url)


def _read(url: str, read: Callable[[], bytes]) -> bytes:
    try:
        try:
            data = read()
        except Exception as error:
            if not _may_pass(error):
                raise
            time.sleep(_PAUSE_S)
            data = read()
    except DataError:
        raise
    except Exception as error:
        # Each driver raises its own client library's exceptions, which have no common base.
        raise _failure(url, error) from error
    if data:
        note_read(url)
    return data


def _may_pass(error: Exception) -> bool:
    status = status_of(error)
    return status is not None and (status == _TOO_MANY or status >= 500)


def _failure(url: str, error: Exception) -> UnreadableImage:
    """Return why an object can't be read.

    Raises:
        DataError: the store is lost, or every object would fail.
    """
    status, codes = status_of(error), {*codes_of(error)}
    if isinstance(error, ImportError) or codes & _REFUSED_CREDENTIALS:
        with reaching(url):
            raise error
    if status not in _MISSING or "NoSuchBucket" in codes:
        _STORES.note_failure(url, error)
    if status in _MISSING:
        return UnreadableImage(f"'{url}' does not exist: check the path", reason="missing")
    if status in _DENIED:
        return UnreadableImage(
            f"'{url}' can't be read with these credentials: grant them access", reason="permission_denied"
        )
    if status is None:
        return UnreadableImage(f"'{url}' can't be reached ({why(error)}): check the URL", reason="unreachable")
    return UnreadableImage(f"'{url}' can't be read (its store answered {status}): try again", reason="store_error")


class _Stores:
    """What this process knows of stores."""

    def __init__(self) -> None:
        self._read: dict[str, str] = {}
        self._failures = 0
        self._lock = threading.Lock()

    def note_read(self, url: str) -> None:
        """Note that an object was read."""
        store = _store_of(url)
        with self._lock:
            self._failures = 0
            if store in self._read or len(self._read) < _STORES_REMEMBERED:
                self._read[store] = url

    def note_failure(self, url: str, error: Exception) -> None:
        """Note that an object could not be read.

        Raises:
            DataError: it is not the only one.
        """
        if (read := self._read.get(_store_of(url))) is not None:
            _require_still(read)
            return
        with self._lock:
            self._failures += 1
            if self._read or self._failures < FAILURES_BEFORE_ANY_SUCCESS:
                return
            self._failures = 0
        raise DataError(
            f"not one of the first {FAILURES_BEFORE_ANY_SUCCESS} URLs can be read, the last one is '{url}' "
            f"({why(error)}); check the credentials and the network, or leave these URLs out"
        )


def _require_still(url: str) -> None:
    """Check that an object that was read before can be read again, or is gone by itself."""
    try:
        fetch(url, 0, 1)
    except Exception as error:
        if status_of(error) in _MISSING and "NoSuchBucket" not in codes_of(error):
            return
        raise DataError(
            f"the store of '{url}', which was read before, can't be read ({why(error)}); check the URL, the "
            "credentials and the network, and give the same command again"
        ) from error


def _store_of(url: str) -> str:
    """Return the scheme and the host, or the bucket, of a URL."""
    return "/".join(url.split("/", 3)[:3])


_STORES = _Stores()
