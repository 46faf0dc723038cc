"""Images that hold one model: the service's, with a Bento, and the bulk run's."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from classifier.errors import ContainerError, DamagedArtifact, InvalidReference, RegistryError
from classifier.extras import install_extra
from commands.package.docker import build_image, check_docker, push_image, read_file
from registry import LocalRegistry, Reference, fetch_model, find_model
from registry.attaching import attach, attach_to_image

if TYPE_CHECKING:
    from registry import Artifact

MODEL_LABEL = "tandem.model"
"""The image label with the model's identity."""
REVISION_LABEL = "org.opencontainers.image.revision"
SERVICE, BATCH = "service", "batch"
SBOM = "/usr/share/tandem/sbom.cdx.json"
"""Where an image lists its packages."""
SBOM_TYPE = "application/vnd.cyclonedx+json"

_SOURCES = ("bentofile.yaml", "Dockerfile.service", "Dockerfile.batch", "Dockerfile.baked", "service/service.py")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """How an image is built.

    Attributes:
        engine: what the image runs models with: `cpu` (ONNX Runtime), `openvino` (on CPUs, too) or `cuda`.
        platform: `linux/arm64`; None for this machine's.
        base: the image that it is built on; None for the Dockerfile's.
    """

    engine: str
    platform: str | None = None
    base: str | None = None

    def arguments(self, revision: str) -> dict[str, str]:
        """Return the build arguments of Dockerfile.service and Dockerfile.batch."""
        base = {} if self.base is None else {"TANDEM_BASE_IMAGE": self.base}
        return {"ENGINE": self.engine, "REVISION": revision} | base


@dataclass(frozen=True, slots=True, kw_only=True)
class Packaged:
    """A packaged image.

    Attributes:
        image: its name in Docker.
        model: identity of the model in it.
        revision: commit of the sources, with `-dirty` if files differ from it.
        pushed: the image by digest in its registry; None if it wasn't pushed.
    """

    image: str
    model: str
    revision: str
    pushed: str | None


def package(
    reference: str,
    root: Path,
    *,
    kind: str,
    build: Build,
    image: str | None = None,
    push: bool = False,
) -> Packaged:
    """Build an image of the sources in `root` that holds the model `reference`.

    Args:
        reference: as in `fetch_model`.
        root: the clone of Tandem.
        kind: `service` or `batch`.
        build: how it is built.
        image: the image's name; None for the model's name with `-` and the kind appended, in the model's registry.
        push: also push it to the registry in its name, and attach the list of its packages to image and model there.

    Raises:
        ContainerError: the image can't be built or pushed.
        RegistryError: the model can't be resolved or fetched.
        ArtifactError: the model is damaged, or lacks a signature that is required.
    """
    if missing := [name for name in _SOURCES if not (root / name).is_file()]:
        raise ContainerError(
            f"{root} is not a clone of Tandem, because {missing[0]} is missing: run the command in the clone"
        )
    if kind == SERVICE and importlib.util.find_spec("bentoml") is None:
        raise ContainerError(f"the package 'bentoml' is not installed: {install_extra('service')}")
    artifact = fetch_model(reference, LocalRegistry.default())
    image = name_image(artifact, kind, image)
    if push and Reference.parse(image).host is None:
        raise InvalidReference(
            f"'{image}' has no registry to push to: write its host first, '--push ghcr.io/acme/{image}'"
        )
    if problems := artifact.verify():
        raise DamagedArtifact(problems[0])
    check_docker()
    labels = {MODEL_LABEL: artifact.identity, REVISION_LABEL: source_revision(root)}
    if kind == SERVICE:
        _build_service(artifact, image, root, build, labels)
    else:
        _build_batch(artifact, image, root, build, labels)
    pushed = None
    if push:
        _log.info("pushing %s", image)
        pushed = push_image(image)
        _attach_sbom(artifact, image, pushed, title=f"sbom-{kind}-{build.engine}.cdx.json")
    return Packaged(image=image, model=artifact.identity, revision=labels[REVISION_LABEL], pushed=pushed)


def name_image(artifact: Artifact, kind: str, wanted: str | None) -> str:
    """Return `wanted` with a tag, or by default `acme/digits-service:3` for `acme/digits:3`, with the model's host.

    Raises:
        InvalidReference: `wanted` can't name an image, or has a digest, which only a pushed image has.
    """
    version = artifact.digest.removeprefix("sha256:")[:12] if artifact.version is None else artifact.version
    if wanted is None:
        return f"{artifact.name}-{kind}:{version}"
    parsed = Reference.parse(wanted)
    if parsed.digest is not None:
        raise InvalidReference(f"'{wanted}' can't name a new image: write a tag instead of the digest, ':{version}'")
    return wanted if parsed.tag is not None else f"{wanted}:{version}"


def source_revision(root: Path) -> str:
    """Return the commit of the sources, with `-dirty` if a file differs from it; `unknown` without git."""

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
        _log.warning("%s is not a git clone: the image's revision is 'unknown'", root)
        return "unknown"
    if changes:
        _log.warning("the sources differ from %s: the image's revision ends in -dirty", commit[:12])
        return f"{commit}-dirty"
    return commit


def _build_service(artifact: Artifact, image: str, root: Path, build: Build, labels: dict[str, str]) -> None:
    # BentoML's command line defines one option twice, and click warns about it on every call.
    bentoml = [sys.executable, "-W", "ignore::UserWarning:click.core", "-m", "bentoml"]
    _log.info("building the Bento of %s", artifact.identity)
    with tempfile.TemporaryDirectory() as home:
        # The identity, not the reference: an alias can move meanwhile. In a temporary store: only the image is wanted.
        environment = {**os.environ, "TANDEM_MODEL": artifact.identity, "BENTOML_HOME": home}
        environment["BENTOML_DO_NOT_TRACK"] = os.environ.get("BENTOML_DO_NOT_TRACK") or "true"
        built = subprocess.run(
            [*bentoml, "build", "--output", "tag", *(f"--label={name}={value}" for name, value in labels.items())],
            cwd=root, env=environment, stdout=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        tag = built.stdout.strip().rpartition("__tag__:")[2]
        if built.returncode != 0 or not tag:
            raise ContainerError("the Bento can't be built, for the reason above: fix that, and run the command again")
        _log.info("building %s from the Bento %s", image, tag)
        name, _, version = tag.partition(":")
        context = Path(home, "bentos", name, version)
        shutil.copytree(Path(home, "models"), context / "models")
        build_image(
            image,
            root / "Dockerfile.service",
            context,
            arguments=build.arguments(labels[REVISION_LABEL]),
            labels=labels,
            platform=build.platform,
        )


def _build_batch(artifact: Artifact, image: str, root: Path, build: Build, labels: dict[str, str]) -> None:
    revision = labels[REVISION_LABEL]
    commit, dash, dirty = revision.partition("-")
    platform = "" if build.platform is None else f"-{build.platform.replace('/', '-')}"
    base = f"tandem-batch:{build.engine}-{commit[:12]}{dash}{dirty}{platform}"
    _log.info("building %s, the batch image without a model", base)
    build_image(
        base,
        root / "Dockerfile.batch",
        root,
        arguments=build.arguments(revision),
        labels={},
        platform=build.platform,
    )
    _log.info("building %s, with %s in it", image, artifact.identity)
    with tempfile.TemporaryDirectory() as name:
        LocalRegistry.holding(artifact).copy(artifact, LocalRegistry(Path(name) / "registry"))
        build_image(
            image,
            root / "Dockerfile.baked",
            Path(name),
            arguments={"BASE": base, "MODEL": artifact.identity},
            labels=labels,
            platform=build.platform,
        )


def _attach_sbom(artifact: Artifact, image: str, pushed: str, *, title: str) -> None:
    """Attach the image's list of packages to the image, and to the model if that is in a registry.

    What fails is logged: the image is pushed, and its digest must be known.
    """
    sbom = read_file(image, SBOM)
    try:
        attach_to_image(pushed, sbom, artifact_type=SBOM_TYPE, title=title)
        if Reference.parse(artifact.identity).host is not None:
            attach(find_model(artifact.identity, LocalRegistry.default()), sbom, artifact_type=SBOM_TYPE, title=title)
    except RegistryError as error:
        _log.warning("%s is pushed, but its list of packages is not attached to image and model: %s", pushed, error)
