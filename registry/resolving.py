"""From a reference to the stored artifact that it names, or to an error that lists what there is."""

from __future__ import annotations

import difflib
from importlib.util import find_spec
from typing import TYPE_CHECKING

from classifier.errors import DamagedArtifact, ModelNotFound, ModelNotNamed
from registry.oci.references import tag_of_bare_name, tag_order

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from registry.oci.artifact import Artifact
    from registry.oci.references import Reference

SEE_LIST = "'tandem models list' shows what there is"


def find_artifact(reference: Reference, stored: Sequence[Artifact], root: Path) -> Artifact:
    """Return the artifact that `reference` names.

    Args:
        reference: what to look for.
        stored: the registry's artifacts.
        root: the registry's folder, for error messages.

    Raises:
        ModelNotFound: no artifact has that name, version, alias or digest.
    """
    named = [artifact for artifact in stored if artifact.name == reference.repository]
    if not named:
        raise _unknown_name(reference, stored, root)
    if reference.tag is None and reference.digest is not None:
        matching = [artifact for artifact in named if artifact.digest == reference.digest]
    else:
        # Without a tag to choose, a bare name means the entry that was copied in under the name alone.
        tag = reference.tag or tag_of_bare_name([tag for artifact in named for tag in artifact.tags])
        matching = [artifact for artifact in named if tag in artifact.tags]
    if not matching:
        tags = sorted((tag for artifact in named for tag in artifact.tags if tag is not None), key=tag_order)
        known = ", ".join(tags) or "no tag"
        raise ModelNotFound(
            f"model '{reference}' is not in the registry {root}: '{reference.repository}' has {known}; {SEE_LIST}"
        )
    if reference.digest not in (None, matching[0].digest):
        raise ModelNotFound(
            f"'{reference.tagged}' in the registry {root} is {matching[0].digest}, not {reference.digest}: {SEE_LIST}"
        )
    return matching[0]


def only_name(stored: Sequence[Artifact], root: Path) -> str:
    """Return the name that all models of the registry at `root` share.

    Raises:
        ModelNotFound: the registry is empty.
        ModelNotNamed: the models have several names.
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
    """Return whether this is a model, or is too damaged to tell."""
    try:
        return artifact.kind is None
    except DamagedArtifact:
        return True


def no_model_yet(root: Path) -> str:
    """Return the message for an empty registry: how to bring a first model, or how to make one."""
    fact = f"the registry {root} holds no model yet"
    if (root.parent / "oci-layout").exists():
        return f"{fact}, but {root.parent} is itself a registry: mount it at {root}"
    if find_spec("torch") is None:  # as in the images, where nothing can be trained
        return (
            f"{fact}; mount a TANDEM_HOME that holds one at {root.parent}, or name a model of a remote registry, "
            "'ghcr.io/acme/digits:3'"
        )
    return (
        f"{fact}; 'tandem train digits --run runs/digits' and then 'tandem export runs/digits --name digits' make one"
    )


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
