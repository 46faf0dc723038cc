"""Models and images for `tandem val` and `tandem compare`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from classifier.types import to_json
from registry import LocalRegistry

if TYPE_CHECKING:
    from pathlib import Path


def add_relabelled(home: Path, name: str, labels: dict[str, str]) -> None:
    """Add a copy of `digits:1` as another model that calls some labels by other names."""
    registry = LocalRegistry(home / "registry")
    artifact = registry.resolve("digits:1")
    renamed = tuple(labels.get(label, label) for label in artifact.config.labels)
    files = {file: artifact.read(file) for file in artifact.files}
    registry.add(name, {**files, "config.json": to_json(replace(artifact.config, labels=renamed))})
