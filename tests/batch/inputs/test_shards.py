"""Shards of a run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.inputs.shards import COUNT, INDEX, Shard, shard_of_job
from classifier.errors import DataError


@given(st.integers(0, 200), st.integers(1, 50))
def test_shards_are_disjoint_and_complete(chunks: int, count: int) -> None:
    """Of any plan in any number of shards, each chunk is exactly one shard's, and their sizes differ by 1 at most."""
    shares = [list(Shard(number=number, count=count).of(chunks)) for number in range(1, count + 1)]
    assert sorted(chunk for share in shares for chunk in share) == list(range(chunks))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", "-1/2", "1/2/3", ""])
def test_what_is_no_shard(text: str) -> None:
    """Only K/N with K from 1 to N is a shard."""
    with pytest.raises(ValueError, match="shard"):
        Shard.parse(text)


def test_the_shard_of_an_indexed_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a pod of an Indexed Job the shard is the pod's; where the job doesn't say of how many, it is refused."""
    monkeypatch.delenv(INDEX, raising=False)
    assert shard_of_job() is None
    monkeypatch.setenv(INDEX, "2")
    with pytest.raises(DataError, match="JOB_COMPLETION_COUNT is not set"):
        shard_of_job()
    monkeypatch.setenv(COUNT, "16")
    assert str(shard_of_job()) == "3/16"
    monkeypatch.setenv(COUNT, "2")
    with pytest.raises(DataError, match="JOB_COMPLETION_INDEX is '2'"):
        shard_of_job()
