"""Shards: one plan, divided among processes that don't know of each other.

Each process makes the whole plan and takes its own share of the chunks. If all plans are equal, which `tandem batch
merge` checks by their digests, the shards are disjoint and complete.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Self

from classifier.errors import DataError

INDEX, COUNT = "JOB_COMPLETION_INDEX", "JOB_COMPLETION_COUNT"
"""Kubernetes sets the first in each pod of an Indexed Job, counting from 0; the manifest must set the second."""

_SHARD = re.compile(r"([0-9]{1,7})/([0-9]{1,7})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A share of a plan: number `number` of `count`, counting from 1."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ValueError(f"a shard is one of 1/{self.count} to {self.count}/{self.count}, not {self}")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the shard that `text` names, as `3/16`.

        Raises:
            ValueError: `text` is not a shard.
        """
        match = _SHARD.fullmatch(text)
        if match is None:
            raise ValueError(f"a shard is written as 3/16, the third of 16, not '{text}'")
        return cls(number=int(match[1]), count=int(match[2]))

    @property
    def folder(self) -> str:
        """The name of its folder in the output. Names sort like the numbers."""
        width = len(str(self.count))
        return f"shard-{self.number:0{width}}-of-{self.count}"

    def of(self, chunks: int) -> range:
        """Return this shard's share of `chunks` chunks: every `count`-th, so that all shards have equal work."""
        return range(self.number - 1, chunks, self.count)


def shard_of_job() -> Shard | None:
    """Return the shard of this pod of a Kubernetes Indexed Job; None if this is not such a pod.

    Raises:
        DataError: the job says which pod this is, but not of how many.
    """
    index, count = os.environ.get(INDEX), os.environ.get(COUNT)
    if index is None:
        return None
    if count is None:
        raise DataError(
            f"{INDEX} is {index}, so this is a pod of an Indexed Job, but {COUNT} is not set, and each pod would "
            "classify all images; set it to the job's completions, or give --shard 1/1"
        )
    try:
        return Shard(number=int(index) + 1, count=int(count))
    except ValueError as error:
        raise DataError(
            f"{INDEX} is '{index}' and {COUNT} '{count}' ({error}); set them as the job has them"
        ) from error
