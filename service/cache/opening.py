"""The cache that the environment asks for: TANDEM_CACHE, TANDEM_CACHE_URL, _PASSWORD_FILE and _TTL."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from classifier.environment import bytes_in, password_in, seconds_in
from classifier.errors import InvalidSetting
from classifier.extras import install_extra
from classifier.shaping import Shaping
from service import limits
from service.cache.memory import MemoryCache
from service.cache.results import ResultCache
from service.cache.shared import ANSWER_WITHIN_S, GIVE_UP_AFTER_S, SharedCache

if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from classifier.model import Model

DEFAULT_BYTES = 64 * 2**20
DEFAULT_TTL_S = 7 * 24 * 3600.0

URL, PASSWORD_FILE = "TANDEM_CACHE_URL", "TANDEM_CACHE_PASSWORD_FILE"
_FORMS = "redis://HOST:6379/0, rediss://HOST:6379/0 for TLS, or unix:///PATH"


def open_cache(model: Model) -> ResultCache | None:
    """Return the cache of results that the environment asks for; None if it asks for none.

    Connects to nothing: a Redis that is down does not stop the start.

    Raises:
        InvalidSetting: a variable holds something else than it should, or the package for Redis is not installed.
    """
    try:
        max_bytes = bytes_in("TANDEM_CACHE", DEFAULT_BYTES)
        ttl_s = seconds_in("TANDEM_CACHE_TTL", DEFAULT_TTL_S)
    except ValueError as error:
        raise InvalidSetting(str(error)) from error
    url = os.environ.get(URL)
    if not max_bytes and not url:
        return None
    return ResultCache(
        shaping=Shaping.of(model, limits.IMAGE_LIMITS).sha256,
        classes=len(model.config.labels),
        memory=MemoryCache(max_bytes) if max_bytes else None,
        shared=open_shared(url, ttl_s) if url else None,
    )


def open_shared(url: str, ttl_s: float, *, answer_within_s: float = ANSWER_WITHIN_S) -> SharedCache:
    """Return the Redis at a URL, with the password that the environment names, not connected yet.

    Raises:
        InvalidSetting: the URL or the password's file can't be used, or the package for Redis is not installed.
    """
    parts = _check(url)
    try:
        # Imported late: few services share their results.
        from redis.asyncio import ConnectionPool, Redis  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise InvalidSetting(
            f"{URL} needs the package 'redis', which is not installed: {install_extra('cache')}"
        ) from error
    password = _password() or (unquote(parts.password) if parts.password else None)
    options: dict[str, Any] = {
        "socket_timeout": GIVE_UP_AFTER_S,
        "socket_connect_timeout": GIVE_UP_AFTER_S,
        "protocol": 2,  # older servers know no other
        "decode_responses": False,
        "client_name": "tandem",
    }
    if password is not None:
        options["password"] = password
    try:
        pool = ConnectionPool.from_url(url, **options)
        pool.connection_kwargs.update(options)  # again: what stands in the URL has come before them
        pool.make_connection()  # type: ignore[no-untyped-call] # connects to nothing, but takes only known options
    except Exception as error:
        # Not the reason itself: it can quote the password.
        raise InvalidSetting(f"{URL} has an option that the client for Redis does not take: remove it") from error
    place = parts.path if parts.scheme == "unix" else f"{parts.hostname}:{parts.port or 6379}"
    return SharedCache(
        Redis(connection_pool=pool),
        place=f"{parts.scheme}://{place}",
        secret=password,
        ttl_s=ttl_s,
        answer_within_s=answer_within_s,
    )


def _check(url: str) -> SplitResult:
    """Return the parts of a URL. No message quotes it, since it can hold a password."""
    wrong = InvalidSetting(f"{URL} is not the URL of a Redis: set it to {_FORMS}")
    try:
        parts = urlsplit(url)
        database = parts.path.strip("/")
        if parts.scheme in ("redis", "rediss"):
            is_right = bool(parts.hostname) and parts.port != 0 and (not database or database.isdecimal())
        else:
            is_right = parts.scheme == "unix" and bool(database) and not parts.hostname
    except ValueError:  # such as a port that is not a number
        raise wrong from None
    if not is_right:
        raise wrong
    return parts


def _password() -> str | None:
    try:
        return password_in(PASSWORD_FILE)
    except ValueError as error:
        raise InvalidSetting(str(error)) from error
