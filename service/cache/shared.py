"""The level that replicas share: a Redis, which may be slow, full, gone or read-only without a request noticing.

Lookups that arrive while one is under way go together as the next `MGET`, so one connection is enough for them; writes
go the same way over another. Nobody who waits for an answer ever connects, retries or writes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextvars import Context
from typing import TYPE_CHECKING, Any

from classifier.wording import one_line
from service.cache.outage import Outage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis.asyncio import Redis

ANSWER_WITHIN_S = 0.05
"""How long a lookup may wait. It takes about a millisecond, more where all CPUs are busy with classifying."""
GRACE_S = 0.01
"""How much longer it may wait if the process itself was held up meanwhile, as by inference on all CPUs."""
GIVE_UP_AFTER_S = 2.0
"""How long a connection, or a reply on it, may take before the connection is closed."""
MAX_TOGETHER = 128
"""Values of one pipeline."""
MAX_QUEUED_BYTES = 8 * 2**20
"""Values that wait to be written; more are dropped."""
FLUSH_WITHIN_S = 1.0
"""How long `close` waits for values that are not written yet."""


class SharedCache:
    """Maps keys to values in a Redis. For one event loop.

    Its tasks have an empty context: their log lines belong to no request, least of all to the one that began them.

    Args:
        client: raises nothing before its first command, and has `GIVE_UP_AFTER_S` as its timeouts.
        place: the Redis, for the log; without a password.
        secret: the password, which must not appear in the log.
        ttl_s: how long a value is kept.
        answer_within_s: how long a lookup may wait for its command.

    Attributes:
        errors: commands that failed, were late, or wrote nothing.
        dropped: values that were not written.
    """

    def __init__(
        self, client: Redis, *, place: str, secret: str | None, ttl_s: float, answer_within_s: float = ANSWER_WITHIN_S
    ) -> None:
        self.errors = 0
        self.dropped = 0
        self._client = client
        self._secret = secret
        self._answer_within_s = answer_within_s
        self._ttl_ms = max(1, int(ttl_s * 1000))
        self._lookups = Outage(f"lookups in the result cache at {place}")
        self._writes = Outage(f"writes to the result cache at {place}")
        self._asked: list[tuple[bytes, asyncio.Future[Any]]] = []
        self._in_hand: list[tuple[bytes, asyncio.Future[Any]]] = []
        self._reading: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle
        self._is_late = False
        self._is_closed = False
        self._queued: deque[tuple[bytes, bytes]] = deque()
        self._queued_bytes = 0
        self._writing: asyncio.Task[None] | None = None

    async def get(self, key: bytes) -> object:
        """Return what the Redis holds under a key, which may be anything; None if it holds nothing or gives no answer.

        Takes at most twice `answer_within_s`: the rest of the command before, and its own.
        """
        if self._is_closed or self._is_late or self._lookups.is_paused:
            return None
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._asked.append((key, future))
        if self._reading is None:
            self._reading = loop.create_task(self._read(), context=Context())
        return await future

    def put(self, key: bytes, value: bytes) -> None:
        """Write a value later, or drop it if too many wait or writes fail."""
        is_full = self._queued_bytes + len(value) > MAX_QUEUED_BYTES
        if self._is_closed or is_full or self._writes.is_paused:
            self.dropped += 1
            return
        self._queued.append((key, value))
        self._queued_bytes += len(value)
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write(), context=Context())

    async def close(self) -> None:
        """Write what waits, within `FLUSH_WITHIN_S`, and close the connections."""
        self._is_closed = True
        tasks = [task for task in (self._reading, self._writing) if task is not None]
        if tasks:
            _, unfinished = await asyncio.wait(tasks, timeout=FLUSH_WITHIN_S)
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)
        await self._client.aclose()
        await self._client.connection_pool.disconnect()

    async def _read(self) -> None:
        try:
            while self._asked and not self._lookups.is_paused:
                self._in_hand, self._asked = self._asked, []
                values = await self._look_up([key for key, _ in self._in_hand])
                for (_, future), value in zip(self._in_hand, values, strict=True):
                    if not future.done():  # else it was late, or its client hung up
                        future.set_result(value)
        finally:
            self._reading = None
            self._answer_none()

    async def _look_up(self, keys: Sequence[bytes]) -> Sequence[object]:
        loop = asyncio.get_running_loop()
        due = loop.time() + self._answer_within_s
        self._timer = loop.call_at(due, self._notice_delay, due)
        try:
            values: Sequence[object] = await self._client.mget(keys)
            if len(values) != len(keys):
                raise ValueError("the reply does not fit the command")
        except Exception as error:  # noqa: BLE001 # what is not a Redis can make the client raise anything
            self._fail(self._lookups, error)
            return [None] * len(keys)
        else:
            if self._is_late:
                self._fail(self._lookups, f"an answer took longer than {1000 * self._answer_within_s:.0f} ms")
            else:
                self._lookups.worked()
            return values
        finally:
            self._timer.cancel()
            self._is_late = False

    def _notice_delay(self, due: float) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() - due > GRACE_S:
            # This process was held up, not the Redis: its answer may be here, still unread.
            self._timer = loop.call_later(GRACE_S, self._be_late)
        else:
            self._be_late()

    def _be_late(self) -> None:
        """Let everyone go who waits; the command goes on, so that its connection stays usable."""
        self._is_late = True
        self._answer_none()

    def _answer_none(self) -> None:
        for _, future in (*self._in_hand, *self._asked):
            if not future.done():
                future.set_result(None)
        self._asked = []

    async def _write(self) -> None:
        try:
            while self._queued and not self._writes.is_paused:
                together = [self._queued.popleft() for _ in range(min(len(self._queued), MAX_TOGETHER))]
                self._queued_bytes -= sum(len(value) for _, value in together)
                await self._store(together)
        finally:
            self._writing = None
            self.dropped += len(self._queued)
            self._queued.clear()
            self._queued_bytes = 0

    async def _store(self, together: Sequence[tuple[bytes, bytes]]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for key, value in together:
            pipeline.set(key, value, px=self._ttl_ms)
        try:
            replies = await pipeline.execute(raise_on_error=False)
        except asyncio.CancelledError:  # by `close`
            self.dropped += len(together)
            raise
        except Exception as error:  # noqa: BLE001 # as in _look_up
            replies = [error] * len(together)
        # One that is full or read-only refuses each value with an error of its own.
        if refused := [reply for reply in replies if isinstance(reply, Exception)]:
            self.dropped += len(refused)
            self._fail(self._writes, refused[0])
        else:
            self._writes.worked()

    def _fail(self, use: Outage, why: Exception | str) -> None:
        self.errors += 1
        sentence = one_line(str(why)).rstrip(". ") or type(why).__name__
        use.failed(sentence.replace(self._secret, "***") if self._secret else sentence)
