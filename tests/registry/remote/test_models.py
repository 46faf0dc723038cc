"""The models of a remote repository: bare names, and aliases that move."""

from __future__ import annotations

import pytest

from classifier.errors import InvalidReference
from registry import LocalRegistry, Reference, fetch_model, push
from registry.remote.models import RemoteModels
from tests.registry.artifacts import make_files
from tests.registry.servers import needs_registry

pytestmark = needs_registry


def test_tags_of_a_remote_repository_move(registry: LocalRegistry, there: LocalRegistry, remote: str) -> None:
    """A bare name means production, else the highest version; an alias is looked up each time."""
    for graph in "ab":
        push(registry.add("digits", make_files(graph)).artifact.reference, remote, registry)
    one, two = (registry.resolve(f"digits:{number}").digest for number in (1, 2))
    assert fetch_model(remote, there).digest == two
    models = RemoteModels(Reference.parse(remote))
    for number, digest in ((1, one), (2, two)):
        models.tag(Reference.parse(f"{remote}:{number}"), "production", "candidate")
        assert fetch_model(remote, there).digest == digest
        assert fetch_model(f"{remote}:candidate", there).digest == digest
    with pytest.raises(InvalidReference, match="can't be an alias"):
        models.tag(Reference.parse(f"{remote}:1"), "7")
