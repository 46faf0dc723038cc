"""A stack of deploy/compose.yaml under a name and a port of its own, with stand-ins for the images from Docker Hub."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import ROOT
from tests.system.docker import docker, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPLOY = ROOT / "deploy"
STANDINS = Path(__file__).parent / "standins"
PROFILES = ("batch", "gpu", "monitoring", "notebook")
MODEL = "registry:5000/tandem/digits"
IMAGES = {
    f"TANDEM_{name.upper()}_IMAGE": f"tandem-stack-{name}:test"
    for name in ("registry", "postgres", "redis", "nginx", "prometheus", "seed", "service", "batch", "notebook")
}


@dataclass(frozen=True)
class Stack:
    """A copy of deploy/, and the commands that a user runs with it."""

    deploy: Path
    name: str
    port: int
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def compose(
        self, *args: str | Path, check: bool = True, timeout: float = 280, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        command = ["docker-compose", "-f", self.deploy / "compose.yaml", *args]
        return self.run(*command, check=check, timeout=timeout, **settings)

    def roll(self, *args: str, check: bool = True, **settings: str) -> subprocess.CompletedProcess[str]:
        return self.run(self.deploy / "roll", *args, check=check, **settings)

    def run(
        self, *command: str | Path, check: bool = True, timeout: float = 280, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ, **IMAGES, "DOCKER_BUILDKIT": "1", "COMPOSE_PROJECT_NAME": self.name,
            "TANDEM_PORT": f"127.0.0.1:{self.port}", "TANDEM_FRONT_SUBNET": f"172.16.{self.port % 256}.0/24",
            **self.settings, **settings,
        }  # fmt: skip
        done = subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment,
            check=False,
        )
        if check and done.returncode != 0:
            pytest.fail(f"{' '.join(map(str, command))} exited with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def ids(self, service: str) -> list[str]:
        """Return the running containers of a service."""
        labels = (f"com.docker.compose.project={self.name}", f"com.docker.compose.service={service}")
        filters = [part for label in labels for part in ("--filter", f"label={label}")]
        return docker("ps", "--quiet", "--no-trunc", *filters).stdout.split()

    def inspect(self, service: str) -> dict[str, Any]:
        [found, *_] = self.ids(service)
        [described] = json.loads(docker("inspect", found).stdout)
        return dict(described)

    def wait_healthy(self, service: str, count: int) -> None:
        def is_healthy() -> bool:
            found = self.ids(service)
            states = docker("inspect", "--format", "{{.State.Health.Status}}", *found).stdout.split() if found else []
            return states == ["healthy"] * count

        wait_until(is_healthy, f"{count} healthy containers of {service}", within_s=90)

    def python(self, service: str, code: str) -> str:
        """Return what Python prints in a container of a service with Python."""
        return self.compose("exec", "-T", service, "python", "-c", code).stdout.strip()

    def sql(self, query: str) -> str:
        """Return what the database answers its own user."""
        return self.compose("exec", "-T", "db", "psql", "-U", "tandem", "-Atc", query).stdout.strip()


@contextmanager
def stack(folder: Path, name: str, port: int, **settings: str) -> Iterator[Stack]:
    """Yield a stack that is not started; at the end, remove all that it has made."""
    shutil.copytree(DEPLOY, folder / "deploy", ignore=shutil.ignore_patterns(".env"))
    made = Stack(folder / "deploy", name, port, settings)
    try:
        yield made
    finally:
        profiles = [part for profile in PROFILES for part in ("--profile", profile)]
        made.compose(*profiles, "down", "--volumes", "--timeout", "5", check=False)
