"""The BentoML service that `bentoml serve` and `bentoml build` find through `bentofile.yaml`.

BentoML's parent process imports this module, too. It decodes and infers nothing, so what only workers need is imported
when they call for it.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path  # noqa: TC003  # BentoML reads the types of an API's parameters
from typing import Annotated, Any

import bentoml
from pydantic import Field

from classifier.answers import DEFAULT_TOP_K, BatchClassification, BatchItem, Classification, Error
from classifier.errors import ImageError
from registry import LocalRegistry
from service.image import SealedImage
from service.log import LOG_URL, check_log_url
from service.preflight import check_options, check_port
from service.resolving import RegistryModel, as_bentoml_errors, resolve_served
from service.starting import reporting_failure
from service.supervision import make_paths_absolute, supervise
from service.tracing import chosen_exporter

log = logging.getLogger("bentoml.tandem")  # BentoML's servers show loggers below its own from INFO on

_SUPERVISION = supervise()


class TandemService(bentoml.Service[Any]):  # type: ignore[misc]  # BentoML is untyped
    """BentoML's service object with our application and OpenAPI document."""

    def to_asgi(self, is_main: bool = True) -> Any:
        """Return our application around BentoML's. Workers call this, and then start uvicorn."""
        from service.edge.assembly import assemble, spare_proxies  # noqa: PLC0415

        spare_proxies()
        return assemble(super().to_asgi(is_main=is_main))

    @property
    def openapi_spec(self) -> Any:
        """Our OpenAPI document. `bentoml build` writes it into the Bento."""
        from service.edge.openapi import openapi  # noqa: PLC0415

        return openapi()


@bentoml.service(service_class=TandemService, workers=_SUPERVISION.workers, image=SealedImage.of_service())
class Classifier:
    """Classifies images with one model."""

    pinned = RegistryModel()

    @bentoml.on_deployment  # type: ignore[untyped-decorator]  # BentoML is untyped
    @staticmethod
    def prepare() -> None:
        """Check that workers can start, and fix the model that all of them serve. Runs once, before the first worker.

        Raises:
            BentoMLException: the port is taken, a variable is malformed, or the model can't be found; started from
                Python, where nobody watches the workers, also if it can't be opened.
        """
        check_port()
        chosen_exporter(os.environ)
        make_paths_absolute()
        check_options()
        with as_bentoml_errors():
            artifact = resolve_served(_bento())
            if url := os.environ.get(LOG_URL):
                os.environ[LOG_URL] = check_log_url(url)
            if not _SUPERVISION.is_watching:
                from service.cache import open_cache  # noqa: PLC0415
                from service.opening import open_served  # noqa: PLC0415

                open_cache(open_served(LocalRegistry.holding(artifact), artifact.identity))
        _SUPERVISION.model = artifact.identity
        if _bento() is None or os.environ.get("TANDEM_MODEL"):
            # Pin the digest: an alias that moves later must not give a restarted worker another model.
            os.environ["TANDEM_MODEL"] = artifact.identity

    def __init__(self) -> None:
        # A worker answers nothing, not even /readyz, before this returns: ready means opened and self-tested.
        from service.opening import open_served  # noqa: PLC0415
        from service.serving import Serving  # noqa: PLC0415

        with reporting_failure():
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
