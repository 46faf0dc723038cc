"""Checks before a model enters the registry: the registry is writable, and the model passes its self-test."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from classifier.errors import EngineUnavailable, RegistryUnwritable
from registry import LocalRegistry, open_model

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)


def check_writable(registry: LocalRegistry) -> None:
    """Check that the registry's permissions allow writing.

    Raises:
        RegistryUnwritable: they don't, or the registry's place is taken by a file.
    """
    folder = next(path for path in (registry.root, *registry.root.absolute().parents) if path.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        fact = "is not writable" if folder.is_dir() else "is not a folder"
        raise RegistryUnwritable(
            f"a model can't be added to the registry {registry.root}, because {folder} {fact}: set TANDEM_HOME to "
            "another folder"
        )


def self_test_files(name: str, files: Mapping[str, bytes]) -> None:
    """Check a new model's files: store them in a temporary registry, then open and self-test the model from there.

    Every allowed way of running the model must pass, as far as this machine can run it.

    Raises:
        ArtifactError: a check failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        staging = LocalRegistry(Path(folder))
        for way in staging.add(name, files).artifact.config.allowed:
            try:
                open_model(
                    name,
                    registry=staging,
                    engine=way.engine,
                    device=way.device,
                    precision=way.precision,
                    trust=False,  # it can only be signed later
                )
            except EngineUnavailable as error:
                logger.debug("Not self-tested on this machine: %s", error)
