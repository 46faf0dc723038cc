"""Referrers in a layout: found by their subject, and left out when damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from registry.oci.manifest import Manifest
from registry.oci.referrers import (
    is_media_type,
    list_referrers,
    pack_referrer,
    parse_referrer,
    read_referrers,
    store_referrers,
)
from tests.registry.artifacts import make_files

if TYPE_CHECKING:
    from registry import LocalRegistry

SBOM = "application/spdx+json"


def test_a_stored_referrer_is_found_by_its_subject(registry: LocalRegistry) -> None:
    """Stored twice it is there once; another model has none."""
    one, two = (registry.add("digits", make_files(graph)).artifact for graph in "ab")
    sbom = pack_referrer(one.descriptor, artifact_type=SBOM, title="sbom.json", data=b'{"name": "one"}')
    for _ in range(2):
        store_referrers([sbom], registry.layout)
    assert read_referrers(one.digest, registry.layout) == [sbom]
    assert read_referrers(two.digest, registry.layout) == []
    assert registry.models() == [one, two]


def test_a_damaged_referrer_is_left_out(registry: LocalRegistry) -> None:
    """A damaged file: listed, not read. A damaged manifest: neither. The model stays whole."""
    model = registry.add("digits", make_files()).artifact
    sbom = pack_referrer(model.descriptor, artifact_type=SBOM, title="sbom.json", data=b"{} ")
    store_referrers([sbom], registry.layout)
    registry.layout.blob_path(sbom.manifest.layers[0].digest).write_bytes(b"{}x")
    assert len(list_referrers(model.digest, registry.layout)) == 1
    assert read_referrers(model.digest, registry.layout) == []
    registry.layout.blob_path(sbom.descriptor.digest).write_bytes(b"{}")
    assert list_referrers(model.digest, registry.layout) == []
    assert model.verify() == []


def test_only_manifests_of_the_subject_are_referrers(registry: LocalRegistry) -> None:
    """Other JSON, no JSON and another model's referrer are None."""
    one, two = (registry.add("digits", make_files(graph)).artifact for graph in "ab")
    sbom = pack_referrer(one.descriptor, artifact_type=SBOM, title="sbom.json", data=b"{}")
    content = sbom.blobs[sbom.descriptor.digest]
    listed = parse_referrer(content, one.digest)
    assert listed is not None
    assert (listed.descriptor, listed.manifest) == (sbom.descriptor, sbom.manifest)
    assert isinstance(listed.manifest, Manifest)
    assert parse_referrer(content, two.digest) is None
    assert parse_referrer(b"[]", one.digest) is None
    assert parse_referrer(one.layout.read_blob(one.descriptor), one.digest) is None


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        (SBOM, True),
        ("application/vnd.tandem.parity.v1+json", True),
        ("an SBOM", False),
        ("json", False),
        ("a/b\n", False),
    ],
)
def test_a_media_type_has_two_parts(text: str, valid: bool) -> None:
    """As RFC 6838 defines it."""
    assert is_media_type(text) is valid
