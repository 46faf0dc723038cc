"""Docker, as `tandem package` uses it: check, build, push."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from classifier.errors import ContainerError

if TYPE_CHECKING:
    from collections.abc import Mapping

_BUILDX_SINCE = 23
"""From this version on BuildKit is a plugin of the client, which distributions package separately."""
_FIRST_WITH_BUILDKIT = (18, 9)
_STDERR = 2
"""Progress goes to standard error: it is not the command's output."""


def check_docker() -> None:
    """Check that Docker can build an image.

    Raises:
        ContainerError: Docker isn't installed, its daemon doesn't answer, or BuildKit is missing.
    """
    if shutil.which("docker") is None:
        raise ContainerError(
            "the command 'docker' is not on PATH, but it builds the images: https://docs.docker.com/engine/install "
            "says how to install Docker"
        )
    done = _run("version", "--format", "{{.Client.Version}}")
    if done.returncode != 0:
        raise ContainerError(
            f"Docker's daemon can't be used ({_last_line(done.stderr)}): start it, or set DOCKER_HOST to where it runs"
        )
    # A Docker built from source has a word instead of a number: it is checked for the plugin, like any new version.
    version = tuple(int(number) for number in re.findall(r"\d+", done.stdout)[:2]) or (_BUILDX_SINCE,)
    if version < _FIRST_WITH_BUILDKIT or (version >= (_BUILDX_SINCE,) and _run("buildx", "version").returncode != 0):
        raise ContainerError(
            f"Docker {done.stdout.strip()} lacks BuildKit, which the images need: install its plugin buildx, "
            "in the package docker-buildx-plugin or docker-buildx"
        )


def build_image(
    image: str,
    dockerfile: Path,
    context: Path,
    *,
    arguments: Mapping[str, str],
    labels: Mapping[str, str],
    platform: str | None = None,
) -> None:
    """Build `image` from a Dockerfile and the folder `context`; Docker shows its progress.

    Args:
        image: its name.
        dockerfile: need not be in `context`.
        context: the folder that the Dockerfile copies from.
        arguments: the build arguments.
        labels: beside those of the Dockerfile.
        platform: `linux/arm64`; None for this machine's.

    Raises:
        ContainerError: it can't be built, for the reason that Docker has shown.
    """
    options = [
        *(() if platform is None else (f"--platform={platform}",)),
        *(f"--build-arg={name}={value}" for name, value in arguments.items()),
        *(f"--label={name}={value}" for name, value in labels.items()),
    ]
    command = ["docker", "build", "--file", str(dockerfile), "--tag", image, *options, str(context)]
    run_showing(command, f"the image {image} can't be built")


def push_image(image: str) -> str:
    """Push `image` to the registry in its name, and return its reference by digest.

    Raises:
        ContainerError: the registry doesn't answer, or refuses it, or Docker doesn't say its digest.
    """
    with subprocess.Popen(
        ["docker", "push", image], stdout=_STDERR, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as pushing:
        assert pushing.stderr is not None
        said = pushing.stderr.read()
    if pushing.returncode != 0:
        host = image.partition("/")[0]
        raise ContainerError(
            f"the image {image} is built but can't be pushed ({_last_line(said)}): check that the registry runs at "
            f"{host}, run 'docker login {host}' as a user who may push there, then 'docker push {image}'"
        )
    repository = image.rpartition(":")[0]
    known_as = re.sub(r"^(index\.)?docker\.io/(library/)?", "", repository)  # Docker omits its own host
    digests = _run("image", "inspect", "--format", r'{{join .RepoDigests "\n"}}', image).stdout.split()
    own = [digest for name, _, digest in (each.partition("@") for each in digests) if name == known_as]
    if not own:
        named = ", ".join(digests) or "none"
        raise ContainerError(
            f"the image {image} is pushed, but Docker knows no digest of it as {known_as} (of others: {named}): deploy "
            f"the digest that 'docker push {image}' prints"
        )
    return f"{repository}@{own[-1]}"


def read_file(image: str, path: str) -> bytes:
    """Return the contents of the file `path` in `image`.

    Raises:
        ContainerError: the image has no such file, or Docker can't read it.
    """
    created = _run("create", image)
    container = created.stdout.strip()
    try:
        with tempfile.TemporaryDirectory() as folder:
            copied = _run("cp", f"{container}:{path}", f"{folder}/file") if created.returncode == 0 else created
            if copied.returncode != 0:
                raise ContainerError(f"{path} of the image {image} can't be read ({_last_line(copied.stderr)})")
            return Path(folder, "file").read_bytes()
    finally:
        _run("rm", container)


def run_showing(
    command: list[str], problem: str, *, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> None:
    """Run a command whose output is progress for the user.

    Raises:
        ContainerError: it failed. The sentence begins with `problem`; the command has printed the reason.
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
