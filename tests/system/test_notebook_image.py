"""The images of deploy/training, in a real Docker: training, JupyterLab, and the registry's first model."""

from __future__ import annotations

import os
import subprocess
import time
import uuid
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
import nbformat
import pytest
from playwright.sync_api import expect, sync_playwright

from registry import LocalRegistry, find_model, open_model
from tests.conftest import ROOT
from tests.registry.servers import free_port, needs_registry, run_registry
from tests.service.page.conftest import CHROMIUM
from tests.system.docker import HARDENED, OWNER, USED, docker, get, wait_until
from tests.system.test_notebook import FIGURES, Executed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Building an image counts towards a test's time.
pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]

ANY_UID = ("--user", f"{OWNER}:0")
WORK = "/home/notebook/files"


@pytest.fixture
def volume() -> Iterator[str]:
    """Yield the name of a Docker volume that disappears at the end."""
    name = f"tandem-notebook-{uuid.uuid4().hex[:8]}"
    yield name
    docker("volume", "rm", "--force", name, check=False)


def kept(volume: str) -> tuple[str, ...]:
    """Return the options that mount a volume where the notebook's user works."""
    return ("--volume", f"{volume}:{WORK}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """A running JupyterLab.

    Attributes:
        name: the container's.
        url: ends without a slash.
    """

    name: str
    url: str

    def status(self, token: str | None = None) -> int:
        """Return the HTTP status of a request for the files in the work folder."""
        return httpx.get(
            f"{self.url}/api/contents", timeout=30, params={} if token is None else {"token": token}
        ).status_code

    def run(self, *command: str, timeout: float = 280) -> str:
        """Return what a command in the container prints."""
        return docker("exec", self.name, *command, timeout=timeout).stdout

    def log(self) -> str:
        return docker("logs", self.name).stderr


@contextmanager
def lab(image: str, *options: str | Path) -> Iterator[Lab]:
    """Yield a JupyterLab that answers, hardened as in production. At the end, its container is removed."""
    name = f"tandem-notebook-{uuid.uuid4().hex[:8]}"
    docker("run", *HARDENED[1:], "--publish", "127.0.0.1::8888", *options, "--detach", "--name", name, image)
    try:
        url = f"http://{docker('port', name, '8888').stdout.split()[-1]}"
        try:
            wait_until(lambda: get(f"{url}/api") == 200, "JupyterLab", within_s=180)
        except TimeoutError:
            pytest.fail(docker("logs", name).stderr)
        yield Lab(name=name, url=url)
    finally:
        docker("rm", "--force", "--volumes", name, check=False)


def refusal(image: str, *options: str | Path) -> str:
    """Return the last line of a container that ends with exit code 1."""
    done = docker("run", *HARDENED, *options, image, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


class TestTraining:
    def test_trains_and_exports_as_any_user(self, training_image: str, tmp_path: Path) -> None:
        """The container trains into a mounted folder and exports into a mounted registry, both owned by its user."""
        work, home = tmp_path / "work", tmp_path / "home"
        for folder in (work, home):
            folder.mkdir()
            os.chown(folder, OWNER, OWNER)
        mounted = ("--volume", f"{work}:/work", "--volume", f"{home}:/tandem")
        tandem = ("run", *HARDENED, "--network", "none", *USED, *mounted, training_image)
        docker(*tandem, "train", "digits", "--run", "run", "--epochs", "2")
        docker(*tandem, "export", "run", "--name", "digits")
        assert LocalRegistry(home / "registry").resolve("digits:1").version == 1
        assert (home / "registry" / "index.json").stat().st_uid == (work / "run").stat().st_uid == OWNER


class TestToken:
    def test_a_random_one_is_printed(self, notebook_image: str) -> None:
        """Without a token of the user's, JupyterLab makes one, which its log shows."""
        with lab(notebook_image) as jupyter:
            assert jupyter.status() == 403
            assert httpx.get(f"{jupyter.url}/lab").status_code == 302  # to the login
            token = jupyter.log().rpartition("?token=")[2].split()[0]
            assert len(token) >= 32
            assert jupyter.status(token) == 200

    def test_comes_from_a_file(self, notebook_image: str, tmp_path: Path) -> None:
        """The secret's file wins over the variable, and the log doesn't show the token."""
        secret = tmp_path / "token"
        secret.write_text("from-the-file-1234567890\n")
        secret.chmod(0o444)
        mounted = ("--volume", f"{secret}:/run/secrets/token:ro", "--env", "JUPYTER_TOKEN_FILE=/run/secrets/token")
        with lab(notebook_image, *mounted, "--env", "JUPYTER_TOKEN=from-the-variable") as jupyter:
            assert jupyter.status("from-the-variable") == 403
            assert jupyter.status("from-the-file-1234567890") == 200
            assert "from-the-file" not in jupyter.log()

    def test_comes_from_a_variable(self, notebook_image: str) -> None:
        with lab(notebook_image, "--env", "JUPYTER_TOKEN=from-the-variable") as jupyter:
            assert jupyter.status() == 403
            assert jupyter.status("from-the-variable") == 200

    def test_an_empty_one_is_never_taken(self, notebook_image: str, tmp_path: Path) -> None:
        """An empty variable counts as none; an empty or missing file ends the container with one sentence."""
        with lab(notebook_image, "--env", "JUPYTER_TOKEN=") as jupyter:
            assert jupyter.status() == jupyter.status("") == 403
        empty = tmp_path / "token"
        empty.touch()
        mounted = ("--volume", f"{empty}:/token:ro", "--env", "JUPYTER_TOKEN_FILE=/token")
        assert refusal(notebook_image, *mounted) == ("Error: JUPYTER_TOKEN_FILE=/token is empty: write a token into it")
        assert refusal(notebook_image, "--env", "JUPYTER_TOKEN_FILE=/token") == (
            "Error: the token in JUPYTER_TOKEN_FILE=/token can't be read by user 10001 of group 10001 (No such file or "
            "directory): mount a file that this user can read"
        )


class TestNotebook:
    def test_runs_and_survives_its_container(self, notebook_image: str, volume: str) -> None:
        """The example runs in the container; results and model outlive it, for another user of group 0."""
        run = ("run", *HARDENED, "--network", "none", *kept(volume))
        docker(*run, notebook_image, "jupyter", "execute", "notebook.ipynb", "--output=done.ipynb", timeout=900)
        with lab(notebook_image, *kept(volume), *ANY_UID) as jupyter:
            wait_until(lambda: health(jupyter.name) == "healthy", "Docker's health check")
            done = nbformat.reads(jupyter.run("cat", "done.ipynb"), as_version=4)
            models = jupyter.run("tandem", "models", "list")
            jupyter.run("sh", "-c", "echo more >> done.ipynb")
        cells = {cell.id: cell for cell in done.cells if cell.cell_type == "code"}
        assert [cell.execution_count for cell in cells.values()] == [*range(1, len(cells) + 1)]
        executed = Executed(cells=cells)
        assert executed.home.is_relative_to(WORK)
        assert [cell for cell in cells if executed.pictures(cell)] == FIGURES
        assert float(executed.printed("bulk").rpartition("accuracy on 359 test images: ")[2].rstrip("%\n")) > 90
        assert executed.printed("push").removeprefix("digits:notebook is ")[:19] in models

    def test_the_users_copy_is_never_overwritten(self, notebook_image: str, volume: str) -> None:
        """The example is placed once; what the user makes of it stays."""
        run = ("run", *HARDENED, *kept(volume), notebook_image)
        example = (ROOT / "examples" / "notebook.ipynb").read_text()
        assert docker(*run, "cat", "notebook.ipynb").stdout == example
        docker(*run, "sh", "-c", "echo mine > notebook.ipynb")
        assert docker(*run, "cat", "notebook.ipynb").stdout == "mine\n"

    def test_opens_in_a_browser(self, notebook_image: str) -> None:
        """The page opens with the example, and asks no other host for anything."""
        if not CHROMIUM.exists():
            pytest.skip(f"needs {CHROMIUM}: install Debian's package chromium")
        foreign: list[str] = []
        with lab(notebook_image, "--env", "JUPYTER_TOKEN=secret") as jupyter, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page()
            page.on(
                "request",
                lambda request: (
                    None if request.url.startswith((jupyter.url, "data:", "blob:")) else foreign.append(request.url)
                ),
            )
            page.goto(f"{jupyter.url}/?token=secret")
            expect(page.get_by_role("heading", name="From handwritten digits to a model")).to_be_visible(timeout=60_000)
            browser.close()
        assert not foreign

    def test_stops_on_sigterm(self, notebook_image: str) -> None:
        """`docker stop` ends JupyterLab within its ten seconds, without SIGKILL."""
        with lab(notebook_image) as jupyter:
            docker("stop", jupyter.name)
            assert docker("wait", jupyter.name).stdout.strip() == "0", jupyter.log()

    def test_an_unwritable_folder_is_refused(self, notebook_image: str, tmp_path: Path) -> None:
        """A folder that the container's user can't write ends it with one sentence."""
        assert refusal(notebook_image, *USED, "--volume", f"{tmp_path}:{WORK}").startswith(
            f"Error: {WORK} can't be written by user {OWNER} of group {OWNER} (Permission denied): "
        )

    def test_its_packages_belong_to_root(self, notebook_image: str) -> None:
        """The user can change nothing but the work folder and what anybody may write."""
        find = "find / -xdev \\( -user $(id -u) -o -writable \\) ! -type l ! -path '/proc*' ! -path '/dev*' -print"
        run = ("run", "--rm", "--network", "none", "--entrypoint", "sh", notebook_image, "-c", find)
        found = docker(*run, check=False).stdout.splitlines()
        assert {path for path in found if not path.startswith(WORK)} == {"/tmp", "/var/tmp", "/run/lock"}


class TestLibraries:
    def test_are_installed_into_the_volume(self, notebook_image: str, volume: str, tmp_path: Path) -> None:
        """A library of /requirements.txt can be imported, and its next start needs no index and no network."""
        wheel = make_wheel(tmp_path)
        requirements = tmp_path / "requirements.txt"
        requirements.write_text("tandem-example-library==1.0\n")
        alone = ("run", *HARDENED, "--network", "none", *kept(volume), *ANY_UID)
        listed = ("--volume", f"{requirements}:/requirements.txt:ro")
        command = ("python", "-c", "import tandem_example_library; print(tandem_example_library.__file__)")
        found = ("--volume", f"{wheel}:/wheels/{wheel.name}:ro", "--env", "PIP_FIND_LINKS=/wheels")
        offline = ("--env", "PIP_NO_INDEX=1")
        first = docker(*alone, *listed, *found, *offline, notebook_image, *command)
        assert first.stdout.startswith(f"{WORK}/.local/lib/python3")
        assert docker(*alone, *listed, notebook_image, *command).stdout == first.stdout

    @pytest.mark.parametrize(
        ("requirement", "fact"),
        [
            ("no-such-library-of-tandem", "Could not find a version that satisfies the requirement no-such-library"),
            ("torch<2", "Cannot install torch<2 because these package versions have conflicting dependencies"),
            ("two words", "Invalid requirement: 'two words'"),
        ],
    )
    def test_a_wrong_file_is_refused(self, notebook_image: str, tmp_path: Path, requirement: str, fact: str) -> None:
        """A library that doesn't exist, that needs another torch, or that isn't one: one sentence says which."""
        requirements = tmp_path / "requirements.txt"
        requirements.write_text(requirement)
        mounted = ("--volume", f"{requirements}:/requirements.txt:ro", "--env", "PIP_NO_INDEX=1")
        sentence = refusal(notebook_image, *mounted)
        assert sentence.startswith(
            "Error: the libraries in /requirements.txt can't be installed beside the image's own: "
        )
        assert fact in sentence

    def test_a_folder_is_refused(self, notebook_image: str, tmp_path: Path) -> None:
        """Docker mounts an empty folder if the file doesn't exist."""
        assert refusal(notebook_image, "--volume", f"{tmp_path}/absent:/requirements.txt:ro") == (
            "Error: /requirements.txt is a folder: mount a file, and check that its path on the host is right"
        )


@needs_registry
class TestSeed:
    def test_fills_an_empty_registry_once(
        self, seed_image: str, remote_host: str, test_folder: Path, tmp_path: Path
    ) -> None:
        """The first run pushes a model that classifies digits; a second one changes nothing."""
        target = f"{remote_host}/seeded/digits"
        first, second = (docker(*seed(seed_image, target)).stdout for _ in range(2))
        pushed = find_model(f"{target}:1", LocalRegistry(tmp_path)).digest
        assert first == f"{target}:1 is {pushed}\n"
        assert second == f"{target} has a model already, {pushed}: nothing was pushed\n"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TANDEM_HOME", str(tmp_path))
            model = open_model(f"{target}:1")
        images = [min(folder.iterdir()).read_bytes() for folder in sorted(test_folder.iterdir())]
        labels = [predictions[0].label for predictions in model.classify(images, k=1)]
        assert sum(label == str(digit) for digit, label in enumerate(labels)) >= 8

    def test_pushes_your_model(self, seed_image: str, remote_host: str, digits_home: Path, tmp_path: Path) -> None:
        """TANDEM_SEED_MODEL names a model in the mounted TANDEM_HOME; one that isn't there ends with one sentence."""
        target = f"{remote_host}/seeded/yours"
        mounted = ("--volume", f"{digits_home}:/tandem:ro")
        absent = docker(*seed(seed_image, target, *mounted, "--env", "TANDEM_SEED_MODEL=cats"), check=False)
        assert absent.returncode == 1
        assert absent.stderr.startswith("Error: model 'cats' is not in the registry /tandem/registry: ")
        docker(*seed(seed_image, target, *mounted, "--env", "TANDEM_SEED_MODEL=digits"))
        yours = LocalRegistry(digits_home / "registry").resolve("digits").digest
        assert find_model(target, LocalRegistry(tmp_path)).digest == yours

    def test_waits_for_a_registry_that_starts_later(self, seed_image: str, tmp_path: Path) -> None:
        port = free_port()
        run = ["docker", *map(str, seed(seed_image, f"localhost:{port}/late/digits"))]
        with subprocess.Popen(run, stdout=subprocess.PIPE, text=True) as running:
            time.sleep(4)
            with run_registry(tmp_path, port=port):
                assert running.communicate(timeout=60)[0].startswith(f"localhost:{port}/late/digits:1 is sha256:")
        assert running.returncode == 0

    def test_gives_up_after_a_minute(self, seed_image: str) -> None:
        """Without a registry it ends with one sentence and exit code 1, so that it is started again."""
        host = f"localhost:{free_port()}"
        started = time.monotonic()
        done = docker(*seed(seed_image, f"{host}/tandem/digits"), check=False)
        assert done.returncode == 1
        assert done.stderr == f"Error: nothing accepts connections on {host}: check that the registry runs there\n"
        assert time.monotonic() - started > 55


def seed(image: str, target: str, *options: str | Path) -> tuple[str | Path, ...]:
    """Return the `docker run` that fills the registry of this machine at `target`."""
    return ("run", *HARDENED, *USED, "--network", "host", "--env", f"TANDEM_SEED_TARGET={target}", *options, image)


def health(container: str) -> str:
    return docker("inspect", "--format", "{{.State.Health.Status}}", container).stdout.strip()


def make_wheel(folder: Path) -> Path:
    """Return the wheel of a library with one empty module."""
    wheel = folder / "tandem_example_library-1.0-py3-none-any.whl"
    info = "tandem_example_library-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tandem_example_library.py", "")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tandem-example-library\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel
