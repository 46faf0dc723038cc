"""What a worker holds while it serves: the open model, what scores images, and what counts and bounds requests."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import anyio.to_thread
import bentoml

from classifier.answers import ModelDescription, SelfTest
from classifier.hardware import memory_limit
from service.cache import open_cache
from service.limits import Admission, Buffer, buffered_bytes
from service.metrics import Metrics
from service.scoring import Scorer

if TYPE_CHECKING:
    from classifier.model import Model
    from service.cache import ResultCache


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
    admission: Admission
    buffer: Buffer
    cache: ResultCache | None

    @classmethod
    def start(cls, model: Model, versions: tuple[int, ...]) -> Self:
        """Return what serves an open, self-tested model, with what the environment asks for.

        Raises:
            InvalidSetting: a variable of the environment has a wrong value.
        """
        metrics, cache = Metrics(model), open_cache(model)
        return cls(
            model=model,
            versions=versions,
            description=_describe(model),
            scorer=Scorer(model, executed=metrics.count_execution, cache=cache),
            metrics=metrics,
            admission=Admission(),
            buffer=Buffer(buffered_bytes(memory_limit())),
            cache=cache,
        )

    @staticmethod
    def current() -> Serving:
        """Return what this process serves."""
        service: Any = bentoml.get_current_service()
        serving: Serving = service.serving
        return serving

    async def sha256_of(self, image: bytes) -> bytes | None:
        """Return the SHA-256 of an encoded image; None if nothing needs it."""
        if self.cache is None:
            return None
        if len(image) > _HASHED_AT_ONCE:
            return await anyio.to_thread.run_sync(_sha256, image)
        return _sha256(image)

    async def close(self) -> None:
        """End what runs in the background, and write what waits."""
        self.scorer.close()
        if self.cache is not None:
            await self.cache.close()


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


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
