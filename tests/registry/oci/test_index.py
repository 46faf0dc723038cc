"""The index: entries, numbers of new versions, and the memory of removed ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.oci.index import artifacts, next_version, with_tag, without_tags
from registry.oci.layout import Layout
from registry.oci.manifest import Index, describe
from registry.oci.references import tag_of_bare_name, tag_order

if TYPE_CHECKING:
    from pathlib import Path

ONE, TWO = describe(b"one", ""), describe(b"two", "")
EMPTY = Index(schema_version=2)


def test_a_tag_points_to_one_digest(tmp_path: Path) -> None:
    """Set again, it moves; versions come first, by number."""
    index = EMPTY
    for tag, descriptor in (("production", ONE), ("10", ONE), ("9", ONE), ("production", TWO), ("2", TWO)):
        index = with_tag(index, "digits", tag, descriptor)
    found = artifacts(index, Layout(tmp_path))
    assert {digest: artifact.tags for (_, digest), artifact in found.items()} == {
        TWO.digest: ("2", "production"),
        ONE.digest: ("9", "10"),
    }


def test_a_number_is_never_reused(tmp_path: Path) -> None:
    """The index remembers the highest version removed; a remote registry numbers its own."""
    index = with_tag(with_tag(EMPTY, "digits", "7", ONE), "ghcr.io/acme/digits", "7", ONE)
    found = artifacts(index, Layout(tmp_path))
    for name, expected in (("digits", 8), ("ghcr.io/acme/digits", 1)):
        removed = without_tags(index, found[name, ONE.digest], ("7",))
        assert next_version(removed, name) == expected


def test_a_copy_without_a_tag_is_named_by_its_digest(tmp_path: Path) -> None:
    """Two digests of one remote repository can be present; a local name without a tag has one."""
    index = EMPTY
    for descriptor in (ONE, TWO):
        index = with_tag(index, "ghcr.io/acme/digits", None, descriptor)
        index = with_tag(index, "digits", None, descriptor)
    found = artifacts(index, Layout(tmp_path))
    assert set(found) == {("ghcr.io/acme/digits", ONE.digest), ("ghcr.io/acme/digits", TWO.digest),
                          ("digits", TWO.digest)}  # fmt: skip


def test_a_bare_name_means_production_else_the_highest_version() -> None:
    """By number, not by spelling; aliases and names without a tag don't count."""
    assert tag_of_bare_name(["9", "10", None, "candidate"]) == "10"
    assert tag_of_bare_name(["9", "production"]) == "production"
    assert tag_of_bare_name(["candidate", None]) is None
    assert sorted(["b", "10", "a", "9"], key=tag_order) == ["9", "10", "a", "b"]
