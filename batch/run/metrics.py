"""Metrics of a run for the text collector of Prometheus' node exporter."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from classifier.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from batch.run.fingerprint import Fingerprint
    from batch.run.record import Commit, RunRecord

log = logging.getLogger(__name__)

EVERY_S = 10


class MetricsFile:
    """A metrics file that is replaced, whole, every few seconds. Without a path it does nothing.

    If it can't be written, that is logged once and ends no run.
    """

    def __init__(self, path: Path | None, run: Fingerprint) -> None:
        self._path = path
        self._run = run
        self._written: float | None = None
        self._has_failed = False

    def update(self, commits: Iterable[Commit], classified: int) -> None:
        """Write the metrics of a running attempt, at most every `EVERY_S` seconds."""
        now = time.monotonic()
        if self._path is None or (self._written is not None and now - self._written < EVERY_S):
            return
        self._written = now
        images, errors = 0, dict[str, int]()
        for commit in commits:
            images += commit.rows
            for reason, count in commit.errors.items():
                errors[reason] = errors.get(reason, 0) + count
        self._replace(images, errors, classified, state="running")

    def write(self, record: RunRecord) -> None:
        """Write the metrics of an attempt that has ended."""
        self._replace(record.images, record.errors, record.attempts[-1].images, state=record.state)

    def _replace(self, images: int, errors: dict[str, int], classified: int, *, state: str) -> None:
        if self._path is None:
            return
        from prometheus_client import CollectorRegistry, Gauge, write_to_textfile  # noqa: PLC0415

        registry = CollectorRegistry()
        labels = {"model": self._run.model, "shard": str(self._run.shard or "1/1")}

        engine = self._run.engine
        runs = {
            "engine": engine.name,
            "version": engine.version,
            "device": engine.device,
            "instruction_set": engine.instruction_set,
            "precision": engine.precision,
        }
        info = Gauge("tandem_batch_info", "1 for the engine that runs the model.", [*labels, *runs], registry=registry)
        info.labels(**labels, **runs).set(1)

        def gauge(name: str, what: str, values: dict[str, float], label: str | None = None) -> None:
            family = Gauge(name, what, [*labels, *([label] if label else [])], registry=registry)
            for key, value in values.items():
                family.labels(**labels, **({label: key} if label else {})).set(value)

        failed = sum(errors.values())
        states = {each: float(each == state) for each in ("running", "interrupted", "done")}
        gauge("tandem_batch_planned_images", "Images in the run.", {"": self._run.images})
        gauge("tandem_batch_images", "Images that have a row.", {"ok": images - failed, "error": failed}, "status")
        gauge("tandem_batch_failed_images", "Images that failed.", dict(sorted(errors.items())), "reason")
        gauge("tandem_batch_attempt_images", "Images that this attempt classified.", {"": classified})
        gauge("tandem_batch_state", "1 for the state of the run.", states, "state")
        gauge("tandem_batch_updated_timestamp_seconds", "When this was written.", {"": time.time()})
        try:
            write_to_textfile(str(self._path), registry)  # written aside, then renamed
        except OSError as error:
            # Somebody's dashboard is not worth a run: it goes on, and says so once.
            if not self._has_failed:
                log.warning(
                    "the metrics file '%s' can't be written (%s); the run goes on without it",
                    self._path,
                    error.strerror,
                )
            self._has_failed = True


def check_metrics_file(path: Path | None) -> None:
    """Check that the metrics file can be written.

    Raises:
        OutputError: its folder does not exist.
    """
    if path is not None and not path.absolute().parent.is_dir():
        raise OutputError(f"the folder of the metrics file '{path}' does not exist; make it, or name another file")
