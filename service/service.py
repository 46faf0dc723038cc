"""The BentoML service that `bentoml serve` and `bentoml build` find through `bentofile.yaml`."""

from __future__ import annotations

import logging
import os
from functools import partial
from pathlib import Path  # noqa: TC003  # BentoML reads the types of an API's parameters
from typing import Annotated, Any

import bentoml
from pydantic import Field

from classifier.answers import BatchClassification, BatchItem, Classification, Error
from classifier.errors import ImageError
from registry import LocalRegistry
from service import limits
from service.access.options import Access
from service.edge.application import Application
from service.edge.classify import ROUTES
from service.edge.connections import bound_connections
from service.edge.feedback import FEEDBACK_ROUTES
from service.edge.guarding import Guarded, with_cors
from service.edge.openapi import OPENAPI_ROUTES, openapi
from service.edge.page import PAGE_ROUTES
from service.edge.stopping import stop_with_care
from service.edge.uploads import DEFAULT_TOP_K
from service.edge.v2.routes import V2_ROUTES
from service.image import SealedImage
from service.log import LOG_URL, check_log_url
from service.opening import open_served
from service.preflight import check_model, check_options, check_port
from service.resolving import RegistryModel, as_bentoml_errors, resolve_served
from service.serving import Serving
from service.supervision import make_paths_absolute, supervise
from service.tracing import chosen_exporter

log = logging.getLogger("bentoml.tandem")  # BentoML's servers show loggers below its own from INFO on

_WORKERS = supervise()


class TandemService(bentoml.Service[Any]):  # type: ignore[misc]  # BentoML is untyped
    """BentoML's service object with our application and OpenAPI document."""

    def to_asgi(self, is_main: bool = True) -> Any:
        """Return our application around BentoML's. Workers call this, and then start uvicorn."""
        bound_connections()
        stop_with_care()
        limits.lower_limits()
        access = Access.from_environment()
        routes = [*ROUTES, *FEEDBACK_ROUTES, *V2_ROUTES, *OPENAPI_ROUTES, *PAGE_ROUTES]
        around = [partial(Guarded, access=access)]
        return Application(super().to_asgi(is_main=is_main), routes, around, partial(with_cors, access=access))

    @property
    def openapi_spec(self) -> Any:
        """Our OpenAPI document. `bentoml build` writes it into the Bento."""
        return openapi()


# distro="": BentoML installs neither a compiler nor curl. All locked packages are wheels.
@bentoml.service(
    service_class=TandemService,
    workers=_WORKERS,
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
            BentoMLException: the port is taken; a variable is malformed; or the model can't be found, opened or tested.
        """
        check_port()
        chosen_exporter(os.environ)
        make_paths_absolute()
        check_options()
        with as_bentoml_errors():
            artifact = resolve_served(_bento())
            if url := os.environ.get(LOG_URL):
                os.environ[LOG_URL] = check_log_url(url)
        check_model(artifact, workers=_WORKERS)
        if _bento() is None or os.environ.get("TANDEM_MODEL"):
            # Pin the digest: an alias that moves later must not give a restarted worker another model.
            os.environ["TANDEM_MODEL"] = artifact.identity

    def __init__(self) -> None:
        # A worker answers nothing, not even /readyz, before this returns: ready means opened and self-tested.
        artifact = resolve_served(_bento())
        model = open_served(LocalRegistry.holding(artifact), artifact.identity)
        self.serving = Serving.start(model, artifact.versions)
        log.info(
            "%s runs on %s and passed its self-test of %d images",
            model.identity,
            model.engine.info,
            len(model.golden.images),
        )

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]  # BentoML is untyped
    async def close(self) -> None:
        """End what runs in the background. BentoML calls this when the worker ends."""
        await self.serving.close()

    # BentoML's clients are made from these methods. HTTP requests meet `service.edge.classify`.

    @bentoml.api  # type: ignore[untyped-decorator]  # BentoML is untyped
    def classify(self, image: Path, top_k: Annotated[int, Field(ge=1)] = DEFAULT_TOP_K) -> Classification:
        """Return the labels with the highest scores for an image: JPEG, PNG, WebP or BMP."""
        [found] = self._classify([image], top_k)
        if isinstance(found, ImageError):
            raise found
        info = self.serving.description
        return Classification(predictions=found, model=info.model, digest=info.digest, engine=info.engine)

    @bentoml.api  # type: ignore[untyped-decorator]  # BentoML is untyped
    def classify_batch(
        self, images: list[Path], top_k: Annotated[int, Field(ge=1)] = DEFAULT_TOP_K
    ) -> BatchClassification:
        """Return the labels with the highest scores for each of several images, or why it has none."""
        results = tuple(
            BatchItem(error=Error(reason=found.reason, message=str(found)))
            if isinstance(found, ImageError)
            else BatchItem(predictions=found)
            for found in self._classify(images, top_k)
        )
        info = self.serving.description
        return BatchClassification(results=results, model=info.model, digest=info.digest, engine=info.engine)

    def _classify(self, images: list[Path], top_k: int) -> Any:
        return self.serving.model.classify([image.read_bytes() for image in images], top_k)


def _bento() -> bentoml.Bento | None:
    """Return the Bento that is being served; None if the service runs from the project's root."""
    service: Any = Classifier  # the decorator has replaced the class by a service object
    bento: bentoml.Bento | None = service.bento
    return bento
