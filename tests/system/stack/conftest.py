"""The images of the stack: Tandem's own from this tree, the others as stand-ins."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.registry.servers import free_port
from tests.system.docker import docker
from tests.system.stack.running import DEPLOY, IMAGES, STANDINS, Stack, stack

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = f"tandem-stack-{os.getpid()}"


@pytest.fixture(scope="session")
def images(seed_image: str, notebook_image: str) -> None:
    """Build all images of the stack; Docker reuses unchanged layers."""
    docker("tag", seed_image, IMAGES["TANDEM_SEED_IMAGE"])
    docker("tag", notebook_image, IMAGES["TANDEM_NOTEBOOK_IMAGE"])
    for name in ("registry", "postgres", "redis", "nginx", "prometheus"):
        tag = IMAGES[f"TANDEM_{name.upper()}_IMAGE"]
        docker("build", "--file", STANDINS / f"{name}.Dockerfile", "--tag", tag, STANDINS, timeout=600)
    # In the clone: a build's context is the folder above deploy/.
    Stack(DEPLOY, NAME, free_port()).compose("build", "api", "batch", timeout=1200)


@pytest.fixture(scope="module")
def running(images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Yield a stack that one `up` has started from nothing."""
    with stack(tmp_path_factory.mktemp("stack"), NAME, free_port()) as started:
        started.compose("up", "-d")
        yield started
