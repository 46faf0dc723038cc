"""A model in an image: the Bento's, containerized by BentoML, or the bulk run's with the registry that it reads."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from classifier.errors import ContainerError, DamagedArtifact, InvalidReference
from classifier.extras import install_extra
from commands.package.docker import build_image, check_docker, push_image, run_showing
from registry import LocalRegistry, Reference, fetch_model

if TYPE_CHECKING:
    from registry import Artifact

MODEL_LABEL = "tandem.model"
"""The label of an image that holds its model's identity."""
REVISION_LABEL = "org.opencontainers.image.revision"
SERVICE, BATCH = "service", "batch"

_SOURCES = ("bentofile.yaml", "Dockerfile.batch", "Dockerfile.baked", "service/service.py")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Packaged:
    """What `package` made.

    Attributes:
        image: the name that the image has in Docker.
        model: the identity of the model in it.
        revision: the commit of the sources that it was built from, with `-dirty` where they differ from it.
        pushed: the image by its digest in the registry; None where it wasn't pushed.
    """

    image: str
    model: str
    revision: str
    pushed: str | None


def package(
    reference: str,
    root: Path,
    *,
    kind: str = SERVICE,
    device: str = "cpu",
    image: str | None = None,
    push: bool = False,
) -> Packaged:
    """Build an image with the model that `reference` names in it, from the sources in `root`.

    Args:
        reference: as in `fetch_model`.
        root: the clone of Tandem.
        kind: `service` or `batch`.
        device: what the bulk run's image is for, `cpu` or `cuda`.
        image: its name; None for that of the model with the kind behind it, in the registry that the model is in.
        push: bring it to the registry that its name names.

    Raises:
        ContainerError: it can't be built or pushed.
        RegistryError: the model can't be resolved or fetched.
        ArtifactError: it is damaged, or not signed as it has to be.
    """
    if missing := [name for name in _SOURCES if not (root / name).is_file()]:
        raise ContainerError(
            f"{root} has no {missing[0]}, and images are built from Tandem's sources: run the command in the clone of "
            "Tandem"
        )
    if kind == SERVICE and importlib.util.find_spec("bentoml") is None:
        raise ContainerError(f"the package 'bentoml' is not installed: {install_extra('service')}")
    artifact = fetch_model(reference, LocalRegistry.default())
    image = name_image(artifact, kind, image)
    if push and Reference.parse(image).host is None:
        raise InvalidReference(
            f"'{image}' names no registry to push to: write its host before it, '--push ghcr.io/acme/{image}'"
        )
    if problems := artifact.verify():
        raise DamagedArtifact(problems[0])
    check_docker()
    labels = {MODEL_LABEL: artifact.identity, REVISION_LABEL: source_revision(root)}
    if kind == SERVICE:
        _build_service(artifact, image, root, labels)
    else:
        _build_batch(artifact, image, root, labels, device)
    pushed = None
    if push:
        _log.info("pushing %s", image)
        pushed = push_image(image)
    return Packaged(image=image, model=artifact.identity, revision=labels[REVISION_LABEL], pushed=pushed)


def name_image(artifact: Artifact, kind: str, wanted: str | None) -> str:
    """Return `wanted`, with a tag, else `acme/digits-service:3` for `acme/digits:3`, with the host that the model has.

    Raises:
        InvalidReference: `wanted` can't name an image, or has a digest, which is known only when it was pushed.
    """
    version = artifact.digest.removeprefix("sha256:")[:12] if artifact.version is None else artifact.version
    if wanted is None:
        return f"{artifact.name}-{kind}:{version}"
    parsed = Reference.parse(wanted)
    if parsed.digest is not None:
        raise InvalidReference(f"'{wanted}' can't name a new image: write a tag in place of the digest, ':{version}'")
    return wanted if parsed.tag is not None else f"{wanted}:{version}"


def source_revision(root: Path) -> str:
    """Return the commit of the sources, with `-dirty` where a file differs from it; `unknown` without git."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(root), *arguments], capture_output=True, text=True, errors="replace", check=False
            )
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain")
    if commit is None or changes is None:
        _log.warning("%s is no clone that git knows: the image's revision is 'unknown'", root)
        return "unknown"
    if changes:
        _log.warning("the sources differ from %s: the image's revision ends in -dirty", commit[:12])
        return f"{commit}-dirty"
    return commit


def _build_service(artifact: Artifact, image: str, root: Path, labels: dict[str, str]) -> None:
    # BentoML's own command line gives click one option twice, which says so on every call.
    bentoml = [sys.executable, "-W", "ignore::UserWarning:click.core", "-m", "bentoml"]
    _log.info("building the Bento of %s", artifact.identity)
    with tempfile.TemporaryDirectory() as home:
        # The identity, not the reference: an alias that moves meanwhile gives no other model. In a store of its own:
        # the Bento and its copy of the model were asked for only as an image.
        environment = {**os.environ, "TANDEM_MODEL": artifact.identity, "BENTOML_HOME": home}
        built = subprocess.run(
            [*bentoml, "build", "--output", "tag", *(f"--label={name}={value}" for name, value in labels.items())],
            cwd=root, env=environment, stdout=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        tag = built.stdout.strip().rpartition("__tag__:")[2]
        if built.returncode != 0 or not tag:
            raise ContainerError(
                "the Bento can't be built, for the reason above: put that right, and run the command again"
            )
        _log.info("building %s from the Bento %s", image, tag)
        options = [f"--opt=label={name}={value}" for name, value in labels.items()]
        run_showing(
            [*bentoml, "containerize", tag, "--image-tag", image, *options],
            f"the image {image} can't be built",
            cwd=root,
            environment=environment,
        )


def _build_batch(artifact: Artifact, image: str, root: Path, labels: dict[str, str], device: str) -> None:
    revision = labels[REVISION_LABEL]
    base = f"tandem-batch:{device}-{revision.removesuffix('-dirty')[:12]}"
    _log.info("building %s, the batch image without a model", base)
    build_image(base, root / "Dockerfile.batch", root, arguments={"ENGINE": device, "REVISION": revision}, labels={})
    _log.info("building %s, with %s in it", image, artifact.identity)
    with tempfile.TemporaryDirectory() as name:
        LocalRegistry.holding(artifact).copy(artifact, LocalRegistry(Path(name) / "registry"))
        for path in Path(name).rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)  # for any `docker run --user`, whatever the umask is here
        build_image(
            image,
            root / "Dockerfile.baked",
            Path(name),
            arguments={"BASE": base, "MODEL": artifact.identity},
            labels=labels,
        )
