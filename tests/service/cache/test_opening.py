"""The cache that the environment asks for, and the sentences for what it can't mean."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from classifier.errors import InvalidSetting
from service.cache import open_cache

if TYPE_CHECKING:
    from pathlib import Path

    from classifier.model import Model
    from service.cache import ResultCache

SHA = bytes(32)


def look_up(cache: ResultCache, *keys: bytes) -> list[Any]:
    """Return what a cache has for each key: scores and level, or None."""

    async def get() -> list[Any]:
        return [await cache.get(key) for key in keys]

    return asyncio.run(get())


def test_without_variables_this_process_keeps_results(model: Model) -> None:
    """64 MiB, in this process alone."""
    cache = open_cache(model)
    assert cache is not None
    assert list(cache.counts) == ["memory"]
    scores = np.full(len(model.config.labels), 0.1, np.float32)
    assert look_up(cache, SHA) == [None]
    cache.put(SHA, scores)
    [(hit, level)] = look_up(cache, SHA)
    assert level == "memory"
    assert hit.tobytes() == scores.tobytes()
    assert (cache.counts["memory"].hits, cache.counts["memory"].misses) == (1, 1)


def test_zero_turns_it_off(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """TANDEM_CACHE=0 keeps nothing in this process; a Redis that was asked for stays."""
    monkeypatch.setenv("TANDEM_CACHE", "0")
    assert open_cache(model) is None
    monkeypatch.setenv("TANDEM_CACHE_URL", "redis://localhost")
    cache = open_cache(model)
    assert cache is not None
    assert list(cache.counts) == ["redis"]


def test_the_bound_is_the_variable_s(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 1,000 results, 10 kB keep the few that came last."""
    monkeypatch.setenv("TANDEM_CACHE", "10kB")
    cache = open_cache(model)
    assert cache is not None
    keys = [bytes([n // 256, n % 256]) * 16 for n in range(1000)]
    for key in keys:
        cache.put(key, np.zeros(len(model.config.labels), np.float32))
    kept = [key for key, hit in zip(keys, look_up(cache, *keys), strict=True) if hit is not None]
    assert kept == keys[-len(kept) :]
    assert 10 <= len(kept) <= 50
    assert cache.held_bytes <= 10_000


@pytest.mark.parametrize(
    ("variable", "value", "fact"),
    [
        ("TANDEM_CACHE", "plenty", "TANDEM_CACHE is 'plenty', which is not a number of bytes"),
        ("TANDEM_CACHE", "-1", "not a number of bytes"),
        ("TANDEM_CACHE_TTL", "0", "TANDEM_CACHE_TTL is '0', which is not a number of seconds"),
        ("TANDEM_CACHE_URL", "localhost:6379", "not the URL of a Redis"),
        ("TANDEM_CACHE_URL", "http://localhost", "not the URL of a Redis"),
        ("TANDEM_CACHE_URL", "redis://", "not the URL of a Redis"),
        ("TANDEM_CACHE_URL", "redis://:s3cret@", "not the URL of a Redis"),
        ("TANDEM_CACHE_URL", "redis://:s3/cret@host:6379", "not the URL of a Redis"),
        ("TANDEM_CACHE_URL", "redis://host:s3cret", "not the URL of a Redis"),
        ("TANDEM_CACHE_URL", "redis://host:6379/first", "not the URL of a Redis"),
        ("TANDEM_CACHE_URL", "redis://[::1", "not the URL of a Redis"),
        ("TANDEM_CACHE_URL", "unix://", "not the URL of a Redis"),
        ("TANDEM_CACHE_URL", "redis://:s3cret@host?turbo=1", "an option that the client for Redis does not take"),
        ("TANDEM_CACHE_URL", "redis://:s3cret@host?db=x", "an option that the client for Redis does not take"),
    ],
)
def test_a_wrong_value_is_one_sentence_without_secrets(
    model: Model, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, fact: str
) -> None:
    """It stops the start, names the variable and the remedy, and quotes no URL."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidSetting) as raised:
        open_cache(model)
    message = str(raised.value)
    assert fact in message
    assert message.startswith(variable)
    assert "s3" not in message
    assert "\n" not in message


def test_a_password_s_file_must_be_readable(model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file that is missing, empty or not text is one sentence."""
    monkeypatch.setenv("TANDEM_CACHE_URL", "redis://localhost")
    monkeypatch.setenv("TANDEM_CACHE_PASSWORD_FILE", str(tmp_path / "password"))
    with pytest.raises(InvalidSetting, match=r"TANDEM_CACHE_PASSWORD_FILE names .* can't be read"):
        open_cache(model)
    (tmp_path / "password").write_bytes(b"")
    with pytest.raises(InvalidSetting, match="which is empty"):
        open_cache(model)
    (tmp_path / "password").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidSetting, match="it is not text"):
        open_cache(model)


def test_a_missing_package_names_its_extra(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without redis-py the start ends with the command that installs it."""
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    monkeypatch.setenv("TANDEM_CACHE_URL", "redis://localhost")
    with pytest.raises(InvalidSetting, match=r"needs the package 'redis', which is not installed: .*\[cache\]"):
        open_cache(model)


def test_empty_variables_count_as_unset(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose files pass unset variables as empty strings."""
    for name in ("TANDEM_CACHE", "TANDEM_CACHE_URL", "TANDEM_CACHE_TTL", "TANDEM_CACHE_PASSWORD_FILE"):
        monkeypatch.setenv(name, "")
    cache = open_cache(model)
    assert cache is not None
    assert list(cache.counts) == ["memory"]


def test_scores_that_are_not_numbers_are_not_kept(model: Model) -> None:
    """An image for which the model gives NaN is refused each time, so there is nothing to keep."""
    cache = open_cache(model)
    assert cache is not None
    cache.put(SHA, np.array([np.nan, *[0.1] * (len(model.config.labels) - 1)], np.float32))
    assert look_up(cache, SHA) == [None]
