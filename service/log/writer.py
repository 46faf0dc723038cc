"""Writes the prediction log in a thread of its own, so that a database that is slow or gone never delays an answer.

`record` and `feedback` only put an entry into a queue of bounded length. If the queue is full, the new entry is dropped
and counted: what is queued is written, in order, whatever comes after it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio.to_thread

from service.log.entry import LogEntry, Truth, within_limits
from service.log.rows import Row, row_of
from service.log.url import parse_log_url

if TYPE_CHECKING:
    from service.log.database import Database

log = logging.getLogger("bentoml.tandem")  # BentoML's servers show loggers below its own from INFO on

MAX_QUEUED = 10_000
"""Entries that wait. One takes about 1.1 KB with five labels, and never more than 6 KB."""
BATCH_SIZE = 500
"""Entries in a transaction. As many waiting ones are written at once."""
WRITE_AFTER_S = 1.0
"""How long fewer entries than that wait for more."""
RETRY_AFTER_S = 0.5
MAX_RETRY_AFTER_S = 30
"""The wait before the next attempt, which doubles from one to the other while the database fails."""
_TELL_EVERY_S = 60


class PredictionLog:
    """The prediction log of a service.

    Attributes:
        written: entries in the database.
        dropped: entries that will never be there.
    """

    def __init__(self, database: Database) -> None:
        self.written = 0
        self.dropped = 0
        self._database = database
        self._queue: deque[LogEntry | Truth] = deque()
        self._in_hand = 0
        self._deadline: float | None = None
        self._is_closed = False
        self._changed = threading.Condition()
        self._told_full = self._told_failure = -float("inf")
        self._failing_since: float | None = None
        # A daemon: a database that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="prediction log", daemon=True)

    @classmethod
    def open(cls, url: str) -> PredictionLog:
        """Return the log at `url`, and connect to it in the background; if it can't be reached, go on trying.

        Raises:
            LogError: the URL is malformed or of another database, or a driver is not installed.
        """
        address = parse_log_url(url)
        from service.log.database import Database  # noqa: PLC0415 # SQLAlchemy, which only a service with a log needs

        opened = cls(Database(address, writes=True))
        opened._thread.start()
        return opened

    @property
    def queued(self) -> int:
        """Entries that wait."""
        return len(self._queue) + self._in_hand

    def record(self, entry: LogEntry) -> bool:
        """Queue an entry; return False if it was dropped. Never waits and never raises, whatever the database does."""
        return self._put(within_limits(entry))

    def feedback(self, request_id: str, index: int, label: str) -> bool:
        """Queue the true label of an image, as `record` does. It replaces an earlier one."""
        return self._put(Truth(time_utc=datetime.now(UTC), request_id=request_id, image_index=index, label=label))

    def close(self, within_s: float) -> None:
        """Write what is queued, for at most `within_s` seconds; drop the rest. Blocks; `aclose` does not."""
        with self._changed:
            self._deadline = time.monotonic() + within_s
            self._changed.notify_all()
        self._thread.join(within_s)
        with self._changed:
            self._is_closed = True  # if the thread still waits for the database, its entries count as dropped
            lost = self.queued
            self.dropped += lost
            self._queue.clear()
            self._in_hand = 0
        if lost:
            log.warning("the prediction log, %s, ended with %s entries unwritten", self._database.address, f"{lost:,}")

    async def aclose(self, within_s: float) -> None:
        """Close from the event loop, which goes on meanwhile."""
        await anyio.to_thread.run_sync(self.close, within_s)

    def _put(self, entry: LogEntry | Truth) -> bool:
        # The thread holds this lock for microseconds, and never while it waits for the database.
        with self._changed:
            if len(self._queue) < MAX_QUEUED and self._deadline is None:
                self._queue.append(entry)
                if len(self._queue) in (1, BATCH_SIZE):
                    self._changed.notify()
                return True
            self.dropped += 1
            if (now := time.monotonic()) < self._told_full + _TELL_EVERY_S:
                return False
            self._told_full = now
            why = f"is too slow: {MAX_QUEUED:,} entries wait" if self._deadline is None else "has ended"
        log.warning("the prediction log, %s, %s, and new ones are dropped", self._database.address, why)
        return False

    def _run(self) -> None:
        try:
            rows: list[Row] = []  # first of all make the tables, and tell at the start if that fails
            while self._deliver(rows) and (entries := self._take()):
                rows = [row_of(entry) for entry in entries]
        except Exception:
            # Only a bug gets here. Answers go on, and what is dropped is counted.
            log.exception("The prediction log has stopped")
            with self._changed:
                self._deadline = 0
                self.dropped += self.queued
                self._queue.clear()
                self._in_hand = 0
        finally:
            self._database.close()

    def _take(self) -> list[LogEntry | Truth]:
        """Return the next entries, at least one; none if the log is closing and all are written."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._deadline is not None)
            self._changed.wait_for(
                lambda: len(self._queue) >= BATCH_SIZE or self._deadline is not None, timeout=WRITE_AFTER_S
            )
            taken = [self._queue.popleft() for _ in range(min(BATCH_SIZE, len(self._queue)))]
            self._in_hand = len(taken)
            return taken

    def _deliver(self, rows: list[Row]) -> bool:
        """Write `rows`, and try until that is done; return False if there was no time left for it."""
        from service.log.database import FAULTS_OF_DATABASE, FAULTS_OF_ROWS  # noqa: PLC0415 # as in `open`

        parts, retry_after_s = [rows], RETRY_AFTER_S
        while parts and not self._is_closed:
            part = parts[-1]
            try:
                self._write(part)
            except FAULTS_OF_ROWS as error:
                parts[-1:] = self._without_refused(part, error)
            except FAULTS_OF_DATABASE as error:
                self._tell_failure(error)
                if not self._pause(retry_after_s):
                    return False
                retry_after_s = min(2 * retry_after_s, MAX_RETRY_AFTER_S)
            else:
                parts.pop()
                self._settle(written=len(part))
                self._tell_success()
        return not parts

    def _write(self, rows: list[Row]) -> None:
        predictions = [row.values for row in rows if row.is_prediction]
        self._database.insert(predictions, [row.values for row in rows if not row.is_prediction])

    def _without_refused(self, rows: list[Row], error: Exception) -> list[list[Row]]:
        """Return the halves of `rows`, to be tried on their own; none if the only row is the one that was refused."""
        if len(rows) > 1:
            return [rows[len(rows) // 2 :], rows[: len(rows) // 2]]
        self._settle(dropped=len(rows))
        log.warning(
            "the prediction log, %s, refused an entry, which is dropped: %s",
            *(self._database.address, self._database.describe(error)),
        )
        return []

    def _settle(self, *, written: int = 0, dropped: int = 0) -> None:
        with self._changed:
            if not self._is_closed:  # else `close` has counted them
                self._in_hand -= written + dropped
                self.written += written
                self.dropped += dropped

    def _pause(self, seconds: float) -> bool:
        """Wait before the next attempt, less if the log is to close; return whether there is time for one."""
        with self._changed:
            if self._deadline is None:
                self._changed.wait_for(lambda: self._deadline is not None, timeout=seconds)
                return True
            left_s = self._deadline - time.monotonic()
            self._changed.wait(max(0, min(left_s, RETRY_AFTER_S)))
            return left_s > 0

    def _tell_failure(self, error: Exception) -> None:
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        if now < self._told_failure + _TELL_EVERY_S:
            return
        self._told_failure = now
        log.warning(
            "the prediction log, %s, can't be written: %s; answers go on, %s entries wait, %s were dropped",
            *(self._database.address, self._database.describe(error), f"{self.queued:,}", f"{self.dropped:,}"),
        )

    def _tell_success(self) -> None:
        if self._failing_since is not None:
            down_s = time.monotonic() - self._failing_since
            self._failing_since, self._told_failure = None, -float("inf")
            log.info(
                "the prediction log, %s, is written again after %.0f s; %s entries were dropped so far",
                *(self._database.address, down_s, f"{self.dropped:,}"),
            )
