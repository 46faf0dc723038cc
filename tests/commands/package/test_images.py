"""`tandem package` where it can't work: each in one sentence. What it builds is tested in tests/system, with Docker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from classifier.errors import ContainerError, InvalidReference
from commands.package.docker import check_docker, push_image
from commands.package.images import name_image, source_revision
from registry import LocalRegistry
from tests.conftest import ROOT, TANDEM, Tandem
from tests.registry.artifacts import make_files

if TYPE_CHECKING:
    from collections.abc import Callable

    Docker = Callable[[str], None]


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Docker:
    """Return a function that puts a `docker` on PATH, a script: what other versions and broken daemons say."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{Path(sys.executable).parent}:/usr/bin:/bin")

    def put(script: str) -> None:
        (folder / "docker").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "docker").chmod(0o755)

    return put


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a registry with digits:1."""
    LocalRegistry(tmp_path / "home" / "registry").add("digits", make_files())
    return {"TANDEM_HOME": str(tmp_path / "home"), "DOCKER_HOST": f"unix://{tmp_path}/no.sock"}


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Assert exit code 1 and one sentence, beside what was logged."""
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    sentence = done.stderr.splitlines()[-1]
    assert sentence.startswith("Error: ")
    assert all(word in sentence for word in words), sentence


def test_outside_the_clone(tandem: Tandem, home: dict[str, str], tmp_path: Path) -> None:
    """Images are built from sources."""
    done = tandem("package", "digits", env=home, cwd=tmp_path, check=False)
    fact = f"{tmp_path} is not a clone of Tandem, because bentofile.yaml is missing"
    assert_refused(done, fact, "run the command in the clone")


def test_without_docker(home: dict[str, str]) -> None:
    """The sentence says what is missing and where it comes from."""
    environment = {**os.environ, **home, "PATH": str(Path(sys.executable).parent)}
    done = subprocess.run(
        [TANDEM, "package", "digits"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert_refused(done, "'docker' is not on PATH", "https://docs.docker.com/engine/install")


def test_a_model_that_is_not_there(tandem: Tandem, home: dict[str, str]) -> None:
    """Before Docker is asked anything."""
    assert_refused(tandem("package", "digits:7", env=home, check=False), "'digits:7'", "'tandem models list'")


def test_a_damaged_model(tandem: Tandem, home: dict[str, str]) -> None:
    """Never enters an image."""
    registry = LocalRegistry(Path(home["TANDEM_HOME"]) / "registry")
    registry.layout.blob_path(registry.resolve("digits").files["model.onnx"].digest).write_bytes(b"grapf")
    assert_refused(tandem("package", "digits", "--batch", env=home, check=False), "model 'digits:1' is damaged")


def test_a_push_needs_a_registry(tandem: Tandem, home: dict[str, str]) -> None:
    """A local model has none; Docker would take it for Docker Hub's."""
    done = tandem("package", "digits", "--push", env=home, check=False)
    assert_refused(done, "'digits-service:1' has no registry", "--push ghcr.io/acme/digits-service:1")


def test_an_engine_that_is_none(tandem: Tandem, home: dict[str, str]) -> None:
    """A usage error that lists the engines."""
    done = tandem("package", "digits", "--device", "gpu", env=home, check=False)
    assert done.returncode == 2
    assert "'gpu' is not one of 'cpu', 'openvino', 'cuda'" in done.stderr


DOWN = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        (
            f"echo 20.10.24; echo '{DOWN}' >&2; exit 1",
            r"daemon can't be used \(Cannot connect .* running\?\): start it",
        ),
        ("test $1 = version && echo 27.3.1 && exit; exit 1", "Docker 27.3.1 lacks BuildKit"),
        ("echo 18.06.1-ce", "Docker 18.06.1-ce lacks BuildKit"),
    ],
    ids=["daemon down", "no buildx", "old"],
)
def test_a_docker_that_cannot_build(docker: Docker, script: str, sentence: str) -> None:
    """What is wrong and what to do, in one sentence."""
    docker(script)
    with pytest.raises(ContainerError, match=sentence) as caught:
        check_docker()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", ["20.10.24+dfsg1", "18.09.1", "27.3.1", "dev"])
def test_a_docker_that_can_build(docker: Docker, version: str) -> None:
    """BuildKit is built in, or its plugin answers; a version that is no number is Docker's own build."""
    docker(f"echo {version}")
    check_docker()


def test_a_push_that_is_refused(docker: Docker) -> None:
    """With Docker's words, and the way on."""
    docker("echo 'The push refers to repository [ghcr.io/a/b]'; echo 'denied: requested access is denied' >&2; exit 1")
    with pytest.raises(ContainerError, match=r"can't be pushed \(denied: .*\): .* 'docker login ghcr.io'"):
        push_image("ghcr.io/a/b:1")


@pytest.mark.parametrize("host", ["docker.io", "index.docker.io"])
def test_a_push_to_docker_hub(docker: Docker, host: str) -> None:
    """Docker leaves its own host out of the names that it lists."""
    docker('test "$1" = push || echo acme/digits-service@sha256:0123')
    assert push_image(f"{host}/acme/digits-service:1") == f"{host}/acme/digits-service@sha256:0123"


@pytest.mark.parametrize("names", ["", "localhost/acme/digits-service@sha256:0123"])
def test_a_push_whose_digest_docker_does_not_know(docker: Docker, names: str) -> None:
    """One sentence with the way to the digest; the image is pushed."""
    docker(f'test "$1" = push || echo "{names}"')
    with pytest.raises(
        ContainerError, match=r"is pushed, but Docker knows no digest of it as ghcr.io/acme/digits-service"
    ):
        push_image("ghcr.io/acme/digits-service:1")


def test_the_revision_of_the_sources(tmp_path: Path) -> None:
    """The commit; `-dirty` where any file differs from it or is new; `unknown` where git knows nothing."""
    assert source_revision(tmp_path) == "unknown"

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    (tmp_path / "file").write_text("a")
    git("add", "file")
    git("commit", "--message", "first")
    commit = git("rev-parse", "HEAD")
    assert source_revision(tmp_path) == commit
    (tmp_path / "new").write_text("b")
    assert source_revision(tmp_path) == f"{commit}-dirty"


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        (None, "acme/digits-service:1"),
        ("ghcr.io/acme/classifier:2026-11", "ghcr.io/acme/classifier:2026-11"),
        ("localhost:5000/acme/classifier", "localhost:5000/acme/classifier:1"),
    ],
)
def test_the_name_of_the_image(tmp_path: Path, wanted: str | None, name: str) -> None:
    """It follows the model's; one that was given without a tag gets the model's version."""
    artifact = LocalRegistry(tmp_path).add("acme/digits", make_files()).artifact
    assert name_image(artifact, "service", wanted) == name


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ("ghcr.io/acme/digits@sha256:" + "0" * 64, "instead of the digest, ':1'"),
        ("ghcr.io/Acme", "is not a reference"),
    ],
)
def test_what_cannot_name_an_image(tmp_path: Path, wanted: str, sentence: str) -> None:
    """One sentence that says how it is written."""
    artifact = LocalRegistry(tmp_path).add("digits", make_files()).artifact
    with pytest.raises(InvalidReference, match=sentence):
        name_image(artifact, "service", wanted)
