"""Which model a service serves: the one that TANDEM_MODEL names, else the Bento's, else the registry's only one."""

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
"""The label that holds a model's identity in BentoML's store, whose tags are too short for a digest."""


def resolve_served(bento: bentoml.Bento | None) -> Artifact:
    """Return the artifact that $TANDEM_MODEL names, else the one in `bento`, else the registry's only one.

    Raises:
        RegistryError: the reference can't be resolved or fetched, or the registry does not hold exactly one model.
        DamagedArtifact: the manifest is missing, or does not match its digest.
    """
    reference = os.environ.get("TANDEM_MODEL") or None
    if reference is None and bento is not None:
        [pinned] = bento.info.all_models
        stored = bentoml.models.get(pinned.tag)
        return LocalRegistry(Path(stored.path)).resolve(stored.info.labels[_IDENTITY])
    return fetch_model(reference, LocalRegistry.default())


class RegistryModel(BentoModel):  # type: ignore[misc]  # BentoML is untyped
    """The served model as BentoML sees it: read from Tandem's registry by `serve`, pinned by `build`."""

    def __init__(self) -> None:
        # BentoML needs a tag now; the real one is known when a Bento is built.
        super().__init__(tag="tandem")

    def resolve(self, base_path: Any = None, global_model_store: Any = None) -> Any:
        """Return the artifact to serve without a Bento. BentoML calls this before it starts a worker."""
        with as_bentoml_errors():
            return resolve_served(None)

    def to_info(self, alias: str | None = None) -> Any:
        """Return the info that pins the model in a Bento. BentoML calls this only to build one.

        Copies the model into BentoML's store, as an OCI image layout like the registry's.
        """
        with as_bentoml_errors():
            artifact = resolve_served(None)
            if problems := artifact.verify():
                raise DamagedArtifact(problems[0])
            tag = f"{_bento_name(artifact.name)}:{artifact.digest.replace(':', '-')[:47]}"
            try:
                stored = bentoml.models.get(tag)
                # Repair an earlier copy that has damaged or missing files.
                _copy(artifact, stored)
            except NotFound:
                # `create` adds the model to the store at the end of the block, so a failed copy leaves nothing there.
                with bentoml.models.create(tag, labels={_IDENTITY: artifact.identity}) as new:
                    _copy(artifact, new)
                stored = bentoml.models.get(tag)
                # BentoML gives only the owner access; in an image, any `docker run --user` must be able to read it.
                Path(stored.path).chmod(0o755)
        return BentoModel(stored.tag).to_info(alias)


def _bento_name(name: str) -> str:
    """Return a model's name for BentoML's store, which allows neither hosts nor folders in names."""
    return name.replace("/", ".").replace(":", ".")[-63:].strip("._-")


def _copy(artifact: Artifact, model: bentoml.Model) -> None:
    LocalRegistry.default().copy(artifact, LocalRegistry(Path(model.path)))


@contextmanager
def as_bentoml_errors() -> Iterator[None]:
    """Turn a TandemError into a BentoMLException, which BentoML's commands print as one sentence."""
    try:
        yield
    except TandemError as error:
        raise BentoMLException(str(error)) from error
