"""What a worker holds while it serves: the open model, what scores images, and what counts and bounds requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import bentoml

from classifier.answers import ModelDescription, SelfTest
from classifier.hardware import memory_limit
from service.admission import Admission, Buffer
from service.limits import buffered_bytes
from service.metrics import Metrics
from service.scoring import Scorer

if TYPE_CHECKING:
    from classifier.model import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """The parts of a service, which its endpoints use."""

    model: Model
    description: ModelDescription
    scorer: Scorer
    metrics: Metrics
    admission: Admission
    buffer: Buffer

    @classmethod
    def start(cls, model: Model) -> Self:
        """Return what serves an open, self-tested model."""
        metrics = Metrics(model)
        return cls(
            model=model,
            description=_describe(model),
            scorer=Scorer(model, executed=metrics.count_execution),
            metrics=metrics,
            admission=Admission(),
            buffer=Buffer(buffered_bytes(memory_limit())),
        )

    @staticmethod
    def current() -> Serving:
        """Return what this process serves."""
        service: Any = bentoml.get_current_service()
        serving: Serving = service.serving
        return serving

    def close(self) -> None:
        """End what runs in the background."""
        self.scorer.close()


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
