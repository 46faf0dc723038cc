"""Fixtures that every test shares: a really trained model in a registry, and the real `tandem` command."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest
from hypothesis import settings

from classifier.engines.runtime import check_cuda, load_runtime
from classifier.errors import EngineUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
TANDEM = str(Path(sys.executable).with_name("tandem"))


class Tandem(Protocol):
    """Runs the real `tandem` command."""

    def __call__(
        self,
        *args: str | Path,
        check: bool = True,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 240,
    ) -> subprocess.CompletedProcess[str]:
        """Return the ended process; with `check`, a failure shows what it printed."""


def pytest_configure(config: pytest.Config) -> None:
    """Keep the tests away from the user's own registry, cache, options and telemetry, and from the clock."""
    kept = ("TANDEM_TEST_", "TANDEM_BASE_IMAGE")  # the second: where the Dockerfiles' own base can't be pulled
    for name in [name for name in os.environ if name.startswith("TANDEM_") and not name.startswith(kept)]:
        del os.environ[name]
    home = tempfile.TemporaryDirectory(prefix="tandem-tests-")
    config.add_cleanup(home.cleanup)
    # ORT's: for tests that import onnxruntime themselves.
    os.environ |= {"TANDEM_HOME": home.name, "BENTOML_DO_NOT_TRACK": "true", "ORT_DISABLE_TELEMETRY": "1"}
    # What a shell starts in the background ignores Ctrl-C, and so would all that the tests start and interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # A busy machine is not a wrong answer.
    settings.register_profile("tandem", deadline=None)
    settings.load_profile("tandem")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none, or none that works."""
    if item.get_closest_marker("gpu"):
        try:
            check_cuda(load_runtime(), 0)
        except EngineUnavailable as error:
            pytest.skip(str(error))


@pytest.fixture(scope="session")
def tandem() -> Tandem:
    """Return a function that runs the installed `tandem` in a process of its own."""

    def run(
        *args: str | Path,
        check: bool = True,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 240,
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [TANDEM, *map(str, args)],
            capture_output=True,
            text=True,
            env={**os.environ, **(env or {})},
            cwd=cwd or ROOT,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if check and done.returncode != 0:
            pytest.fail(f"tandem {' '.join(map(str, args))} exited with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    return run


@pytest.fixture(scope="session")
def worker_id(request: pytest.FixtureRequest) -> str:
    """Return xdist's name of this worker; `master` where the tests run in one process."""
    return getattr(request.config, "workerinput", {}).get("workerid", "master")


@pytest.fixture(scope="session")
def digits_home(tmp_path_factory: pytest.TempPathFactory, tandem: Tandem, worker_id: str) -> Path:
    """Return a TANDEM_HOME with the trained model `digits:1` and its images, made once for all of xdist's workers.

    Never write to it: `tandem_home` is a copy that a test may change. TANDEM_TEST_HOME names one that stands already.
    """
    if given := os.environ.get("TANDEM_TEST_HOME"):
        return Path(given)
    if importlib.util.find_spec("torch") is None:
        pytest.skip(
            "needs a trained model: install torch, or set TANDEM_TEST_HOME to a TANDEM_HOME that holds digits:1"
        )
    with made_once("trained", tmp_path_factory, worker_id) as (made, is_done):
        if not is_done:
            home = {"TANDEM_HOME": str(made / "home")}
            tandem("train", "digits", "--run", made / "run", env=home)
            tandem("export", made / "run", "--name", "digits", env=home)
    return made / "home"


@contextlib.contextmanager
def made_once(name: str, factory: pytest.TempPathFactory, worker_id: str) -> Iterator[tuple[Path, bool]]:
    """Yield a folder that all of xdist's workers share, and whether one has filled it; the others wait meanwhile."""
    base = factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / name
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder, (folder / "done").exists()
        (folder / "done").touch()


@pytest.fixture(scope="session")
def digits_run(digits_home: Path) -> Path:
    """Return the run folder that `digits:1` was exported from."""
    if not (run := digits_home.parent / "run").is_dir():
        pytest.skip("needs the run folder, which a TANDEM_TEST_HOME has not")
    return run


@pytest.fixture(scope="session")
def embedder_home(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, tandem: Tandem, worker_id: str
) -> Path:
    """Return a TANDEM_HOME with the model `embedder:1`: the run of `digits:1`, exported with embeddings. Read-only.

    Beside a TANDEM_TEST_HOME it is expected as `embedder-home`, where `nox -s digits` makes it.
    """
    if (given := os.environ.get("TANDEM_TEST_HOME")) and (made := Path(given).with_name("embedder-home")).is_dir():
        return made
    with made_once("embedder", tmp_path_factory, worker_id) as (made, is_done):
        if not is_done:
            env = {"TANDEM_HOME": str(made / "home")}
            tandem("export", request.getfixturevalue("digits_run"), "--name", "embedder", "--embeddings", env=env)
    return made / "home"


@pytest.fixture(scope="session")
def test_folder(digits_home: Path) -> Path:
    """Return the class folders of the digits that neither training nor validation has seen."""
    return digits_home / "datasets" / "digits" / "test"


@pytest.fixture
def tandem_home(digits_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a private copy of `digits_home`, with TANDEM_HOME set to it."""
    home = tmp_path / "tandem-home"
    shutil.copytree(digits_home, home)
    monkeypatch.setenv("TANDEM_HOME", str(home))
    return home
