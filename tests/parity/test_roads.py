"""The real `tandem parity` against a real service, and against one whose answers are changed on the way."""

from __future__ import annotations

import errno
import json
import os
import struct
import subprocess
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from PIL import Image

from classifier.errors import DataError, ServiceError
from classifier.hardware import cpu
from tests.parity.conftest import compare
from tests.parity.proxy import proxy
from tests.serving import serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from classifier.model import Model
    from tests.conftest import Tandem
    from tests.parity.proxy import Reply, Request


@pytest.fixture
def parity(tandem: Tandem, digits_home: Path) -> Callable[..., Any]:
    """Return a function that runs `tandem parity digits …` and returns the ended process, whatever its exit code."""

    def run(*args: str | Path) -> Any:
        done = tandem("parity", "digits", *args, check=False, env={"TANDEM_HOME": str(digits_home)})
        assert "Traceback" not in done.stderr
        return done

    return run


def test_a_service_in_parity(parity: Callable[..., Any], test_folder: Path, service_url: str, tmp_path: Path) -> None:
    """Service and bulk run give every score of the held-out images the same bits: exit code 0."""
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
def test_parity_with_every_engine_and_precision(
    parity: Callable[..., Any], model: Model, digits_home: Path, few: Path, tmp_path: Path, way: str
) -> None:
    """With any engine and precision set for both, every score has the same bits. The test above covers `auto`."""
    precision, engine = way.split()
    pytest.importorskip(engine)
    if precision == "bf16" and "bf16" not in cpu().features:
        pytest.skip("the CPU has no bf16 instructions")
    if way not in {f"{each.precision} {each.engine}" for each in model.config.allowed if each.device == "cpu"}:
        assert precision == "bf16"  # on some CPUs its scores depend on the batch, so export disallows it
        pytest.skip("the model does not allow it")
    with serving(tmp_path / "serve", home=digits_home, TANDEM_ENGINE=engine, TANDEM_PRECISION=precision) as server:
        report = tmp_path / "report.json"
        done = parity(few, "--service", server.url, "--engine", engine, "--precision", precision, "--report", report)
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
    """On one GPU, equal batch sizes give equal bits. Other batch sizes, and the CPU, agree within the tolerance."""
    gpu = ("--device", "cuda", "--precision", precision)
    roads = {
        (*gpu, "--batch-size", "8"): "so every bit",
        gpu: "the sizes of the batches",
        ("--device", "cpu"): "engine",
    }
    report = tmp_path / "report.json"
    with serving(tmp_path / "serve", home=digits_home, TANDEM_DEVICE="cuda", TANDEM_PRECISION=precision) as server:
        for road, rule in roads.items():
            done = parity(few, "--service", server.url, *road, "--report", report)
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
def test_a_service_that_can_not_be_used(
    parity: Callable[..., Any], few: Path, arguments: list[str], code: int, sentence: str
) -> None:
    """A missing service and an invalid URL end with one sentence."""
    done = parity(few, *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.splitlines()[-1].startswith(sentence)


def test_a_tampered_score_is_found(parity: Callable[..., Any], few: Path, service_url: str) -> None:
    """One score that is off by its last bit is found, and its image named: exit code 3."""

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


def on_another_machine(request: Request, reply: Reply) -> None:
    """Let the service report another instruction set."""
    if "engine" in reply.body:
        reply.body["engine"]["instruction_set"] = "elsewhere"


@pytest.mark.parametrize(("share", "in_parity"), [(0.9, True), (1.1, False)])
def test_another_machine_must_agree_within_the_tolerance(
    model: Model, few: Path, service_url: str, share: float, in_parity: bool
) -> None:
    """If bits need not be equal, the artifact's tolerance decides."""
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
    """Bad images get the same reason from both sides. A file that can't be read is not sent."""
    for name, data in {"a.png": image, "cut.png": image[:70], "empty.png": b"", "text.jpg": b"text"}.items():
        (tmp_path / name).write_bytes(data)
    with (tmp_path / "large.png").open("wb") as large:
        large.truncate(2**30)
    report = compare(model, service_url, tmp_path)
    assert (report.images, report.refused, report.unread, report.in_parity) == (1, 3, 1, True)


def test_the_largest_images_are_answered_on_both_roads(model: Model, service_url: str, tmp_path: Path) -> None:
    """What the service may decode, a bulk run may, too: a WebP of 75 megapixels, a turned PNG of 100."""
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGBA", (8660, 8640)).save(tmp_path / "a.webp", lossless=True, method=0, exif=exif)
    Image.new("RGBA", (10_000, 10_000)).save(tmp_path / "b.png", compress_level=1, exif=exif)
    report = compare(model, service_url, tmp_path)
    assert (report.images, report.bit_equal, report.in_parity) == (2, 2, True), report.listed


def test_the_bulk_road_is_that_of_a_bulk_run(
    model: Model, image: bytes, service_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large images are decoded in the bulk run's own processes: where none can be started, parity says so."""
    (tmp_path / "a.png").write_bytes(image)
    Image.new("RGB", (5000, 4000)).save(tmp_path / "large.png")

    def no_room(*args: Any, **kwargs: Any) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(subprocess, "Popen", no_room)
    report = compare(model, service_url, tmp_path)
    assert [(each.path, each.what) for each in report.listed] == [
        ("large.png", "bulk says not_decoded, the service ok")
    ]


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
    """For a bad image, another reason or an answer is a disagreement."""
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
    """With a limit, only the first images of the folder are compared."""
    assert compare(model, service_url, few, limit=5).images == 5


def test_nothing_to_compare_proves_nothing(model: Model, service_url: str, tmp_path: Path) -> None:
    """A folder without a valid image is an error, not parity."""
    (tmp_path / "empty.png").touch()
    with pytest.raises(DataError, match="nothing was compared"):
        compare(model, service_url, tmp_path)


def test_another_model_is_named(model: Model, few: Path, service_url: str) -> None:
    """A service of another model is an error that names both."""

    def tamper(request: Request, reply: Reply) -> None:
        if request.path == "/model":
            reply.body |= {"model": "digits@sha256:other", "digest": "sha256:other"}

    with (
        proxy(service_url, tamper) as url,
        pytest.raises(ServiceError, match=f"serves digits@sha256:other, but the bulk run uses {model.identity};"),
    ):
        compare(model, url, few)


def test_a_model_that_changes_midway_is_found(model: Model, few: Path, service_url: str) -> None:
    """An answer with another digest than the service's description is an error, not a disagreement."""

    def tamper(request: Request, reply: Reply) -> None:
        if (request.path, request.count) == ("/classify", 4):
            reply.body["digest"] = "sha256:other"

    with proxy(service_url, tamper) as url, pytest.raises(ServiceError, match="answered with sha256:other on"):
        compare(model, url, few)


def test_too_few_labels_are_named(model: Model, few: Path, service_url: str) -> None:
    """If a reverse proxy drops the query, 5 of 10 labels come back: an error that says so."""

    def tamper(request: Request, reply: Reply) -> None:
        if request.path == "/classify":
            del reply.body["predictions"][5:]

    with proxy(service_url, tamper) as url, pytest.raises(ServiceError, match="returned 5 of the model's 10 labels"):
        compare(model, url, few)
