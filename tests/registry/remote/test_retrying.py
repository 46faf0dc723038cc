"""Retries: which failures, how long the waits are, and when they end."""

from __future__ import annotations

import time

import pytest

from classifier.errors import DamagedArtifact, RegistryError
from registry.oci.receiving import DamagedInTransit
from registry.remote import retrying
from registry.remote.failures import TransientFailure, overloaded
from registry.remote.retrying import TRIES, retry, time_limit_s, wait_before


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the list of waits, which take no time here."""
    waited: list[float] = []
    monkeypatch.setattr(retrying.time, "sleep", waited.append)
    return waited


def failing(error: Exception, times: int) -> tuple[object, list[int]]:
    """Return an operation that raises `error` `times` times and then returns, and the list of its calls."""
    calls: list[int] = []

    def operation() -> str:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return "done"

    return operation, calls


@pytest.mark.parametrize("error", [TransientFailure("broke: wait"), DamagedInTransit("flipped: wait")])
def test_three_failures_heal_and_four_do_not(waits: list[float], error: Exception) -> None:
    """Four tries in all, with growing waits."""
    operation, _ = failing(error, TRIES - 1)
    assert retry(operation, limit_s=100) == "done"  # type: ignore[arg-type]
    assert waits == sorted(waits)
    assert len(waits) == TRIES - 1
    operation, calls = failing(error, TRIES)
    with pytest.raises(type(error)):
        retry(operation, limit_s=100)  # type: ignore[arg-type]
    assert len(calls) == TRIES


def test_what_does_not_heal_is_not_tried_again(waits: list[float]) -> None:
    """A file that is damaged in the registry, or a refusal, is final."""
    operation, calls = failing(DamagedArtifact("gone: push it"), 1)
    with pytest.raises(DamagedArtifact):
        retry(operation, limit_s=100)  # type: ignore[arg-type]
    assert (len(calls), waits) == (1, [])


def test_retry_after_is_obeyed_within_the_limit(waits: list[float]) -> None:
    """Seconds or a date; a wait that would pass the time limit isn't begun."""
    operation, _ = failing(overloaded("ghcr.io", 429, "", "7"), 1)
    assert retry(operation, limit_s=100) == "done"  # type: ignore[arg-type]
    assert waits == [7.0]
    operation, calls = failing(overloaded("ghcr.io", 429, "", "3600"), 1)
    with pytest.raises(TransientFailure, match=r"ghcr.io asks to come back later \(HTTP 429\)"):
        retry(operation, limit_s=100)  # type: ignore[arg-type]
    assert len(calls) == 1
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 30))
    assert 25 < wait_before(2, overloaded("ghcr.io", 503, "", date)) <= 30


@pytest.mark.parametrize("text", ["soon", "0", "-1", "inf", "nan"])
def test_a_time_limit_that_is_none(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """One sentence that names the variable."""
    monkeypatch.setenv("TANDEM_REGISTRY_TIMEOUT", text)
    with pytest.raises(RegistryError, match="TANDEM_REGISTRY_TIMEOUT"):
        time_limit_s()
