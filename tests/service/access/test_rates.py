"""How many requests a client may send."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.access import rates
from service.access.rates import MAX_CLIENTS, Rate


class Clock:
    """A clock that a test sets, in seconds."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(rates, "time", clock)
    return clock


def test_a_rate_may_be_used_at_once_and_fills_again(clock: Clock) -> None:
    """Ten at once, then one every six seconds; a refusal says how long to wait and costs nothing."""
    rate = Rate("10/min")
    assert [rate.wait_s("a") for _ in range(10)] == [0] * 10
    assert [rate.wait_s("a") for _ in range(3)] == pytest.approx([6, 6, 6])
    assert rate.wait_s("b") == 0
    clock.now += 6
    assert rate.wait_s("a") == 0
    assert rate.wait_s("a") == pytest.approx(6)
    clock.now += 1000
    assert [rate.wait_s("a") > 0 for _ in range(11)] == [False] * 10 + [True]


@given(gaps=st.lists(st.floats(0, 3), min_size=20, max_size=60))
def test_no_more_than_twice_the_rate_in_any_period(gaps: list[float]) -> None:
    """Whatever the timing: what was saved up once, plus what is filled again meanwhile."""
    clock, admitted, rate = Clock(), deque[float](), Rate("4/s")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rates, "time", clock)
        for gap in gaps:
            clock.now += gap
            if rate.wait_s("a") == 0:
                admitted.append(clock.now)
            while admitted and admitted[0] <= clock.now - 1:
                admitted.popleft()
            assert len(admitted) <= 8


def test_many_clients_take_bounded_memory(clock: Clock) -> None:
    """Past 10,000, the one that asked least recently is forgotten."""
    rate = Rate("1/h")
    for number in range(MAX_CLIENTS + 5):
        assert rate.wait_s(str(number)) == 0
    assert len(rate._due) == MAX_CLIENTS
    assert rate.wait_s(str(MAX_CLIENTS)) > 0
    assert rate.wait_s("0") == 0


@pytest.mark.parametrize("value", ["0/s", "10", "/s", "10/day", "1.5/s", "-1/s", "10/s/s", "1e3/s"])
def test_malformed(value: str) -> None:
    """The sentence shows how a rate is written."""
    with pytest.raises(ValueError, match="such as 100/s"):
        Rate(value)
