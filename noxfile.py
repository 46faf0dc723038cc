"""The project's chores. `nox -l` lists them; plain `nox` lints and tests.

Start with `nox -s demo` and `nox -s tests`. `uvx nox` and `pipx run nox` work as well; with pip alone, it is
`python3 -m venv .venv && .venv/bin/pip install nox && .venv/bin/nox -s demo`.

On Linux, PyPI's torch is the CUDA build, several gigabytes large. `UV_TORCH_BACKEND=cpu uvx nox -s demo` installs the
CPU build instead.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"  # the first with `requires=`
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "tests"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
BATCH, SERVICE = ("batch", "s3", "signing"), ("service", "signing", "cache", "log", "tracing")
IMAGES = {
    f"{kind}-{engine}": (*engines, *extras)
    for kind, extras in (("batch", BATCH), ("service", SERVICE))
    for engine, engines in (("cpu", ("cpu",)), ("openvino", ("cpu", "openvino")), ("cuda", ("gpu",)))
}
"""The extras of each image, whose packages `requirements/NAME.txt` locks."""

NOT_IN_IMAGES = {
    "asn1crypto": "signing with keys in PKCS #11 devices",
    "dnspython": "email-validator",
    "email-validator": "pydantic's type for e-mail addresses, which no model has",
    "flatbuffers": "ONNX Runtime's tools",
    "markdown-it-py": "rich's Markdown",
    "mdurl": "markdown-it-py",
    "nvidia-cufft": "Fourier transforms on a GPU, for which alone ONNX Runtime loads it",
    "openvino-telemetry": "OpenVINO's converter of models",
    "pycparser": "compiling C declarations with cffi",
    "uv": "building a Bento",
}
"""Packages that others require, and what would import them: nothing that an image runs."""

TORCHLESS_TESTS = [
    *(
        f"tests/{package}"
        for package in ("classifier", "registry", "service", "batch", "parity", "validation", "commands", "system")
    ),
    "tests/test_tandem.py",
]


@nox.session
def demo(session: nox.Session) -> None:
    """Train, export, classify a folder, serve, and prove that the service and the bulk run agree."""
    # pip: people go on in this environment, and without it their `pip install` would reach another Python.
    install(session, "pip", "-e", ".[cpu,train,service,batch]")
    session.run("python", "examples/demo.py", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the test suite, except tests that need Docker, a GPU or many minutes."""
    install(session, "-e", ".[cpu,openvino,train,service,batch,signing,s3,cache,log,tracing]", *group("tests"))
    # Two processes on any machine: many tests start servers or train, which use several threads.
    # Whole files: a stolen test would start its file's services a second time.
    session.run("pytest", "-n", "2", "--dist", "loadfile", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, types, the direction of imports, the Dockerfiles and the CI examples."""
    install(session, "-e", ".[cpu,train,service,batch,signing,cache,log,tracing]", *group("tests"), *group("lint"))
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("mypy")
    session.run("lint-imports")
    session.run(
        *("hadolint", "Dockerfile.service", "Dockerfile.batch", "Dockerfile.baked", "deploy/training/Dockerfile"),
    )
    scripts = ("deploy/roll", "deploy/setup", "deploy/nginx/start")
    session.run("shellcheck", ".ci/run", "service/container/tandem-service", *scripts)
    session.run("jactionlint", "examples/ci/github-actions.yml")
    session.run("check-jsonschema", "--builtin-schema=vendor.gitlab-ci", "examples/ci/gitlab-ci.yml")


@nox.session(default=False)
def digits(session: nox.Session) -> None:
    """Train and export the models `digits` and `embedder` for sessions without torch."""
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


# A fresh environment each time: it must hold the new wheel, and no leftovers of an earlier run.
@nox.session(requires=["digits"], reuse_venv=False)
def torchless(session: nox.Session) -> None:
    """Test the built wheel in an environment without torch: everything except training and export."""
    install(session, *group("build"))
    dist = session.cache_dir / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    session.run("hatchling", "build", "--target", "wheel", "--directory", str(dist))
    (wheel,) = dist.glob("tandem-*.whl")
    install(session, f"{wheel}[cpu,service,batch,signing,cache,log,tracing]", *group("tests"))
    absent = ("torch", "torchvision", "onnx", "sklearn")
    session.run("python", "-c", f"from importlib.util import find_spec; assert not any(map(find_spec, {absent}))")
    session.run(
        *("pytest", "-n", "2", "--dist", "loadfile", "--override-ini", "pythonpath="),
        *(session.posargs or TORCHLESS_TESTS),
        env={"TANDEM_TEST_HOME": str(digits_home(session))},
    )


@nox.session(requires=["digits"])
def containers(session: nox.Session) -> None:
    """Build the batch image with ENGINE=cpu and the Bento's image, and run both. Needs Docker."""
    run_image_tests(session, marker="containers")


@nox.session(requires=["digits"])
def cuda_image(session: nox.Session) -> None:
    """Build the batch image with CUDA, and check that it refuses to run without a GPU. Needs Docker."""
    run_image_tests(session, marker="cuda_image")


@nox.session(default=False, requires=["digits"])
def images(session: nox.Session) -> None:
    """Build the images and measure their sizes and starts: `-- --cuda --packages --json FILE`. Needs Docker."""
    install(session, "-e", ".[cpu,service,batch]", *group("tests"))
    environment = {"TANDEM_TEST_HOME": str(digits_home(session))}
    session.run("python", "-m", "benchmarks.images", *session.posargs, env=environment)


@nox.session(default=False)
def base(session: nox.Session) -> None:
    """Pin the newest patch of the images' base wherever it is named; `-- --mirror HOST/NAME` looks elsewhere."""
    install(session, "-e", ".")
    session.run("python", "requirements/base.py", *session.posargs)


@nox.session(requires=["digits"])
def stack(session: nox.Session) -> None:
    """Bring up deploy/compose.yaml, and kill, scale and update what runs in it. Needs Docker and docker-compose."""
    run_image_tests(session, marker="stack")


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure the numbers of README and docs: `-- NAME [--json FILE]`, where NAME is a module of benchmarks/."""
    name, *options = session.posargs or ["registry"]
    # `precisions` and `service` train the models that they measure.
    engine = "gpu" if name == "service" and shutil.which("nvidia-smi") else "cpu"
    extras = {"precisions": "cpu,openvino,train", "service": f"{engine},train,service,cache,log,tracing"}
    others = group("peers") if name == "service" else ()
    install(session, "-e", f".[{extras.get(name, 'cpu,service,batch')}]", *group("tests"), *others)
    session.run("python", "-m", f"benchmarks.{name}", *options)


@nox.session(default=False)
def gpu(session: nox.Session) -> None:
    """Run the tests that need an NVIDIA GPU, then benchmarks/cuda.py with the options after `--`."""
    # A separate session: the CPU and GPU wheels of onnxruntime exclude each other.
    install(session, "-e", ".[gpu,train,service,batch]", *group("tests"))
    session.run("pytest", "tests/classifier", "tests/parity", "-m", "gpu")
    work = session.cache_dir.resolve() / "gpu"
    session.run("python", "-m", "benchmarks.cuda", "--work", str(work), *session.posargs)


@nox.session(default=False)
def reported(session: nox.Session) -> None:
    """Run the tests of situations that people reported of systems like this one."""
    install(session, "-e", ".[cpu,openvino,train,service,batch,signing,s3,cache,log,tracing]", *group("tests"))
    session.run("pytest", "-n", "2", "-m", "reported", *session.posargs)


@nox.session(requires=["digits"])
def ray(session: nox.Session) -> None:
    """Run the tests that start a Ray cluster on this machine. Takes a minute."""
    install(session, "-e", ".[cpu,batch,s3,ray]", *group("tests"))
    environment = {"TANDEM_TEST_HOME": str(digits_home(session))}
    session.run("pytest", "-m", "ray", "tests/batch/run/test_ray_runner.py", *session.posargs, env=environment)


@nox.session(requires=["digits"])
def torture(session: nox.Session) -> None:
    """Kill, starve and poison full-size bulk runs, and kill a node of a real Ray cluster. Takes about an hour."""
    install(session, "-e", ".[cpu,batch,s3,ray]", *group("tests"))
    environment = {"TANDEM_TEST_HOME": str(digits_home(session)), "TANDEM_TEST_TORTURE": "1"}
    files = [
        f"tests/batch/{name}.py"
        for name in (
            "run/test_torture",
            "run/test_folder",
            "run/test_replaced",
            "run/test_ray_runner",
            "inputs/stores/test_urls",
            "pipeline/test_contained",
        )
    ]
    session.run("pytest", "-m", "", "-s", *(session.posargs or files), env=environment)


@nox.session(default=False)
def networks(session: nox.Session) -> None:
    """Save and load every network of torchvision, as runs and as torchvision's published files do. Takes an hour."""
    install(session, "-e", ".[cpu,train]", *group("tests"))
    session.run("pytest", "tests/training/test_weights.py", *session.posargs, env={"TANDEM_TEST_NETWORKS": "all"})


@nox.session(default=False)
def reference(session: nox.Session) -> None:
    """Write the help of every command into docs/reference/."""
    install(session, "-e", ".[cpu,train,service,batch]", *group("tests"))
    session.chdir("docs/reference")
    session.run("cog", "-r", "-P", "-I", ".", "-I", "../..", *sorted(page.name for page in Path().glob("*.md")))


@nox.session
def locks(session: nox.Session) -> None:
    """Lock the packages of the images. `-- --upgrade` upgrades all, `-- --upgrade-package NAME` one."""
    session.install("uv")
    absent = [f"--no-emit-package={package}" for package in NOT_IN_IMAGES]
    # Their builds differ: deploy/training/Dockerfile installs the one that it is told to.
    torch = ("--no-emit-package=torch", "--no-emit-package=torchvision")
    training = ("pyproject.toml", "--extra=cpu", "--extra=train", *torch)
    sources = {
        **{
            name: ("pyproject.toml", *(f"--extra={extra}" for extra in extras), *absent)
            for name, extras in IMAGES.items()
        },
        "training-cpu": training,
        "notebook-cpu": (*training, "--extra=batch", "--group=pyproject.toml:notebook"),
        "seed": ("pyproject.toml", *absent),
        "build": ("--group=pyproject.toml:build", *absent),
        "uv": ("--group=pyproject.toml:uv",),
    }
    for name, options in sources.items():
        session.run(
            *("uv", "pip", "compile", "--quiet", "--no-config", *options, "--output-file", f"requirements/{name}.txt"),
            # Names, versions and hashes, but no index URL: a mirror works as well.
            *("--generate-hashes", "--no-emit-index-url", "--no-emit-find-links", "--no-annotate"),
            # The images' platform. The hashes cover all wheels of a version, so the files also work on aarch64.
            *("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28", "--only-binary", ":all:"),
            *("--custom-compile-command", "nox -s locks", *session.posargs),
            # torch's CPU build, which needs none of CUDA's packages.
            env=find_links() or {"UV_TORCH_BACKEND": "cpu"},
        )


def run_image_tests(session: nox.Session, *, marker: str) -> None:
    """Run the tests of `tests/system` with `marker`."""
    install(session, "-e", ".[cpu,service,batch,signing]", *group("tests"))
    session.run(
        *("pytest", "tests/system", "-m", marker, *session.posargs),
        env={"TANDEM_TEST_HOME": str(digits_home(session))},
    )


def install(session: nox.Session, *requirements: str) -> None:
    """Install `requirements` with the tool that made the environment, uv or pip, but with pip's find-links."""
    # Without bytecode each `import torch` takes seconds, and many commands import it.
    session.env["PYTHONDONTWRITEBYTECODE"] = None
    session.install(*requirements, env=find_links())


def find_links() -> dict[str, str]:
    """Return the variable that gives uv pip's find-links, which often name the folder with PyTorch's CPU wheels."""
    places = os.environ.get("UV_FIND_LINKS") or ",".join(os.environ.get("PIP_FIND_LINKS", "").split())
    return {"UV_FIND_LINKS": places} if places else {}


def group(name: str) -> tuple[str, ...]:
    """Return the packages of a dependency group in pyproject.toml."""
    return nox.project.dependency_groups(PYPROJECT, name)


def digits_home(session: nox.Session) -> Path:
    """Return the TANDEM_HOME that the session `digits` fills."""
    return session.cache_dir.resolve() / "digits-home"
