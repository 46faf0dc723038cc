"""The BentoML service: `bentoml serve` in the project's root, `bentoml build`, `bentoml containerize`."""

from __future__ import annotations

import logging
import os
from functools import cache
from pathlib import Path  # noqa: TC003  # BentoML reads the types of an API's parameters
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import bentoml
from pydantic import Field

from classifier.hardware import cpu_limit
from registry import LocalRegistry
from service.answers import Classification, ModelDescription, SelfTest
from service.app import ClassifierService
from service.opening import open_served
from service.preflight import check_model, check_port
from service.source import RegistryModel, as_bentoml_errors, resolve_served
from service.uploads import DEFAULT_TOP_K, Buffer

if TYPE_CHECKING:
    from classifier.model import Model

log = logging.getLogger("bentoml.tandem")  # under BentoML's, which its servers show from INFO on


# distro="": BentoML installs no compiler and no curl; the locked packages are all wheels.
@bentoml.service(
    service_class=ClassifierService,
    traffic={"timeout": 120},  # the last resort: `service.http` answers before it, in our form
    image=bentoml.images.Image(base_image="python:3.11-slim-bookworm", distro=""),
)
class Classifier:
    """Classifies images with one model."""

    pinned = RegistryModel()

    @bentoml.on_deployment  # type: ignore[untyped-decorator]  # BentoML is untyped
    @staticmethod
    def prepare() -> None:
        """Make sure that a worker will start, and that each will serve the same model. Runs before the first does."""
        check_port()
        with as_bentoml_errors():
            artifact = resolve_served(_bento())
        check_model(artifact)
        if _bento() is None or os.environ.get("TANDEM_MODEL"):
            # An alias that moves while the service runs must not give the next worker another model.
            os.environ["TANDEM_MODEL"] = artifact.identity

    def __init__(self) -> None:
        artifact = resolve_served(_bento())
        self.model = open_served(LocalRegistry.holding(artifact), artifact.identity)
        # What decodes and infers. The engine's own threads come on top, and share the same cores.
        self.workers = anyio.CapacityLimiter(cpu_limit())
        self.in_flight = 0
        self.buffer = Buffer()
        self.description = _describe(self.model)
        _count_as_running(self.model)
        log.info(
            "%s runs on %s and passed its self-test of %d images",
            *(self.model.identity, str(self.model.engine.info), self.description.self_test.images),
        )

    @bentoml.api  # type: ignore[untyped-decorator]  # BentoML is untyped
    def classify(self, image: Path, top_k: Annotated[int, Field(ge=1)] = DEFAULT_TOP_K) -> Classification:
        """Return the labels with the highest scores for an image: JPEG, PNG, WebP or BMP."""
        # BentoML makes its clients and documents from this method. What comes over HTTP is answered by `service.http`.
        return self.classify_image(image.read_bytes(), top_k)

    def classify_image(self, image: bytes, top_k: int) -> Classification:
        """Return the labels with the highest scores for an encoded image.

        Raises:
            ImageError: the image can't be classified.
        """
        model = self.model
        [scores] = model.scores(model.decode(image).pixels[None])
        return Classification(
            predictions=model.top_k(scores, top_k),
            model=model.identity,
            digest=model.digest,
            engine=model.engine.info,
        )


def _bento() -> bentoml.Bento | None:
    """Return the Bento that is being served, None where the project's root is."""
    service: Any = Classifier  # the decorator's, no longer the class
    bento: bentoml.Bento | None = service.bento
    return bento


def _count_as_running(model: Model) -> None:
    """Add what runs to the metrics. Under `auto` it may be another precision than yesterday."""
    labels = {
        "model": model.identity,
        "engine": model.engine.info.name,
        "version": model.engine.info.version,
        "device": model.engine.info.device,
        "instruction_set": model.engine.info.instruction_set,
        "precision": model.engine.info.precision,
    }
    _model_info(tuple(labels)).labels(**labels).set(1)


@cache
def _model_info(labels: tuple[str, ...]) -> Any:
    # Here, and not above: BentoML says where the workers' metrics meet after it has imported this module.
    from prometheus_client import Gauge  # noqa: PLC0415

    # `max`: one for all workers, which run the same.
    return Gauge("tandem_model_info", "1 for what runs.", labels, multiprocess_mode="max")


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
