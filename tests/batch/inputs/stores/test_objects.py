"""Stores that fail, each in its way, while a run is planned, read and resumed. The servers are real ones."""

from __future__ import annotations

import http.server
import tarfile
import threading
from typing import TYPE_CHECKING, Any

import pytest

from batch.inputs.named import find_inputs
from batch.inputs.stores import objects
from classifier.errors import DataError
from tests.batch.conftest import read_parts
from tests.batch.images import rows_of
from tests.batch.inputs.conftest import use_s3

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.batch.conftest import Run
    from tests.batch.inputs.conftest import Web

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)

ERRORS = {
    "e401": "permission_denied", "e403": "permission_denied", "e404": "missing", "e410": "missing",
    "e418": "store_error", "e500": "store_error", "e503": "store_error", "empty": "empty", "silent": "unreachable",
    "no host": "unreachable", "no server": "unreachable",
}  # fmt: skip
"""What is wrong with an object, and the reason that its row gives."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait two seconds for an answer, remember no store of other tests, and try again at once."""
    monkeypatch.setenv("TANDEM_URL_TIMEOUT", "2")
    monkeypatch.setattr(objects, "_STORES", objects._Stores())
    monkeypatch.setattr(objects, "_PAUSE_S", 0)


@pytest.fixture
def images(web: Web, few: Path) -> list[str]:
    """Return the URLs of three images."""
    for number, image in enumerate(sorted(few.rglob("*.png"))[:3]):
        (web.folder / f"{number}.png").write_bytes(image.read_bytes())
    (web.folder / "empty.png").touch()
    return [f"{web.url}/{number}.png" for number in range(3)]


def url_of(web: Web, what: str) -> str:
    """Return a URL that fails in this way."""
    elsewhere = {"no host": "http://no-such-host.invalid/x.png", "no server": "http://127.0.0.1:9/x.png"}
    return elsewhere.get(what, f"{web.url}/{what}.png")


def as_list(tmp_path: Path, urls: list[str]) -> Any:
    (tmp_path / "list").write_text("\n".join(urls))
    return find_inputs([], files_from=str(tmp_path / "list"))


@pytest.mark.parametrize("what", ERRORS)
@pytest.mark.parametrize("processes", [0, 1], ids=["threads", "processes"])
@pytest.mark.reported("http-dead-links-in-list", "http-slow-link-in-list")
def test_an_object_that_fails_is_a_row(
    tmp_path: Path, run: Run, web: Web, images: list[str], what: str, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One object that can't be read is a row with a stable reason, between the rows of those that can; resumed too."""
    monkeypatch.setattr("batch.pipeline.workers.IMAGES_BEFORE_PROCESSES", 0)
    inputs = as_list(tmp_path, [images[0], url_of(web, what), *images[1:]])
    record = run(tmp_path / "out", inputs=inputs, processes=processes)
    assert record.errors == {ERRORS[what]: 1}
    assert [status for (status,) in rows_of(tmp_path / "out", "status")] == ["ok", "error", "ok", "ok"]
    before = read_parts(tmp_path / "out")
    (tmp_path / "out" / "parts" / "part-00000.parquet").unlink()
    assert run(tmp_path / "out", inputs=inputs, processes=processes).errors == record.errors
    assert read_parts(tmp_path / "out") == before


@pytest.mark.parametrize("what", sorted(ERRORS.keys() - {"empty"}))
@pytest.mark.parametrize("kind", ["", ".tar", ".parquet"], ids=["image", "tar", "table"])
def test_an_input_that_fails_stops_the_plan(tmp_path: Path, run: Run, web: Web, what: str, kind: str) -> None:
    """What was named itself and can't be read is refused in a sentence, before anything is written."""
    url = url_of(web, what) + kind
    with pytest.raises(DataError, match=rf"'{url}.* can't be read .*(check|copy)"):
        run(tmp_path / "out", url)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("status", [401, 403, 500, 503])
def test_a_store_that_is_lost_stops_the_run(tmp_path: Path, run: Run, web: Web, images: list[str], status: int) -> None:
    """If what was read before can't be read any more, the store is lost, and the images have not failed."""
    inputs = as_list(tmp_path, images * 20)
    run(tmp_path / "undisturbed", inputs=inputs)
    run(tmp_path / "out", inputs=inputs)
    for number in (3, 5):
        (tmp_path / "out" / "parts" / f"part-0000{number}.parquet").unlink()
    before = read_parts(tmp_path / "out")
    web.broken = status
    with pytest.raises(DataError, match=r"which was read before, can't be read \(status [0-9]+\); check the URL"):
        run(tmp_path / "out", inputs=inputs)
    assert read_parts(tmp_path / "out") == before
    web.broken = None
    run(tmp_path / "out", inputs=inputs)
    assert read_parts(tmp_path / "out") == read_parts(tmp_path / "undisturbed")


def test_a_store_that_never_answered_stops_the_run(tmp_path: Path, run: Run) -> None:
    """If not one of the first URLs can be read, the network or the credentials are to blame: no row is written."""
    inputs = as_list(tmp_path, [f"http://127.0.0.1:9/{number}.png" for number in range(30)])
    with pytest.raises(DataError, match=r"not one of the first 20 URLs can be read, .*check the credentials and the n"):
        run(tmp_path / "out", inputs=inputs, chunk_size=100)
    assert read_parts(tmp_path / "out") == {}


def test_many_dead_links_do_not_stop_a_run(tmp_path: Path, run: Run, images: list[str]) -> None:
    """A host that was never there is a row for each of its links, however many, once any image was read."""
    dead = [f"http://127.0.0.1:9/{number}.png" for number in range(40)]
    record = run(tmp_path / "out", inputs=as_list(tmp_path, [images[0], *dead, images[1]]), threads=1)
    assert (record.ok, record.errors) == (2, {"unreachable": 40})


@pytest.fixture
def remote_tar(web: Web, images: list[str], tmp_path: Path) -> str:
    """Return the URL of a tar file of three images, the last of them large."""
    (web.folder / "2.png").write_bytes((web.folder / "2.png").read_bytes() + bytes(9_000_000))
    with tarfile.open(web.folder / "x.tar", "w") as tar:
        for number in range(3):
            tar.add(web.folder / f"{number}.png", f"{number}.png")
    return f"{web.url}/x.tar"


@pytest.mark.reported("tar-over-http-without-range")
def test_a_server_that_ignores_ranges(tmp_path: Path, run: Run, web: Web, remote_tar: str) -> None:
    """No image can be read out of a tar file whose server sends the whole of it: refused, in the plan and resumed."""
    assert run(tmp_path / "out", remote_tar).ok == 3
    (tmp_path / "out" / "parts" / "part-00000.parquet").unlink()
    web.ranges = False
    for out in ("new", "out"):
        with pytest.raises(DataError, match=r"x\.tar' sends other bytes than the range that it is asked for"):
            run(tmp_path / out, remote_tar)
    web.ranges = True
    assert run(tmp_path / "out", remote_tar).ok == 3


def test_a_remote_tar_file_that_was_written_anew(tmp_path: Path, run: Run, web: Web, remote_tar: str) -> None:
    """A run is not resumed on another version of the object that it was planned on."""
    run(tmp_path / "out", remote_tar)
    (tmp_path / "out" / "parts" / "part-00000.parquet").unlink()
    data = (web.folder / "x.tar").read_bytes()
    (web.folder / "x.tar").write_bytes(data)
    with pytest.raises(DataError, match=r"x\.tar' was written again after .*; restore it .*or name another --output"):
        run(tmp_path / "out", remote_tar)


class _S3Handler(http.server.BaseHTTPRequestHandler):
    """Answers each key `CODE-STATUS` with that error of S3, and every other with one image."""

    image = b""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        code, _, status = self.path.rpartition("/")[2].partition("-")
        data = f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode() if status else self.image
        self.send_response(int(status or 206))
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def failing_s3(image: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    pytest.importorskip("s3fs", reason="the extra 's3' is not installed")
    monkeypatch.setattr(_S3Handler, "image", image)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _S3Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    use_s3(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("TANDEM_URL_TIMEOUT", "10")
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("key", "reason"),
    [("AccessDenied-403", "permission_denied"), ("NoSuchKey-404", "missing"), ("InvalidRange-416", "empty"),
     ("NotImplemented-501", "store_error"), ("InvalidObjectState-403", "permission_denied")],
)  # fmt: skip
@pytest.mark.reported("s3-empty-object-in-list")
def test_an_object_of_s3_that_fails_is_a_row(tmp_path: Path, run: Run, failing_s3: None, key: str, reason: str) -> None:
    """An object of S3 that can't be read is a row, as one behind any other URL."""
    urls = ["s3://bucket/a.png", f"s3://bucket/{key}", "s3://bucket/b.png"]
    record = run(tmp_path / "out", inputs=as_list(tmp_path, urls))
    assert (record.ok, record.errors) == (2, {reason: 1})


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"])
def test_refused_credentials_stop_the_run(tmp_path: Path, run: Run, failing_s3: None, code: str) -> None:
    """Credentials that open nothing are no fault of an object: the run stops in a sentence."""
    urls = ["s3://bucket/a.png", f"s3://bucket/{code}-403"]
    with pytest.raises(DataError, match=r"can't be read .*check the URL, the credentials and the network"):
        run(tmp_path / "out", inputs=as_list(tmp_path, urls))


@pytest.mark.reported("s3-double-slash")
def test_a_key_is_no_chain_of_file_systems(
    tmp_path: Path, run: Run, few: Path, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys with `::`, `!` and empty folder names are read as they are; listed, what has no name is counted."""
    monkeypatch.setenv("TANDEM_URL_TIMEOUT", "30")
    s3.mkdir("odd")
    image = min(few.rglob("*.png")).read_bytes()
    keys = ["a::b.png", "simplecache::file.png", "x!y.png", "zip:.png", "#?.png", "*[0].png"]
    for key in [*keys, "folder//b.png", "folder/sub//deep/c.png", "folder/d.png"]:
        s3.pipe_file(f"odd/{key}", image)
    record = run(tmp_path / "listed", "s3://odd")
    assert record.errors == {}
    assert {path for (path,) in rows_of(tmp_path / "listed", "path")} == {*keys, "folder/d.png"}
    assert record.run.plan.skipped == {"empty folder name": 2}
    urls = [f"s3://odd/{key}" for key in [*keys, "folder//b.png", "folder/sub//deep/c.png"]]
    assert run(tmp_path / "out", inputs=as_list(tmp_path, urls)).ok == len(urls)


def test_a_time_limit_that_is_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A time limit that can't be one is refused by its name."""
    monkeypatch.setenv("TANDEM_URL_TIMEOUT", "soon")
    with pytest.raises(DataError, match="TANDEM_URL_TIMEOUT is 'soon', which is not a number of seconds"):
        find_inputs(["http://127.0.0.1:9/x.png"])
