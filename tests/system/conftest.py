"""Fixtures of the system's tests: some of the service's, the registry's, and the images."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.conftest import ROOT
from tests.registry.conftest import authority, locked_host, remote_host
from tests.service.conftest import BENTOML, image, image_file, model, serve
from tests.system.docker import build_batch_image

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["authority", "image", "image_file", "locked_host", "model", "remote_host", "serve"]


@pytest.fixture(scope="session")
def batch_image() -> str:
    """Return the batch image, ENGINE=cpu, built from this tree."""
    return build_batch_image("tandem-batch:test-cpu", "--build-arg", "ENGINE=cpu")


@pytest.fixture(scope="session")
def service_image(digits_home: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the image that `bentoml build` and `bentoml containerize` make, with the model in it."""
    tag = "tandem-service:test-cpu"
    environment = {
        **os.environ,
        "TANDEM_HOME": str(digits_home),
        "BENTOML_HOME": str(tmp_path_factory.mktemp("bentoml-home")),
    }
    for command in (["build"], ["containerize", "classifier:latest", "--image-tag", tag]):
        done = subprocess.run(
            [BENTOML, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1200, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return tag
