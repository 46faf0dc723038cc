"""The images of the bulk run and of the service, in a real Docker.

Each container runs as in production: as a user that owns nothing in it, with a read-only root, without a network if
it needs none, and with images and registry mounted read-only.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import time
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING

import httpx
import pytest
from PIL import Image

from classifier.artifact import GOLDEN
from classifier.golden import GoldenSet
from registry import LocalRegistry
from tests.conftest import ROOT, Tandem
from tests.system.docker import HARDENED, OWNER, USED, build_batch_image, build_image, docker, get, running, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Building an image counts towards a test's time.
pytestmark = pytest.mark.timeout(1500)


def batch(image: str, home: Path, images: Path, output: Path, *args: str, name: str = "") -> list[str | Path]:
    """Return the `docker run` of `tandem batch` over the mounted folder `images`."""
    output.mkdir(exist_ok=True)
    os.chown(output, OWNER, OWNER)
    return [
        *("run", *HARDENED, "--network", "none", *USED, *(("--name", name) if name else ())),
        *("--volume", f"{home}:/tandem:ro", "--volume", f"{images}:/in:ro", "--volume", f"{output}:/out"),
        *("--workdir", "/in", image, "batch", ".", "--model", "digits", "--output", "/out", "--format", "jsonl", *args),
    ]


def parts(output: Path) -> dict[str, bytes]:
    return {part.name: part.read_bytes() for part in (output / "parts").iterdir()}


@pytest.mark.containers
class TestBatchImage:
    def test_gives_the_rows_of_the_local_command(
        self, batch_image: str, digits_home: Path, test_folder: Path, tandem: Tandem, tmp_path: Path
    ) -> None:
        """The container writes the parts of a local `tandem batch`, byte for byte, and they belong to its user."""
        docker(*batch(batch_image, digits_home, test_folder, tmp_path / "out", "--scores", "all"))
        tandem(
            *(
                "batch",
                ".",
                "--model",
                "digits",
                "--output",
                tmp_path / "local",
                "--format",
                "jsonl",
                "--scores",
                "all",
            ),
            cwd=test_folder,
            env={"TANDEM_HOME": str(digits_home)},
        )
        assert parts(tmp_path / "out") == parts(tmp_path / "local")
        assert (tmp_path / "out" / "_SUCCESS").stat().st_uid == OWNER

    def test_a_bad_image_is_a_row_and_exit_code_3(
        self, batch_image: str, digits_home: Path, test_folder: Path, tmp_path: Path
    ) -> None:
        """The container has the command's exit code, for the scheduler that started it."""
        images = tmp_path / "images"
        shutil.copytree(test_folder / "3", images)
        (images / "broken.png").write_bytes(b"no image at all")
        done = docker(*batch(batch_image, digits_home, images, tmp_path / "out"), check=False)
        assert done.returncode == 3, done.stderr
        rows = [json.loads(line) for part in parts(tmp_path / "out").values() for line in part.splitlines()]
        assert [row["path"] for row in rows if row["status"] == "error"] == ["broken.png"]
        assert len(rows) == len(list(images.iterdir()))

    def test_stops_on_sigterm_and_resumes(
        self, batch_image: str, digits_home: Path, test_folder: Path, tmp_path: Path
    ) -> None:
        """`docker stop` commits the current chunk at once, though the command is process 1; a second run resumes."""
        images = tmp_path / "images"
        images.mkdir()
        for index, source in enumerate(sorted(test_folder.rglob("*.png")) * 40):
            (images / f"{index:05}.png").hardlink_to(source)
        name = f"tandem-batch-{os.getpid()}"
        command = batch(batch_image, digits_home, images, tmp_path / "out", "--chunk-size", "500", name=name)
        running = subprocess.Popen(["docker", *map(str, command)], stderr=subprocess.DEVNULL)
        wait_until(lambda: any((tmp_path / "out").glob("parts/*")), "the first part")
        docker("kill", "--signal", "TERM", name)
        assert running.wait(timeout=60) == 143
        assert not (tmp_path / "out" / "_SUCCESS").exists()
        committed = parts(tmp_path / "out")

        docker(*command)
        assert (tmp_path / "out" / "_SUCCESS").exists()
        assert committed.items() < parts(tmp_path / "out").items()

    def test_killed_it_goes_on(self, batch_image: str, digits_home: Path, test_folder: Path, tmp_path: Path) -> None:
        """After `docker kill`, the same command classifies what was not committed, and nothing twice."""
        images = tmp_path / "images"
        images.mkdir()
        for index, source in enumerate(sorted(test_folder.rglob("*.png")) * 20):
            (images / f"{index:05}.png").hardlink_to(source)
        name = f"tandem-batch-killed-{os.getpid()}"
        command = batch(batch_image, digits_home, images, tmp_path / "out", "--chunk-size", "200", name=name)
        running = subprocess.Popen(["docker", *map(str, command)], stderr=subprocess.DEVNULL)
        wait_until(lambda: any((tmp_path / "out").glob("parts/*")), "the first part")
        docker("kill", name)
        assert running.wait(timeout=60) == 137
        committed = parts(tmp_path / "out")
        docker(*command)
        assert committed.items() <= parts(tmp_path / "out").items()
        rows = [json.loads(line) for part in parts(tmp_path / "out").values() for line in part.splitlines()]
        assert sorted(row["path"] for row in rows) == sorted(path.name for path in images.iterdir())

    @pytest.mark.parametrize(
        ("mounts", "sentence"),
        [
            ({"/in", "/out"}, "model 'digits' was not found"),
            ({"/tandem", "/out"}, "the input '/in' can't be read"),
            ({"/tandem", "/in"}, "'/out' can't be written (Read-only file system); mount a writable folder there"),
        ],
        ids=["registry", "images", "output"],
    )
    def test_a_mount_that_is_missing(
        self,
        batch_image: str,
        digits_home: Path,
        test_folder: Path,
        tmp_path: Path,
        mounts: set[str],
        sentence: str,
    ) -> None:
        """Exit code 1, and a sentence that names it."""
        command = batch(batch_image, digits_home, test_folder, tmp_path / "out")
        for place in {"/tandem", "/in", "/out"} - mounts:
            mount = next(each for each in command if re.search(f":{place}(:ro)?$", str(each)))
            del command[command.index(mount) - 1 : command.index(mount) + 1]
        command[command.index("--workdir") : command.index("--workdir") + 2] = []
        command[command.index(".")] = "/in"
        done = docker(*command, check=False)
        assert done.returncode == 1
        assert sentence in done.stderr.splitlines()[-1]

    def test_a_user_who_may_not_write(
        self, batch_image: str, digits_home: Path, test_folder: Path, tmp_path: Path
    ) -> None:
        """The sentence says who owns the folder, and who runs."""
        command = batch(batch_image, digits_home, test_folder, tmp_path / "out")
        (tmp_path / "out").chmod(0o755)
        command[command.index(USED[1])] = "7777:7777"
        done = docker(*command, check=False)
        assert done.returncode == 1
        expected = f"'/out' belongs to user {OWNER}: give it to user 7777, or run as its owner"
        assert expected in done.stderr.splitlines()[-1]

    def test_cuda_in_the_cpu_image_is_refused(
        self, batch_image: str, digits_home: Path, test_folder: Path, tmp_path: Path
    ) -> None:
        """The image refuses CUDA, and doesn't run silently on the CPU."""
        command = batch(batch_image, digits_home, test_folder, tmp_path / "out")
        command[1:1] = ["--env", "TANDEM_DEVICE=cuda"]
        assert_refused(docker(*command, check=False), tmp_path / "out")

    def test_holds_neither_torch_nor_tools_nor_a_trace_of_this_machine(self, batch_image: str) -> None:
        """The image holds only what it runs: no torch, no compiler, no path of this machine, no root."""
        assert_clean(batch_image, "/opt/tandem/bin/python")

    def test_its_user_can_change_nothing(self, batch_image: str) -> None:
        """Code and packages belong to root: whoever gets into a container can't leave anything in them."""
        assert_sealed(batch_image)


@pytest.fixture
def service_url(service_image: str) -> Iterator[str]:
    """Yield the URL of a ready service in a container without a registry."""
    with running(service_image) as url:
        yield url


@pytest.mark.containers
class TestServiceImage:
    def test_answers_as_the_batch_command_does(
        self, service_url: str, digits_home: Path, test_folder: Path, tandem: Tandem, tmp_path: Path
    ) -> None:
        """The service in a container and a local bulk run agree in every bit of every score."""
        tandem(
            *("parity", "digits", test_folder, "--service", service_url, "--report", tmp_path / "parity.json"),
            env={"TANDEM_HOME": str(digits_home)},
        )
        report = json.loads((tmp_path / "parity.json").read_bytes())
        assert report["must_be_bit_equal"]
        assert report["bit_equal"] == report["images"] == len(list(test_folder.rglob("*.png")))

    def test_everything_around_the_answer_is_in_the_image(self, service_image: str, test_folder: Path) -> None:
        """The page, the protocol of Triton's clients, keys, the cache and the prediction log work in the image."""
        key = "a-key-of-more-than-32-characters-0123456789"
        line = f"shop sha256:{hashlib.sha256(key.encode()).hexdigest()}"
        options = ("--env", f"TANDEM_API_KEYS={line}", "--env", "TANDEM_LOG_URL=sqlite:////tmp/log.db")
        name = f"tandem-service-around-{os.getpid()}"
        with running(service_image, *options, name=name) as url, httpx.Client(base_url=url) as client:
            for path in ("/", "/page/page.js", "/docs", "/docs/swagger-ui-bundle.js", "/docs.json", "/v2/health/ready"):
                assert client.get(path).status_code == 200, path
            assert client.get("/v2").status_code == 401
            client.headers["X-Api-Key"] = key
            assert "binary_tensor_data" in client.get("/v2").json()["extensions"]
            image = min(test_folder.rglob("*.png")).read_bytes()
            answers = [client.post("/classify", content=image) for _ in range(2)]
            assert [answer.headers["x-tandem-cache"] for answer in answers] == ["miss", "hit"]
            truth = {"request_id": answers[0].headers["x-request-id"], "label": "0"}
            assert client.post("/feedback", json=truth).status_code == 202
            assert "tandem_requests_total" in client.get("/metrics").text
            log = docker("logs", name).stdout
            assert '"client":"shop"' in log
            assert key not in log

    def test_model_named_at_run_time_comes_from_the_mounted_registry(
        self, service_image: str, digits_home: Path
    ) -> None:
        """TANDEM_MODEL overrides the pinned model; a name that the registry lacks ends with one sentence."""
        mounted = ("--volume", f"{digits_home}:/tandem:ro")
        done = docker("run", *HARDENED, *mounted, "--env", "TANDEM_MODEL=digits:7", service_image, check=False)
        assert done.returncode == 1
        [sentence] = done.stderr.splitlines()
        assert "model 'digits:7' is not in the registry /tandem/registry" in sentence

    def test_stops_on_sigterm(self, service_image: str) -> None:
        """`docker stop` and Kubernetes end it with exit code 0, without SIGKILL."""
        name = f"tandem-service-stop-{os.getpid()}"
        with running(service_image, name=name, user=""):
            docker("kill", "--signal", "TERM", name)
            assert docker("wait", name, timeout=60).stdout.strip() == "0"

    def test_holds_neither_torch_nor_tools_nor_a_trace_of_this_machine(self, service_image: str) -> None:
        """The image holds only what it runs: no torch, no compiler, no path of this machine, no root."""
        assert_clean(service_image, "/opt/tandem/bin/python")

    def test_its_user_can_change_nothing(self, service_image: str) -> None:
        """Code, model and packages belong to root: whoever gets into a container can't leave anything in them."""
        assert_sealed(service_image)

    def test_docker_sees_that_it_is_ready(self, service_image: str) -> None:
        """On whatever port an option or PORT names."""
        for options, arguments in (
            (("--env", "PORT=3000", "--env", "BENTOML_PORT=1"), ()),
            (("--env", "PORT=1"), ("--port", "3000")),
            ((), ("-p3000",)),
        ):
            name = f"tandem-service-health-{os.getpid()}"
            every = ("--health-interval", "1s")
            with running(service_image, *every, *options, arguments=arguments, name=name):
                wait_until_healthy(name)
                assert docker("exec", name, "tandem-service", "health").stdout.strip() == "HTTP/1.1 200 OK"

    @pytest.mark.parametrize("made_by", ["service_image", "containerized_image"])
    def test_a_docker_stop_in_the_worst_case(self, made_by: str, request: pytest.FixtureRequest, image: bytes) -> None:
        """A request that does not end and a log that nobody takes don't outlive the 10 s until it kills."""
        name = f"tandem-service-slow-{os.getpid()}"
        # 192.0.2.1 is for documentation: nothing answers there.
        log = ("--env", "TANDEM_LOG_URL=postgresql+psycopg://tandem@192.0.2.1/tandem")
        with running(request.getfixturevalue(made_by), *log, name=name) as url:
            assert httpx.post(f"{url}/classify", content=image).status_code == 200
            host, port = url.removeprefix("http://").split(":")
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
                time.sleep(0.5)
                docker("stop", name)
                assert docker("inspect", "--format", "{{.State.ExitCode}}", name).stdout.strip() == "0"
                assert b'"stopping"' in connection.recv(4096)

    @pytest.mark.parametrize(
        ("options", "arguments", "sentence"),
        [
            (("--env", "PORT=abc"), (), "PORT is 'abc', which is not a port"),
            (("--env", "BENTOML_PORT=70000"), (), "BENTOML_PORT is '70000', which is not a port"),
            ((), ("--port", "0"), "--port is '0', which is not a port"),
            (("--env", "TANDEM_STOP_WITHIN=soon"), (), "TANDEM_STOP_WITHIN is 'soon'"),
            (("--memory", "64m", "--memory-swap", "64m"), (), "does not fit into this container's memory of 67 MB"),
            (("--env", "TANDEM_DEVICE=cuda"), (), "device 'cuda:0' is not available"),
            (("--env", "TANDEM_MODEL=127.0.0.1:9/acme/digits:1"), (), "nothing accepts connections on 127.0.0.1:9"),
        ],
        ids=["PORT", "BENTOML_PORT", "--port", "time to stop", "memory", "cuda", "registry down"],
    )
    def test_what_is_wrong_ends_with_one_sentence(
        self, service_image: str, options: tuple[str, ...], arguments: tuple[str, ...], sentence: str
    ) -> None:
        """And exit code 1, so that an orchestrator reports it."""
        done = docker("run", *HARDENED, *options, service_image, *arguments, check=False)
        assert done.returncode == 1
        [line] = done.stderr.splitlines()
        assert line.startswith("Error: ")
        assert sentence in line

    def test_without_a_folder_to_write_to(self, service_image: str) -> None:
        """A read-only container needs its /tmp."""
        done = docker("run", "--rm", "--read-only", service_image, check=False)
        assert done.returncode == 1
        assert done.stderr.splitlines() == ["Error: /tmp can't be written, but BentoML works in it: add --tmpfs /tmp"]

    def test_less_than_one_cpu(self, service_image: str) -> None:
        """It starts, and takes itself to have one."""
        name = f"tandem-service-cpu-{os.getpid()}"
        with running(service_image, "--cpus", "0.4", name=name):
            limit = (
                "import sys; sys.path.insert(0, 'src'); from classifier.hardware import cpu_limit; print(cpu_limit())"
            )
            assert docker("exec", name, "python", "-c", limit).stdout.strip() == "1"

    def test_its_prediction_log_is_read_in_it(self, service_image: str, image: bytes) -> None:
        """The image has the command `tandem`, for `tandem log` beside the database that only the service reaches."""
        name = f"tandem-service-log-{os.getpid()}"
        with running(service_image, "--env", "TANDEM_LOG_URL=sqlite:////tmp/log.db", name=name) as url:
            assert httpx.post(f"{url}/classify", content=image).status_code == 200
            wait_until(lambda: "1 image" in docker("exec", name, "tandem", "log", "summary").stdout, "the row")
            refused = docker("exec", name, "tandem", "val", "digits", "/tmp", check=False)
            assert refused.returncode == 1
            [sentence] = refused.stderr.splitlines()
            assert "this image does not hold 'validation'" in sentence

    def test_every_line_of_its_log_is_json(self, service_image: str) -> None:
        """From the first to the last, of a container that was stopped."""
        name = f"tandem-service-json-{os.getpid()}"
        with running(service_image, name=name):
            docker("stop", name)
            logged = docker("logs", name)
            assert not logged.stderr
            assert all(json.loads(line)["message"] for line in logged.stdout.splitlines())

    def test_a_model_that_fails_its_self_test_gives_no_image(
        self, digits_home: Path, tandem: Tandem, tmp_path: Path
    ) -> None:
        """The build ends with the sentence; nobody finds out in production."""
        registry = LocalRegistry(digits_home / "registry")
        good = registry.resolve("digits")
        files = {file: good.read(file) for file in good.files}
        golden = GoldenSet.from_bytes(files[GOLDEN])
        files[GOLDEN] = replace(golden, scores=1 - golden.scores).to_bytes()
        LocalRegistry(tmp_path / "registry").add("wrong", files)
        done = tandem("package", "wrong", env={"TANDEM_HOME": str(tmp_path)}, timeout=1200, check=False)
        assert done.returncode == 1
        assert "failed its self-test" in done.stderr

    def test_dead_worker_is_replaced(self, service_image: str) -> None:
        """A worker that the kernel killed is replaced; the container goes on."""
        name = f"tandem-service-worker-{os.getpid()}"
        with running(service_image, name=name) as url:
            end = "import psutil; psutil.Process(1).children()[0].kill()"
            docker("exec", name, "python", "-c", end)
            wait_until(lambda: "ended with exit code -9" in docker("logs", name).stdout, "the line of the log")
            wait_until(lambda: get(f"{url}/readyz") == 200, "another worker")

    def test_large_images_in_a_small_container(self, service_image: str, test_folder: Path) -> None:
        """An image that the container's memory can't decode is refused; it doesn't end the service."""
        name = f"tandem-service-small-{os.getpid()}"
        limit = ("--memory", "512m", "--memory-swap", "512m")
        with running(service_image, *limit, name=name) as url:
            for options in ({}, {"progressive": True}):
                large = BytesIO()
                Image.new("RGB", (9950, 9950)).save(large, "JPEG", **options)
                refused = httpx.post(f"{url}/classify", content=large.getvalue(), timeout=60)
                assert refused.status_code == 413
                assert "this container's limit" in refused.json()["error"]["message"]
            image = min(test_folder.rglob("*.png")).read_bytes()
            assert httpx.post(f"{url}/classify", content=image).status_code == 200
            assert "ended with exit code" not in docker("logs", name).stdout

    def test_too_little_memory_ends_with_one_sentence(self, service_image: str) -> None:
        """A container that not even the model fits into says so, and is not restarted by itself for ever."""
        limit = ("--memory", "130m", "--memory-swap", "130m")
        done = docker("run", *HARDENED, *limit, service_image, check=False)
        assert done.returncode == 1, done.stderr
        [sentence] = done.stderr.splitlines()
        assert "does not fit into this container's memory of 136 MB" in sentence


@pytest.mark.containers
class TestImageWithoutAModel:
    """Of the clone itself, for a model that is mounted or pulled."""

    def test_serves_a_mounted_model(self, modelless_image: str, digits_home: Path, image: bytes) -> None:
        """Which TANDEM_MODEL names."""
        options = ("--volume", f"{digits_home}:/tandem:ro", "--env", "TANDEM_MODEL=digits")
        with running(modelless_image, *options) as url:
            assert httpx.post(f"{url}/classify", content=image).status_code == 200

    def test_with_openvino(self, digits_home: Path, image: bytes) -> None:
        """ENGINE=openvino brings that engine beside ONNX Runtime."""
        tag = build_image("Dockerfile.service", "tandem-service:test-openvino", "--build-arg", "ENGINE=openvino")
        options = ("--volume", f"{digits_home}:/tandem:ro", "--env", "TANDEM_MODEL=digits")
        name = f"tandem-service-openvino-{os.getpid()}"
        with running(tag, *options, name=name) as url:
            assert httpx.post(f"{url}/classify", content=image).status_code == 200
            assert "openvino" in docker("exec", name, "tandem", "doctor", check=False).stdout

    def test_without_a_model(self, modelless_image: str) -> None:
        """The sentence says both ways to give it one."""
        done = docker("run", *HARDENED, modelless_image, check=False)
        assert done.returncode == 1
        [sentence] = done.stderr.splitlines()
        assert "mount a TANDEM_HOME" in sentence
        assert "ghcr.io/acme/digits:3" in sentence

    def test_for_development(self, digits_home: Path, image: bytes, tmp_path: Path) -> None:
        """MODE=development logs text, and starts anew when a file of the mounted clone changes."""
        tag = build_image("Dockerfile.service", "tandem-service:test-development", "--build-arg", "MODE=development")
        name = f"tandem-service-development-{os.getpid()}"
        code = shutil.copytree(ROOT / "service", tmp_path / "service", ignore=shutil.ignore_patterns("__pycache__"))
        mounts = ("--volume", f"{digits_home}:/tandem:ro", "--volume", f"{code}:/app/service:ro")
        with running(tag, *mounts, "--env", "TANDEM_MODEL=digits", name=name) as url:
            assert httpx.post(f"{url}/classify", content=image).status_code == 200
            first, *_ = docker("logs", name).stdout.splitlines()
            assert not first.startswith("{")
            (code / "limits.py").write_text((code / "limits.py").read_text() + "# changed\n")
            wait_until(lambda: docker("logs", name).stdout.count("passed its self-test") == 2, "another worker")


@pytest.mark.containers
class TestContainerizedBento:
    """The image of `bentoml containerize`, through BentoML's own Dockerfile."""

    def test_is_hardened_and_answers(self, containerized_image: str, image: bytes) -> None:
        """Nothing in it belongs to its user; Docker sees its health."""
        assert_clean(containerized_image, "/app/.venv/bin/python")
        assert_sealed(containerized_image)
        name = f"tandem-service-bentoml-{os.getpid()}"
        with running(containerized_image, "--health-interval", "1s", name=name) as url:
            assert httpx.post(f"{url}/classify", content=image).status_code == 200
            wait_until_healthy(name)

    def test_has_the_labels_of_the_other_image(self, containerized_image: str, service_image: str) -> None:
        """Whichever command built it; the commit is a build argument."""
        found = [
            json.loads(docker("inspect", "--format", "{{json .Config.Labels}}", each).stdout)
            for each in (containerized_image, service_image)
        ]
        revision = [labels.pop("org.opencontainers.image.revision") for labels in found]
        assert revision[0] == "unknown"
        assert found[0] == found[1]


@pytest.mark.cuda_image
def test_cuda_image_refuses_to_run_without_a_gpu(digits_home: Path, test_folder: Path, tmp_path: Path) -> None:
    """Without a GPU, the default image says so in one sentence; it never falls back to the CPU."""
    image = build_batch_image("tandem-batch:test-cuda")
    assert_refused(docker(*batch(image, digits_home, test_folder, tmp_path / "out"), check=False), tmp_path / "out")


@pytest.mark.cuda_image
def test_cuda_service_image_refuses_to_run_without_a_gpu(digits_home: Path, image: bytes) -> None:
    """In one sentence; told to, it runs on the CPU."""
    tag = build_image("Dockerfile.service", "tandem-service:test-cuda", "--build-arg", "ENGINE=cuda")
    options = ("--volume", f"{digits_home}:/tandem:ro", "--env", "TANDEM_MODEL=digits")
    done = docker("run", *HARDENED, *options, tag, check=False)
    assert done.returncode == 1
    [sentence] = done.stderr.splitlines()
    assert "cuda" in sentence.lower()
    with running(tag, *options, "--env", "TANDEM_DEVICE=cpu") as url:
        assert httpx.post(f"{url}/classify", content=image).status_code == 200


def wait_until_healthy(name: str) -> None:
    """Wait until Docker calls the container healthy."""
    health = ("inspect", "--format", "{{.State.Health.Status}}", name)
    wait_until(lambda: docker(*health).stdout.strip() == "healthy", "the container's health")


def assert_refused(done: subprocess.CompletedProcess[str], output: Path) -> None:
    """Assert that the command ended with exit code 1 and one sentence about CUDA, and wrote nothing."""
    assert done.returncode == 1, done.stderr
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("Error: ")
    assert "cuda" in sentence.lower()
    assert not list(output.iterdir())


def assert_sealed(image: str) -> None:
    """Assert that the image's user owns no file of it, and may write only where everybody may."""
    find = "find / -xdev \\( -user $(id -u) -o -writable \\) ! -type l ! -path '/proc*' ! -path '/dev*' -print"
    found = docker("run", "--rm", "--network", "none", "--entrypoint", "sh", image, "-c", find, check=False)
    assert set(found.stdout.splitlines()) == {"/tmp", "/var/tmp", "/run/lock"}, found.stdout + found.stderr


def assert_clean(image: str, python: str) -> None:
    """Assert that the image has no torch, no compiler and no path of this machine, and doesn't run as root."""
    user = docker("image", "inspect", "--format", "{{.Config.User}}", image).stdout.strip()
    assert user
    assert user.split(":")[0] not in {"root", "0"}
    found = docker(
        *("run", "--rm", "--network", "none", "--entrypoint", python, image, "-c"),
        "import importlib.util, shutil\n"
        "print([m for m in ('torch', 'torchvision', 'onnx', 'sklearn') if importlib.util.find_spec(m)])\n"
        "print([tool for tool in ('gcc', 'cc', 'git', 'make') if shutil.which(tool)])",
    ).stdout
    assert found.splitlines() == ["[]", "[]"]
    traces = docker(
        *("run", "--rm", "--network", "none", "--user", "0", "--entrypoint", "grep", image),
        *("-rlF", f"{ROOT}/", "/opt", "/app", "/home"),
        check=False,
    ).stdout
    assert not traces
    assert str(ROOT) not in docker("history", "--no-trunc", image).stdout
