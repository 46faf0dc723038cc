"""The BentoML service that `bentoml serve` and `bentoml build` find through `bentofile.yaml`."""

from __future__ import annotations

import logging
import os
from pathlib import Path  # noqa: TC003  # BentoML reads the types of an API's parameters
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import bentoml
from pydantic import Field
from starlette.exceptions import HTTPException

from classifier.answers import Classification, ModelDescription, SelfTest
from classifier.hardware import cpu_limit, memory_limit
from registry import LocalRegistry
from service.edge.connections import bound_connections
from service.edge.endpoints import ROUTES, refuse
from service.edge.middleware import guard
from service.edge.openapi import complete
from service.edge.page import PAGE_ROUTES, remove_bentoml_page
from service.edge.uploads import DEFAULT_TOP_K
from service.image import SealedImage
from service.limits import Buffer, buffered_bytes
from service.metrics import publish_model_info
from service.opening import open_served
from service.preflight import check_model, check_port
from service.resolving import RegistryModel, as_bentoml_errors, resolve_served
from service.supervision import make_paths_absolute, supervise

if TYPE_CHECKING:
    from classifier.model import Model

log = logging.getLogger("bentoml.tandem")  # BentoML's servers show loggers below its own from INFO on

_WORKERS = supervise()


class TandemService(bentoml.Service[Any]):  # type: ignore[misc]  # BentoML is untyped
    """BentoML's service object with our routes, limits and OpenAPI document."""

    def to_asgi(self, is_main: bool = True) -> Any:
        """Return BentoML's Starlette application with our routes first: BentoML has its own `/classify`.

        Workers call this, and then start uvicorn.
        """
        app = super().to_asgi(is_main=is_main)
        remove_bentoml_page(app)
        app.router.routes[:0] = [*ROUTES, *PAGE_ROUTES]
        app.add_exception_handler(HTTPException, refuse)
        guard(app)
        bound_connections()
        return app

    @property
    def openapi_spec(self) -> Any:
        """BentoML's OpenAPI document, completed with our routes."""
        return complete(super().openapi_spec, self)


# distro="": BentoML installs neither a compiler nor curl. All locked packages are wheels.
@bentoml.service(
    service_class=TandemService,
    workers=_WORKERS,
    traffic={"timeout": 120},  # the last resort: the timeouts of `service.limits` come first
    image=SealedImage(base_image="python:3.11-slim-bookworm", distro=""),
)
class Classifier:
    """Classifies images with one model."""

    pinned = RegistryModel()

    @bentoml.on_deployment  # type: ignore[untyped-decorator]  # BentoML is untyped
    @staticmethod
    def prepare() -> None:
        """Check that workers can start, and fix the model that all of them serve. Runs once, before the first worker.

        Raises:
            BentoMLException: the port is taken, or the model can't be found, opened or self-tested.
        """
        check_port()
        make_paths_absolute()
        with as_bentoml_errors():
            artifact = resolve_served(_bento())
        check_model(artifact, workers=_WORKERS)
        if _bento() is None or os.environ.get("TANDEM_MODEL"):
            # Pin the digest: an alias that moves later must not give a restarted worker another model.
            os.environ["TANDEM_MODEL"] = artifact.identity

    def __init__(self) -> None:
        # A worker answers nothing, not even /readyz, before this returns: ready means opened and self-tested.
        artifact = resolve_served(_bento())
        self.model = open_served(LocalRegistry.holding(artifact), artifact.identity)
        # Threads that decode and infer. The engine starts its own threads on the same cores.
        self.workers = anyio.CapacityLimiter(cpu_limit())
        self.in_flight = 0
        self.buffer = Buffer(buffered_bytes(memory_limit()))
        self.description = _describe(self.model)
        publish_model_info(self.model)
        log.info(
            "%s runs on %s and passed its self-test of %d images",
            self.model.identity,
            self.model.engine.info,
            self.description.self_test.images,
        )

    @bentoml.api  # type: ignore[untyped-decorator]  # BentoML is untyped
    def classify(self, image: Path, top_k: Annotated[int, Field(ge=1)] = DEFAULT_TOP_K) -> Classification:
        """Return the labels with the highest scores for an image: JPEG, PNG, WebP or BMP."""
        # BentoML's clients and OpenAPI document are made from this method. HTTP requests meet `service.edge.endpoints`.
        return self.classify_image(image.read_bytes(), top_k)

    def classify_image(self, image: bytes, top_k: int) -> Classification:
        """Return the labels with the highest scores for an encoded image.

        Raises:
            ImageError: the image can't be classified.
        """
        model = self.model
        [scores] = model.scores(model.decode(image).pixels[None])
        model.check_finite(scores)
        return Classification(
            predictions=model.top_k(scores, top_k),
            model=model.identity,
            digest=model.digest,
            engine=model.engine.info,
        )


def _bento() -> bentoml.Bento | None:
    """Return the Bento that is being served; None if the service runs from the project's root."""
    service: Any = Classifier  # the decorator has replaced the class by a service object
    bento: bentoml.Bento | None = service.bento
    return bento


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
