"""What a worker holds while it serves: the open model, what scores images, and what counts and bounds requests."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

import anyio.to_thread
import bentoml

from classifier.answers import ModelDescription, SelfTest
from classifier.hardware import memory_limit
from service import limits
from service.admission import Admission, Buffer
from service.cache import open_cache
from service.limits import buffered_bytes
from service.log import LOG_URL, PredictionLog
from service.log.exchanges import entries_of
from service.metrics import Metrics
from service.sampling import Sampling
from service.scoring import Scorer
from service.tracing import Tracing, start_tracing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from classifier.model import Model
    from service.cache import ResultCache
    from service.exchange import Exchange

log = logging.getLogger("bentoml.tandem")  # BentoML's servers show loggers below its own from INFO on

_HASHED_AT_ONCE = 2**20
"""Bytes that are hashed on the event loop. More would hold up other requests for longer than a millisecond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """The parts of a service, which its endpoints use.

    Attributes:
        versions: that the served digest has in the registry, ascending; none if only its digest was asked for.
    """

    model: Model
    versions: tuple[int, ...]
    description: ModelDescription
    scorer: Scorer
    metrics: Metrics
    sampling: Sampling
    tracing: Tracing | None
    admission: Admission
    buffer: Buffer
    cache: ResultCache | None
    prediction_log: PredictionLog | None

    @classmethod
    def start(cls, model: Model, versions: tuple[int, ...]) -> Self:
        """Return what serves an open, self-tested model, with what the environment asks for. Called on the event loop.

        Raises:
            InvalidSetting: a variable of the environment has a wrong value.
            LogError: so has the one that names the prediction log.
        """
        metrics, admission, cache = Metrics(model), Admission(), open_cache(model)
        log_url = os.environ.get(LOG_URL)
        prediction_log = PredictionLog.open(log_url) if log_url else None
        scorer = Scorer(model, executed=metrics.count_execution, cache=cache)
        sampling = Sampling(metrics.known)
        sampling.follow_load(admission, scorer)
        if cache is not None:
            sampling.follow_cache(cache)
        if prediction_log is not None:
            sampling.follow_log(prediction_log)
        sampling.start()
        return cls(
            model=model,
            versions=versions,
            description=_describe(model),
            scorer=scorer,
            metrics=metrics,
            sampling=sampling,
            tracing=start_tracing(model),
            admission=admission,
            buffer=Buffer(buffered_bytes(memory_limit())),
            cache=cache,
            prediction_log=prediction_log,
        )

    @staticmethod
    def current() -> Serving:
        """Return what this process serves."""
        service: Any = bentoml.get_current_service()
        serving: Serving = service.serving
        return serving

    def note(self, exchange: Exchange, elapsed_s: float) -> None:
        """Count a request that has been answered in `elapsed_s`, and enter its images into the prediction log."""
        exchange.settle()
        self.metrics.count(exchange, elapsed_s)
        if self.prediction_log is not None and exchange.outcomes:
            time_utc = datetime.now(UTC) - timedelta(seconds=elapsed_s)
            for entry in entries_of(exchange, self.model, time_utc=time_utc, elapsed_s=elapsed_s):
                self.prediction_log.record(entry)

    async def sha256_of(self, images: Sequence[object]) -> list[bytes | None]:
        """Return the SHA-256 of each encoded image; None for pixels and errors, and if nothing needs it."""
        if self.cache is None and self.prediction_log is None:
            return [None] * len(images)
        if sum(len(image) for image in images if isinstance(image, bytes)) > _HASHED_AT_ONCE:
            return await anyio.to_thread.run_sync(_sha256, images)
        return _sha256(images)

    async def close(self) -> None:
        """End what runs in the background, and write what waits, within `limits.CLOSE_WITHIN_S`."""
        self.scorer.close()
        closing: list[Awaitable[None]] = []
        if self.cache is not None:
            closing.append(self.cache.close())
        if self.prediction_log is not None:
            closing.append(self.prediction_log.aclose(limits.LOG_WITHIN_S))
        if self.tracing is not None:
            closing.append(anyio.to_thread.run_sync(self.tracing.close))
        # Side by side, or a Redis that is down would take the prediction log's time.
        for failure in await asyncio.gather(*closing, return_exceptions=True):
            if failure is not None:
                log.warning("a part of the service could not end in order: %s", failure)
        self.sampling.close()


def _sha256(images: Sequence[object]) -> list[bytes | None]:
    return [hashlib.sha256(image).digest() if isinstance(image, bytes) else None for image in images]


def _describe(model: Model) -> ModelDescription:
    info = model.engine.info
    return ModelDescription(
        model=model.identity,
        name=model.name,
        digest=model.digest,
        architecture=model.config.architecture,
        labels=model.config.labels,
        preprocessing=model.config.preprocessing,
        engine=info,
        self_test=SelfTest(images=len(model.golden.images), tolerance=model.golden.tolerances[info.precision]),
    )
