"""The door of the registry: nothing enters that can't be written there, or that fails its self-test."""

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
    """Check, as far as permissions tell, that the registry can be written.

    Raises:
        RegistryUnwritable: it can't.
    """
    folder = next(path for path in (registry.root, *registry.root.absolute().parents) if path.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        fact = "can't be written" if folder.is_dir() else "is not a folder"
        raise RegistryUnwritable(
            f"the registry {registry.root} can't take a model, because {folder} {fact}: set TANDEM_HOME to another"
        )


def self_test_files(name: str, files: Mapping[str, bytes]) -> None:
    """Check that the files pass as a model: stored, resolved, verified, opened and self-tested as any other is.

    Each way of running it that is allowed, and that this machine has, must pass.

    Raises:
        ArtifactError: they don't.
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
                    trust=False,  # who signs it has yet to see it
                )
            except EngineUnavailable as error:
                logger.debug("Not self-tested here: %s", error)
