"""What `tandem package` asks of Docker: is it there, build, push."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

from classifier.errors import ContainerError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_BUILDX_SINCE = 23
"""From this version on BuildKit is in a plugin of the client, which distributions package apart."""
_FIRST_WITH_BUILDKIT = (18, 9)
_STDERR = 2
"""Where progress goes: it is no answer of `tandem package`."""


def check_docker() -> None:
    """Do nothing where Docker can build an image.

    Raises:
        ContainerError: it isn't installed, its daemon doesn't answer, or it has no BuildKit.
    """
    if shutil.which("docker") is None:
        raise ContainerError(
            "the command 'docker' is not on PATH, and images are built with it: https://docs.docker.com/engine/install "
            "says how to install Docker"
        )
    done = _run("version", "--format", "{{.Client.Version}}")
    if done.returncode != 0:
        raise ContainerError(
            f"Docker's daemon can't be used ({_last_line(done.stderr)}): start it, or set DOCKER_HOST to where it runs"
        )
    # A build of Docker's own sources has a word in place of numbers: it is asked for the plugin, as any new one.
    version = tuple(int(number) for number in re.findall(r"\d+", done.stdout)[:2]) or (_BUILDX_SINCE,)
    if version < _FIRST_WITH_BUILDKIT or (version >= (_BUILDX_SINCE,) and _run("buildx", "version").returncode != 0):
        raise ContainerError(
            f"Docker {done.stdout.strip()} has no BuildKit here, and the images want it: install its plugin buildx, "
            "which is the package docker-buildx-plugin or docker-buildx"
        )


def build_image(
    image: str, dockerfile: Path, context: Path, *, arguments: Mapping[str, str], labels: Mapping[str, str]
) -> None:
    """Build `image` from a Dockerfile and the folder `context`; Docker shows its progress.

    Raises:
        ContainerError: it can't be built, for the reason that Docker has shown.
    """
    options = [
        *(f"--build-arg={name}={value}" for name, value in arguments.items()),
        *(f"--label={name}={value}" for name, value in labels.items()),
    ]
    command = ["docker", "build", "--file", str(dockerfile), "--tag", image, *options, str(context)]
    run_showing(command, f"the image {image} can't be built")


def push_image(image: str) -> str:
    """Push `image` to the registry that its name names, and return its reference by digest.

    Raises:
        ContainerError: the registry doesn't answer, or refuses it.
    """
    with subprocess.Popen(
        ["docker", "push", image], stdout=_STDERR, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as pushing:
        assert pushing.stderr is not None
        said = pushing.stderr.read()
    if pushing.returncode != 0:
        host = image.partition("/")[0]
        raise ContainerError(
            f"the image {image} is built, and can't be pushed ({_last_line(said)}): check that the registry runs at "
            f"{host}, run 'docker login {host}' as a user who may push there, and then 'docker push {image}'"
        )
    repository = image.rpartition(":")[0]
    known_as = re.sub(r"^(index\.)?docker\.io/(library/)?", "", repository)  # Docker leaves its own host out
    digests = _run("image", "inspect", "--format", r'{{join .RepoDigests "\n"}}', image).stdout.split()
    *_, digest = [digest for name, _, digest in (each.partition("@") for each in digests) if name == known_as]
    return f"{repository}@{digest}"


def run_showing(
    command: list[str], problem: str, *, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> None:
    """Run a command whose output is progress for the user, in this process's environment if none is given.

    Raises:
        ContainerError: it failed; the sentence begins with `problem`, and the reason stands above it.
    """
    environment = {**(environment or os.environ), "DOCKER_BUILDKIT": "1"}
    if subprocess.run(command, stdout=_STDERR, cwd=cwd, env=environment, check=False).returncode != 0:
        raise ContainerError(f"{problem}, for the reason above: put that right, and run the command again")


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )


def _last_line(text: str) -> str:
    *_, last = text.strip().splitlines() or ["no reason given"]
    return last.strip().removeprefix("Error response from daemon: ").rstrip(".")
