"""Clients that ask a service all the time, and what they are answered."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx

from tests.system.docker import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENTS = 4
PAUSE_S = 0.03


@dataclass(slots=True)
class Load:
    """The answers to clients that ask all the time."""

    digests: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def wait_for(self, answers: int) -> None:
        """Wait until so many more requests have been answered; fail with the first that is refused."""
        wanted = len(self.digests) + answers
        wait_until(lambda: len(self.digests) >= wanted or bool(self.failures), f"{answers} answers")
        assert self.failures == [], self.failures[:3]


@contextmanager
def load(url: str, images: list[bytes]) -> Iterator[Load]:
    """Yield what clients are answered; half of them use a new connection for each request."""
    seen, ended = Load(), threading.Event()

    def ask(number: int) -> None:
        count = number
        with httpx.Client(timeout=90) as client:
            while not ended.wait(PAUSE_S):
                count += 1
                try:
                    asking = httpx if number % 2 else client
                    answer = asking.post(f"{url}/classify", content=images[count % len(images)], timeout=90)
                    if answer.status_code == 200:
                        seen.digests.append(answer.json()["digest"])
                    else:
                        seen.failures.append(f"{answer.status_code} {answer.text}")
                except httpx.TransportError as error:
                    seen.failures.append(repr(error))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        ended.set()
        for thread in threads:
            thread.join()
