"""Real servers of images: one of S3, and one of HTTP whose answers the path chooses."""

from __future__ import annotations

import http.server
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.batch.images import make_tar

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def endpoint() -> Iterator[Any]:
    """Yield an S3 server."""
    pytest.importorskip("s3fs", reason="the extra 's3' is not installed")
    moto_server = pytest.importorskip("moto.server", reason="the tests' group is not installed")
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server
    server.stop()


def use_s3(monkeypatch: pytest.MonkeyPatch, url: str) -> Any:
    """Return a new file system of the S3 server at `url`, which URLs from now on lead to."""
    import fsspec
    import s3fs

    for name, value in {
        "FSSPEC_S3_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    fsspec.config.set_conf_env(fsspec.config.conf)
    s3fs.S3FileSystem.clear_instance_cache()
    return s3fs.S3FileSystem()


@pytest.fixture
def s3(endpoint: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the file system of the S3 server."""
    host, port = endpoint.get_host_and_port()
    return use_s3(monkeypatch, f"http://{host}:{port}")


@pytest.fixture
def bucket(s3: Any, few: Path, tmp_path: Path) -> Any:
    """Return a file system whose bucket `photos` holds `few`, an object for its folder, and a broken image."""
    if not s3.exists("photos"):
        s3.mkdir("photos")
        for image in few.rglob("*.png"):
            s3.pipe_file(f"photos/few/{image.relative_to(few)}", image.read_bytes())
        s3.pipe_file("photos/few/", b"")
        s3.pipe_file("photos/few/3/empty.png", b"")
        s3.pipe_file("photos/few/notes.txt", b"notes")
        make_tar(tmp_path / "few.tar", few, "w")
        s3.pipe_file("photos/few.tar", (tmp_path / "few.tar").read_bytes())
    return s3


class Web(http.server.ThreadingHTTPServer):
    """Serves the files of a folder over HTTP.

    A path with a part such as `e503` gets that status, one with `silent` no answer while `is_silent` holds.

    Attributes:
        ranges: whether it sends parts of files.
        broken: the status that every request gets; None for none.
        is_silent: set until the server ends.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.ranges = True
        self.broken: int | None = None
        self.is_silent = threading.Event()

    @property
    def url(self) -> str:
        """Return its URL."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that went away."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Web
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        name = self.path.strip("/")
        status = next((int(part[1:4]) for part in name.split("/") if part[0] == "e" and part[1:4].isdigit()), None)
        if "silent" in name:
            self.server.is_silent.wait(60)
            self.close_connection = True
            return
        file = self.server.folder / name
        if self.server.broken or status or not file.is_file():
            self._send(self.server.broken or status or 404, b"no")
            return
        data = file.read_bytes()
        wanted = self.headers.get("Range") if self.server.ranges else None
        if wanted is None:
            self._send(200, data)
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        part = data[int(first) : int(last) + 1]
        if part:
            self._send(206, part, {"Content-Range": f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"})
        else:
            self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        file = self.server.folder / self.path.strip("/")
        etag = {"ETag": f'"{file.stat().st_mtime_ns}"'} if file.is_file() else {}
        self.send_response(status)
        for name, value in {**etag, **(headers or {}), "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    """Yield an HTTP server of the folder `web`."""
    pytest.importorskip("aiohttp", reason="the extra 's3' is not installed")
    (tmp_path / "web").mkdir()
    server = Web(tmp_path / "web")
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield server
    server.is_silent.set()
    server.shutdown()
    server.server_close()
