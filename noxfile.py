"""Every chore of the project: `nox -l` lists them, plain `nox` lints and tests.

The two that a newcomer wants are `nox -s demo` and `nox -s tests`. They run with `uvx nox` or `pipx run nox`, and on a
machine that has only pip with `python3 -m venv .venv && .venv/bin/pip install nox && .venv/bin/nox -s demo`.

On Linux, PyPI's torch is the CUDA build, several gigabytes large. Where the CPU build is enough,
`UV_TORCH_BACKEND=cpu uvx nox -s demo` takes that one instead.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import nox

if TYPE_CHECKING:
    from pathlib import Path

nox.needs_version = ">=2025.2.9"  # the first with `requires=`
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "tests"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
IMAGE_SOURCES = {
    # uv builds a Bento, and serves none.
    "service-cpu": ("pyproject.toml", "--extra=cpu", "--extra=service", "--extra=signing", "--no-emit-package=uv"),
    "batch-cpu": ("pyproject.toml", "--extra=cpu", "--extra=batch", "--extra=s3", "--extra=signing"),
    "batch-cuda": ("pyproject.toml", "--extra=gpu", "--extra=batch", "--extra=s3", "--extra=signing"),
    "build": ("--group=pyproject.toml:build",),
}
"""What each file of `requirements/` locks."""

TORCHLESS_TESTS = [
    *(f"tests/{package}" for package in ("classifier", "registry", "service", "batch", "parity", "commands", "system")),
    "tests/test_tandem.py",
]


@nox.session
def demo(session: nox.Session) -> None:
    """Walk the whole road: train, export, classify in bulk, serve, and prove that both roads agree."""
    install(session, "-e", ".[cpu,train,service,batch]")
    session.run("python", "examples/demo.py", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the test suite, but for what needs Docker, a GPU or many minutes."""
    install(session, "-e", ".[cpu,openvino,train,service,batch,signing,s3]", *group("tests"))
    # Two processes, however many cores: several tests start servers and train on threads of their own.
    session.run("pytest", "-n", "2", "--dist", "worksteal", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, types, the direction of imports, and the Dockerfiles."""
    install(session, "-e", ".[cpu,train,service,batch,signing]", *group("tests"), *group("lint"))
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("mypy")
    session.run("lint-imports")
    session.run("hadolint", "Dockerfile.batch", "Dockerfile.baked")
    session.run("shellcheck", ".ci/run")


@nox.session(default=False)
def digits(session: nox.Session) -> None:
    """Train and export the models `digits` and `embedder` for the sessions that have no torch."""
    install(session, "-e", ".[cpu,train]")
    home = digits_home(session)
    run, embedder = home.with_name("digits-run"), home.with_name("embedder-home")
    for folder in (home, run, embedder):
        shutil.rmtree(folder, ignore_errors=True)
    environment = {"TANDEM_HOME": str(home)}
    session.run("tandem", "train", "digits", "--run", str(run), env=environment)
    session.run("tandem", "export", str(run), "--name", "digits", env=environment)
    with_embeddings = ("--name", "embedder", "--embeddings")
    session.run("tandem", "export", str(run), *with_embeddings, env={"TANDEM_HOME": str(embedder)})


# A fresh environment each time: it must hold the wheel that was just built, and nothing that an older run left.
@nox.session(requires=["digits"], reuse_venv=False)
def torchless(session: nox.Session) -> None:
    """Run the tests of what answers from the built wheel, in an environment that has never seen torch."""
    install(session, *group("build"))
    dist = session.cache_dir / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    session.run("hatchling", "build", "--target", "wheel", "--directory", str(dist))
    (wheel,) = dist.glob("tandem-*.whl")
    install(session, f"{wheel}[cpu,service,batch,signing]", *group("tests"))
    absent = ("torch", "torchvision", "onnx", "sklearn")
    session.run("python", "-c", f"from importlib.util import find_spec; assert not any(map(find_spec, {absent}))")
    session.run(
        *("pytest", "-n", "2", "--dist", "worksteal", "--override-ini", "pythonpath="),
        *(session.posargs or TORCHLESS_TESTS),
        env={"TANDEM_TEST_HOME": str(digits_home(session))},
    )


@nox.session(requires=["digits"])
def containers(session: nox.Session) -> None:
    """Build the batch image and the Bento's with ENGINE=cpu, and run both. Needs Docker."""
    run_image_tests(session, marker="containers")


@nox.session(requires=["digits"])
def cuda_image(session: nox.Session) -> None:
    """Build the batch image with CUDA, and see it refuse in one sentence where there is no GPU. Needs Docker."""
    run_image_tests(session, marker="cuda_image")


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure what README and docs claim: `-- NAME [--json FILE]`, where NAME is a module of benchmarks/."""
    name, *options = session.posargs or ["registry"]
    # Only this one trains what it measures.
    extras = "cpu,openvino,train" if name == "precisions" else "cpu,service,batch"
    install(session, "-e", f".[{extras}]", *group("tests"))
    session.run("python", "-m", f"benchmarks.{name}", *options)


@nox.session(default=False)
def gpu(session: nox.Session) -> None:
    """Run the tests that need an NVIDIA GPU, then measure it: `-- [--json FILE]` are options of benchmarks/cuda.py."""
    # A session of its own, because the wheels of onnxruntime for CPU and GPU exclude each other.
    install(session, "-e", ".[gpu,train,service,batch]", *group("tests"))
    session.run("pytest", "tests/classifier", "tests/parity", "-m", "gpu")
    work = session.cache_dir.resolve() / "gpu"
    session.run("python", "-m", "benchmarks.cuda", "--work", str(work), *session.posargs)


@nox.session(requires=["digits"])
def torture(session: nox.Session) -> None:
    """Kill, starve and poison bulk runs at full size, and lose a node of a real Ray cluster; about an hour."""
    install(session, "-e", ".[cpu,batch,s3,ray]", *group("tests"))
    environment = {"TANDEM_TEST_HOME": str(digits_home(session)), "TANDEM_TEST_TORTURE": "1"}
    files = [
        f"tests/batch/{name}.py"
        for name in ("run/test_torture", "run/test_folder", "run/test_ray_runner", "inputs/test_urls")
    ]
    session.run("pytest", "-m", "", "-s", *(session.posargs or files), env=environment)


@nox.session
def locks(session: nox.Session) -> None:
    """Lock the packages of the images: `-- --upgrade` for newer ones, `-- --upgrade-package NAME` for one."""
    session.install("uv")
    for name, sources in IMAGE_SOURCES.items():
        session.run(
            *("uv", "pip", "compile", "--quiet", "--no-config", *sources, "--output-file", f"requirements/{name}.txt"),
            # Names, versions and hashes; no address of an index, so that a mirror serves as well.
            *("--generate-hashes", "--no-emit-index-url", "--no-emit-find-links", "--no-annotate"),
            # What the images are. The hashes are those of all of a version's wheels, so that aarch64 can use them too.
            *("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28", "--only-binary", ":all:"),
            *("--custom-compile-command", "nox -s locks", *session.posargs),
        )


def run_image_tests(session: nox.Session, *, marker: str) -> None:
    """Run the tests of `tests/system` that `marker` marks."""
    install(session, "-e", ".[cpu,service,batch,signing]", *group("tests"))
    session.run(
        *("pytest", "tests/system", "-m", marker, *session.posargs),
        env={"TANDEM_TEST_HOME": str(digits_home(session))},
    )


def install(session: nox.Session, *requirements: str) -> None:
    """Install `requirements` from where pip finds them, with whichever of uv and pip made the environment."""
    environment: dict[str, str | None] = {}
    # uv doesn't read pip's settings; PyTorch's CPU wheels are often kept in a folder that only those name.
    if (find_links := os.environ.get("PIP_FIND_LINKS")) and "UV_FIND_LINKS" not in os.environ:
        environment["UV_FIND_LINKS"] = ",".join(find_links.split())
    # Without bytecode each `import torch` takes seconds, and a road of commands imports it over and over.
    session.env["PYTHONDONTWRITEBYTECODE"] = None
    session.install(*requirements, env=environment)


def group(name: str) -> tuple[str, ...]:
    """Return the packages of one of pyproject.toml's dependency groups."""
    return nox.project.dependency_groups(PYPROJECT, name)


def digits_home(session: nox.Session) -> Path:
    """Return the TANDEM_HOME that the session `digits` fills."""
    return session.cache_dir.resolve() / "digits-home"
