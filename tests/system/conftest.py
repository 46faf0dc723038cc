"""The container images, and fixtures of the tests of the service and the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.registry.conftest import authority, locked_host, remote_host
from tests.service.conftest import image, image_file, model
from tests.serving import bentoml
from tests.system.docker import build_batch_image

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["authority", "image", "image_file", "locked_host", "model", "remote_host"]


@pytest.fixture(scope="session")
def batch_image() -> str:
    """Return the batch image, built from this tree with ENGINE=cpu."""
    return build_batch_image("tandem-batch:test-cpu", "--build-arg", "ENGINE=cpu")


@pytest.fixture(scope="session")
def service_image(digits_home: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the service image, with the model in it, made by `bentoml build` and `bentoml containerize`."""
    tag, bentoml_home = "tandem-service:test-cpu", tmp_path_factory.mktemp("bentoml-home")
    for command in (["build"], ["containerize", "classifier:latest", "--image-tag", tag]):
        bentoml(*command, home=digits_home, bentoml_home=bentoml_home, timeout=1200)
    return tag
