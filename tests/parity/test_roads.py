"""The real `tandem parity` against a real service, and against one whose answers are tampered with on the way."""

from __future__ import annotations

import json
import socket
import struct
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from batch.inputs.named import find_inputs
from classifier.errors import DataError, ServiceError
from classifier.hardware import cpu
from parity.client import ServiceClient
from parity.roads import compare_roads
from tests.batch.conftest import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from classifier.model import Model
    from tests.conftest import Tandem


@dataclass
class Request:
    """A request that passes through the proxy; `count` numbers those of its path."""

    path: str
    count: int


@dataclass
class Reply:
    """What the service answered, and what the proxy makes of it."""

    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False


@contextmanager
def proxy(url: str, tamper: Callable[[Request, Reply], None]) -> Iterator[str]:
    """Yield the URL of a proxy before the real service, which lets `tamper` change its answers."""
    counts: dict[str, int] = {}
    lock = threading.Lock()
    upstream = httpx.Client()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            answer = upstream.request(self.command, f"{url}{self.path}", content=self.rfile.read(length))
            path = self.path.partition("?")[0]
            with lock:
                counts[path] = counts.get(path, 0) + 1
            is_json = answer.headers.get("content-type") == "application/json"
            reply = Reply(answer.status_code, answer.json() if is_json else answer.text)
            tamper(Request(path, counts[path]), reply)
            if reply.cut:  # a reset, as a server that was killed sends it
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                return
            body = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
            self.send_response(reply.status)
            for name, value in {**reply.headers, "Content-Length": str(len(body.encode()))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET  # noqa: N815 # the name that http.server calls

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        upstream.close()


@pytest.fixture
def parity(tandem: Tandem, digits_home: Path) -> Callable[..., Any]:
    """Return a function that runs `tandem parity digits …`, without a check of its exit code."""

    def run(*args: str | Path) -> Any:
        done = tandem("parity", "digits", *args, check=False, env={"TANDEM_HOME": str(digits_home)})
        assert "Traceback" not in done.stderr
        return done

    return run


def test_a_service_in_parity(parity: Callable[..., Any], test_folder: Path, service_url: str, tmp_path: Path) -> None:
    """The service and the bulk run give each score of the held-out images the same bits: exit code 0."""
    done = parity(test_folder, "--service", service_url, "--report", tmp_path / "report.json")
    assert done.returncode == 0, done.stderr
    images = sum(1 for _ in test_folder.rglob("*.png"))
    report = json.loads((tmp_path / "report.json").read_bytes())
    assert report["in_parity"]
    assert report["must_be_bit_equal"]
    assert (report["images"], report["bit_equal"], report["top1_equal"]) == (images, images, images)
    assert (report["max_difference"], report["disagreements"], report["refused"]) == (0, 0, 0)
    assert report["bulk_engine"] == report["service_engine"]
    assert f"{images} images on both roads: {images} bit-equal, largest difference of a score 0" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("in parity (same engine, version, device")


@pytest.mark.parametrize("way", ["fp32 onnxruntime", "int8 onnxruntime", "fp32 openvino", "bf16 openvino"])
def test_parity_in_every_way(
    parity: Callable[..., Any], model: Model, digits_home: Path, few: Path, tmp_path: Path, way: str
) -> None:
    """Whichever engine and precision both roads are told to take, each score has the same bits; `auto` is above."""
    precision, engine = way.split()
    pytest.importorskip(engine)
    if precision == "bf16" and "bf16" not in cpu().features:
        pytest.skip("the CPU has no bf16 instructions")
    if way not in {f"{each.precision} {each.engine}" for each in model.config.allowed if each.device == "cpu"}:
        assert precision == "bf16"  # the one that may be found, on some CPUs, to depend on the batch
        pytest.skip("the model does not allow it")
    with serving(digits_home, tmp_path, TANDEM_ENGINE=engine, TANDEM_PRECISION=precision) as url:
        report = tmp_path / "report.json"
        done = parity(few, "--service", url, "--engine", engine, "--precision", precision, "--report", report)
    assert done.returncode == 0, done.stderr
    compared = json.loads(report.read_bytes())
    assert compared["must_be_bit_equal"]
    assert compared["images"] == compared["bit_equal"] == 40
    for road in ("bulk_engine", "service_engine"):
        assert (compared[road]["name"], compared[road]["precision"]) == (engine, precision)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_parity_on_a_gpu(
    parity: Callable[..., Any], digits_home: Path, few: Path, tmp_path: Path, precision: str
) -> None:
    """On one GPU both roads give the same bits in batches of one size; else, and on the CPU, they agree."""
    gpu = ("--device", "cuda", "--precision", precision)
    roads = {
        (*gpu, "--batch-size", "8"): "so every bit",
        gpu: "the sizes of the batches",
        ("--device", "cpu"): "engine",
    }
    report = tmp_path / "report.json"
    with serving(digits_home, tmp_path, TANDEM_DEVICE="cuda", TANDEM_PRECISION=precision) as url:
        for road, rule in roads.items():
            done = parity(few, "--service", url, *road, "--report", report)
            assert done.returncode == 0, done.stderr
            assert rule in done.stdout.splitlines()[-1]
            compared = json.loads(report.read_bytes())
            assert compared["images"] == 40
            assert compared["bit_equal"] == 40 or not compared["must_be_bit_equal"]
            served = compared["service_engine"]
            assert (served["device"], served["precision"], served["batch_size"]) == ("cuda:0", precision, 8)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--service", "http://127.0.0.1:9"], 1, "Error: the service at http://127.0.0.1:9 can't be reached ("),
        (["--service", "localhost:3000"], 1, "Error: 'localhost:3000' is not a URL of a service; write it as http://"),
        (["--service", "http://"], 1, "Error: 'http://' is not a URL of a service; write it as http://"),
        (["--service", "http://[::1"], 1, "Error: 'http://[::1' is not a URL ("),
        ([], 2, "Error: Missing option '--service'"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) and value else "",
)
def test_what_could_not_be_compared(
    parity: Callable[..., Any], few: Path, arguments: list[str], code: int, sentence: str
) -> None:
    """A service that isn't there, and a URL that is none, end in one sentence."""
    done = parity(few, *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.splitlines()[-1].startswith(sentence)


def test_a_tampered_score_is_found(parity: Callable[..., Any], few: Path, service_url: str) -> None:
    """One score of one answer that is off by its last bit is found and named: exit code 3."""

    def tamper(request: Request, reply: Reply) -> None:
        if (request.path, request.count) == ("/classify", 7):
            score = reply.body["predictions"][0]["score"]
            [bits] = struct.unpack("<I", struct.pack("<f", score))
            [reply.body["predictions"][0]["score"]] = struct.unpack("<f", struct.pack("<I", bits - 1))

    with proxy(service_url, tamper) as url:
        done = parity(few, "--service", url, "--concurrency", "1")
    assert done.returncode == 3, done.stderr
    seventh = sorted(str(path.relative_to(few)) for path in few.rglob("*.png"))[6]
    assert f"differs: {seventh}: a score differs by " in done.stdout
    assert "39 bit-equal" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("NOT in parity on 1 image (same engine")


def compare(model: Model, url: str, *inputs: Path, limit: int | None = None) -> Any:
    with ServiceClient(url, connections=4) as client:
        return compare_roads(model, client, find_inputs([str(each) for each in inputs]), limit=limit, concurrency=4)


def on_another_machine(request: Request, reply: Reply) -> None:
    """Let the service say that it runs on another instruction set."""
    if "engine" in reply.body:
        reply.body["engine"]["instruction_set"] = "elsewhere"


@pytest.mark.parametrize(("share", "in_parity"), [(0.9, True), (1.1, False)])
def test_another_machine_must_agree_within_the_tolerance(
    model: Model, few: Path, service_url: str, share: float, in_parity: bool
) -> None:
    """Where the bits need not be equal, the artifact's tolerance decides."""
    tolerance = model.golden.tolerances[model.engine.info.precision]

    def tamper(request: Request, reply: Reply) -> None:
        on_another_machine(request, reply)
        if (request.path, request.count) == ("/classify", 3):
            reply.body["predictions"][-1]["score"] += share * tolerance

    with proxy(service_url, tamper) as url:
        report = compare(model, url, few)
    assert not report.must_be_bit_equal
    assert report.tolerance == tolerance
    assert (report.images, report.bit_equal, report.in_parity) == (40, 39, in_parity)
    assert report.max_difference == pytest.approx(share * tolerance, rel=1e-2)


def test_bad_images_are_refused_by_both(
    model: Model, few: Path, image: bytes, service_url: str, tmp_path: Path
) -> None:
    """Images that can't be classified get the same reason on both roads, and what can't be read is sent on neither."""
    for name, data in {"a.png": image, "cut.png": image[:70], "empty.png": b"", "text.jpg": b"text"}.items():
        (tmp_path / name).write_bytes(data)
    with (tmp_path / "large.png").open("wb") as large:
        large.truncate(2**30)
    report = compare(model, service_url, tmp_path)
    assert (report.images, report.refused, report.unread, report.in_parity) == (1, 3, 1, True)


@pytest.mark.parametrize(
    ("body", "status", "what"),
    [
        ({"error": {"reason": "unreadable", "message": ""}}, 400, "bulk says empty, the service unreadable"),
        (None, 200, "bulk says empty, the service ok"),
    ],
    ids=["another reason", "an answer"],
)
def test_another_verdict_on_a_bad_image_is_found(
    model: Model, image: bytes, service_url: str, tmp_path: Path, body: Any, status: int, what: str
) -> None:
    """A bad image must be refused for the same reason: another reason, or an answer, is a disagreement."""
    (tmp_path / "a.png").write_bytes(image)
    (tmp_path / "empty.png").write_bytes(b"")
    sound = httpx.post(f"{service_url}/classify", params={"top_k": 10}, content=image).json()

    def tamper(request: Request, reply: Reply) -> None:
        if request.path == "/classify" and reply.status != httpx.codes.OK:
            reply.status, reply.body = status, body or sound

    with proxy(service_url, tamper) as url:
        report = compare(model, url, tmp_path)
    assert not report.in_parity
    assert [(each.path, each.what) for each in report.listed] == [("empty.png", what)]


def test_only_the_first_images(model: Model, few: Path, service_url: str) -> None:
    """A limit compares the first images of the folder, and no more."""
    assert compare(model, service_url, few, limit=5).images == 5


def test_nothing_to_compare_proves_nothing(model: Model, service_url: str, tmp_path: Path) -> None:
    """A folder of which no image can be classified is an error, and no parity."""
    (tmp_path / "empty.png").touch()
    with pytest.raises(DataError, match="nothing is proved"):
        compare(model, service_url, tmp_path)


def test_another_model_is_named(model: Model, few: Path, service_url: str) -> None:
    """A service of another model is an error that names both."""

    def tamper(request: Request, reply: Reply) -> None:
        if request.path == "/model":
            reply.body |= {"model": "digits@sha256:other", "digest": "sha256:other"}

    with (
        proxy(service_url, tamper) as url,
        pytest.raises(ServiceError, match=f"serves digits@sha256:other, and here the model is {model.identity};"),
    ):
        compare(model, url, few)


def test_a_model_that_changes_midway_is_found(model: Model, few: Path, service_url: str) -> None:
    """An answer of another digest than the service said is an error, not a disagreement."""

    def tamper(request: Request, reply: Reply) -> None:
        if (request.path, request.count) == ("/classify", 4):
            reply.body["digest"] = "sha256:other"

    with proxy(service_url, tamper) as url, pytest.raises(ServiceError, match="answered with sha256:other on"):
        compare(model, url, few)


@pytest.mark.parametrize(
    ("path", "status", "body", "sentence"),
    [
        ("/readyz", 503, "", "is not ready"),
        ("/readyz", 404, "", None),
        ("/model", 404, "no such page", "answers on /model, HTTP 404, with what no Tandem service"),
        (
            "/model",
            200,
            "<html>",
            "answers on /model, HTTP 200, with what no Tandem service of this version says (JSON",
        ),
        ("/classify", 500, "", "failed with HTTP 500 on /classify; its log says why"),
        ("/classify", 404, "", "answers on /classify, HTTP 404"),
        ("/classify", 200, {"predictions": []}, "answers on /classify, HTTP 200"),
        ("/classify", 413, "<html>too large</html>", "answers on /classify, HTTP 413"),
    ],
)
def test_what_is_no_tandem_service(
    model: Model, few: Path, service_url: str, path: str, status: int, body: Any, sentence: str | None
) -> None:
    """An answer that no Tandem service gives is an error of one sentence that names the path."""

    def tamper(request: Request, reply: Reply) -> None:
        if request.path == path:
            reply.status, reply.body = status, body

    with proxy(service_url, tamper) as url:
        if sentence is None:  # a proxy in front may hide the probes
            assert compare(model, url, few).in_parity
            return
        with pytest.raises(ServiceError) as caught:
            compare(model, url, few)
    assert sentence in str(caught.value)


def test_too_few_labels_are_named(model: Model, few: Path, service_url: str) -> None:
    """A proxy that drops the query leaves top-5 of 10: an error that says so."""

    def tamper(request: Request, reply: Reply) -> None:
        if request.path == "/classify":
            del reply.body["predictions"][5:]

    with proxy(service_url, tamper) as url, pytest.raises(ServiceError, match="answered 5 of the model's 10 labels"):
        compare(model, url, few)


def test_what_passes_is_tried_again(model: Model, few: Path, service_url: str) -> None:
    """A broken connection and a full queue pass, and change no answer."""

    def tamper(request: Request, reply: Reply) -> None:
        if request.path == "/classify" and request.count % 10 == 3:
            reply.cut = True
        elif request.path == "/classify" and request.count % 10 == 7:
            reply.status, reply.headers = 503, {"Retry-After": "0"}

    with proxy(service_url, tamper) as url:
        report = compare(model, url, few)
    assert (report.bit_equal, report.in_parity) == (40, True)


def test_what_does_not_pass_is_given_up(model: Model, few: Path, service_url: str) -> None:
    """A service that breaks every connection is not asked for ever."""

    def tamper(request: Request, reply: Reply) -> None:
        reply.cut = request.path == "/classify"

    with proxy(service_url, tamper) as url, pytest.raises(ServiceError, match="can't be reached"):
        compare(model, url, few)
