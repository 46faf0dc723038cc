"""From a reference to the one artifact that it names, or to an error that says what there is instead."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from classifier.errors import DamagedArtifact, ModelNotFound, ModelNotNamed
from registry.oci.references import version_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from registry.oci.artifact import Artifact
    from registry.oci.references import Reference

PRODUCTION = "production"
"""The alias that a bare name means, where it is set."""

SEE_LIST = "'tandem models list' shows what there is"


def find_artifact(reference: Reference, stored: Sequence[Artifact], root: Path) -> Artifact:
    """Return the one of `stored`, the artifacts of the registry at `root`, that `reference` names.

    Raises:
        ModelNotFound: none has that name, version, alias or digest.
    """
    named = [artifact for artifact in stored if artifact.name == reference.repository]
    if not named:
        raise _unknown_name(reference, stored, root)
    if reference.tag is not None:
        matching = [artifact for artifact in named if reference.tag in artifact.tags]
    elif reference.digest is not None:
        matching = [artifact for artifact in named if artifact.digest == reference.digest]
    else:
        matching = _meant_by_bare_name(named)
    if not matching:
        known = ", ".join(tag for artifact in named for tag in artifact.tags if tag is not None) or "no tag"
        raise ModelNotFound(
            f"model '{reference}' is not in the registry {root}: '{reference.repository}' has {known}; {SEE_LIST}"
        )
    if reference.digest not in (None, matching[0].digest):
        raise ModelNotFound(
            f"'{reference.tagged}' in the registry {root} is {matching[0].digest}, not {reference.digest}: {SEE_LIST}"
        )
    return matching[0]


def only_name(stored: Sequence[Artifact], root: Path) -> str:
    """Return the name of the models in the registry at `root`, where all have the same.

    Raises:
        ModelNotFound: there is no model.
        ModelNotNamed: there are several names.
    """
    names = _model_names(stored)
    if not names:
        raise ModelNotFound(no_model_yet(root))
    if len(names) > 1:
        raise ModelNotNamed(
            f"the registry {root} holds several models ({', '.join(names)}): name one with --model or TANDEM_MODEL"
        )
    return names[0]


def may_be_model(artifact: Artifact) -> bool:
    """Return whether this is a model, or too damaged to tell."""
    try:
        return artifact.kind is None
    except DamagedArtifact:
        return True


def no_model_yet(root: Path) -> str:
    """Return the sentence for an empty registry, with the way to a first model."""
    return (
        f"the registry {root} holds no model yet; 'tandem train digits --run runs/digits' and then "
        "'tandem export runs/digits --name digits' make one"
    )


def _meant_by_bare_name(named: Sequence[Artifact]) -> list[Artifact]:
    """Return `production`, else the highest version, else what was copied in under the name alone."""
    versions = [tag for artifact in named for tag in artifact.tags if version_of(tag) is not None]
    for tag in (PRODUCTION, *sorted(versions, key=lambda tag: version_of(tag) or 0)[-1:], None):
        if matching := [artifact for artifact in named if tag in artifact.tags]:
            return matching
    return []


def _unknown_name(reference: Reference, stored: Sequence[Artifact], root: Path) -> ModelNotFound:
    if reference.host is not None:
        return ModelNotFound(
            f"no copy of '{reference}' is in the registry {root}: 'tandem models pull {reference}' fetches it"
        )
    names = _model_names(stored)
    if not names:
        return ModelNotFound(f"model '{reference}' was not found: {no_model_yet(root)}")
    close = difflib.get_close_matches(reference.name, names, n=1)
    meant = f"did you mean '{close[0]}'? " if close else ""
    return ModelNotFound(f"model '{reference}' is not in the registry {root}: {meant}{SEE_LIST}")


def _model_names(stored: Sequence[Artifact]) -> list[str]:
    return sorted({artifact.name for artifact in stored if may_be_model(artifact)})
