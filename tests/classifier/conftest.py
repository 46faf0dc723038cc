"""The trained model's files, for tests that open it without a registry, or after changing one of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from classifier.artifact import FILES
from classifier.model import Model
from registry import LocalRegistry

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Files:
    """An artifact whose files stand in memory, where a test may change them."""

    files: dict[str, bytes]
    name: str = "digits"
    digest: str = field(default="sha256:" + "0" * 64)

    def read(self, file: str) -> bytes:
        """Return the contents of `file`; no digest is checked."""
        return self.files[file]


@pytest.fixture(scope="session")
def digits_files(digits_home: Path) -> dict[str, bytes]:
    """Return the files of `digits:1`. Don't change them: `digits` is for that."""
    artifact = LocalRegistry(digits_home / "registry").resolve("digits:1")
    return {file: artifact.read(file) for file in FILES}


@pytest.fixture
def digits(digits_files: dict[str, bytes]) -> Files:
    """Return the trained model as an artifact that the test may change."""
    return Files(files=dict(digits_files))


@pytest.fixture(scope="session")
def digits_model(digits_files: dict[str, bytes]) -> Model:
    """Return the trained model, opened on the CPU."""
    return Model.open(Files(files=digits_files), device="cpu")
