"""The container images, and fixtures of the tests of the service and the registry."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.conftest import ROOT, TANDEM
from tests.registry.conftest import authority, locked_host, remote_host
from tests.service.conftest import image, image_file, model
from tests.serving import bentoml
from tests.system.docker import build_batch_image, build_image
from tests.system.training_images import build_training_image

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["authority", "image", "image_file", "locked_host", "model", "remote_host"]


@pytest.fixture(scope="session")
def batch_image() -> str:
    """Return the batch image, built from this tree with ENGINE=cpu."""
    return build_batch_image("tandem-batch:test-cpu", "--build-arg", "ENGINE=cpu")


@pytest.fixture(scope="session")
def service_image(digits_home: Path) -> str:
    """Return the service image, with the model in it, made by `tandem package`."""
    environment = {**os.environ, "TANDEM_HOME": str(digits_home)}
    done = subprocess.run(
        [TANDEM, "package", "digits"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.fail(f"tandem package digits exited with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout.partition(" ")[0]


@pytest.fixture(scope="session")
def modelless_image() -> str:
    """Return the service image of the clone, without a model."""
    return build_image("Dockerfile.service", "tandem-service:test-modelless")


@pytest.fixture(scope="session")
def training_image() -> str:
    """Return the image with the command `tandem` and torch."""
    return build_training_image("training")


@pytest.fixture(scope="session")
def notebook_image() -> str:
    """Return the image with JupyterLab."""
    return build_training_image("notebook")


@pytest.fixture(scope="session")
def seed_image() -> str:
    """Return the image that gives a registry its first model, which its build trains."""
    return build_training_image("seed")


@pytest.fixture(scope="session")
def containerized_image(digits_home: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the service image made by `bentoml build` and `bentoml containerize`."""
    tag, bentoml_home = "tandem-service:test-bentoml", tmp_path_factory.mktemp("bentoml-home")
    for command in (["build"], ["containerize", "classifier:latest", "--image-tag", tag]):
        bentoml(*command, home=digits_home, bentoml_home=bentoml_home, timeout=1200)
    return tag
