"""Which model a service serves: the one that TANDEM_MODEL names, else the one in its Bento, else the only one."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bentoml
from bentoml.exceptions import BentoMLException, NotFound
from bentoml.models import BentoModel

from classifier.errors import DamagedArtifact, TandemError
from registry import Artifact, LocalRegistry, fetch_model

if TYPE_CHECKING:
    from collections.abc import Iterator

_IDENTITY = "tandem.model"
"""The label of a model in BentoML's store that holds its identity: a tag there is too short for a digest."""


def resolve_served(bento: bentoml.Bento | None) -> Artifact:
    """Return the artifact that $TANDEM_MODEL names, else the one that `bento` holds, else the registry's only one.

    Raises:
        RegistryError: the reference can't be resolved or fetched, or there isn't exactly one model.
        DamagedArtifact: the manifest is missing, or not what its digest says.
    """
    reference = os.environ.get("TANDEM_MODEL") or None
    if reference is None and bento is not None:
        [pinned] = bento.info.all_models
        stored = bentoml.models.get(pinned.tag)
        return LocalRegistry(Path(stored.path)).resolve(stored.info.labels[_IDENTITY])
    return fetch_model(reference, LocalRegistry.default())


class RegistryModel(BentoModel):  # type: ignore[misc]  # BentoML is untyped
    """The served model as BentoML knows it: of Tandem's registry while served from its sources, pinned by a build."""

    def __init__(self) -> None:
        # BentoML wants a tag; the real one is known when a Bento is built.
        super().__init__(tag="tandem")

    def resolve(self, base_path: Any = None, global_model_store: Any = None) -> Any:
        """Return the artifact that is served without a Bento. BentoML calls it before it starts a worker."""
        with as_bentoml_errors():
            return resolve_served(None)

    def to_info(self, alias: str | None = None) -> Any:
        """Return what pins the model in a Bento, after copying it into BentoML's store. Only a build calls it.

        The copy is an OCI image layout, as the registry is.
        """
        with as_bentoml_errors():
            artifact = resolve_served(None)
            if problems := artifact.verify():
                raise DamagedArtifact(problems[0])
            tag = f"{_bento_name(artifact.name)}:{artifact.digest.replace(':', '-')[:47]}"
            try:
                stored = bentoml.models.get(tag)
                # What is damaged or missing in a copy that stands is put right.
                _copy(artifact, stored)
            except NotFound:
                # Before it enters the store: of a copy that fails nothing is left there.
                with bentoml.models.create(tag, labels={_IDENTITY: artifact.identity}) as new:
                    _copy(artifact, new)
                stored = bentoml.models.get(tag)
                # BentoML makes it for its owner alone; in an image, any `docker run --user` must read it.
                Path(stored.path).chmod(0o755)
        return BentoModel(stored.tag).to_info(alias)


def _bento_name(name: str) -> str:
    """Return the name that a model has in BentoML's store, which knows neither hosts nor folders."""
    return name.replace("/", ".").replace(":", ".")[-63:].strip("._-")


def _copy(artifact: Artifact, model: bentoml.Model) -> None:
    LocalRegistry.default().copy(artifact, LocalRegistry(Path(model.path)))


@contextmanager
def as_bentoml_errors() -> Iterator[None]:
    """Turn what a user can cause into BentoML's own error, with which its commands end in one sentence."""
    try:
        yield
    except TandemError as error:
        raise BentoMLException(str(error)) from error
