"""Start the real `bentoml serve`, and record its HTTP answers."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.system.released_outputs.images import SOUND, awkward
from tests.system.released_outputs.parts import metric_names
from tests.system.released_outputs.tree import flat, without

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.system.released_outputs.tree import Facts, Tree

READY_WITHIN_S = 90
_PROSE = ("description", "summary")
_HEADERS = ("content-type", "allow", "retry-after", "connection")


def service(tree: Tree) -> tuple[Facts, Facts]:
    """Return facts and words of the service: its answers, OpenAPI document and metrics, and parity with a bulk run."""
    facts: Facts = {}
    words: Facts = {}
    with serving(tree) as port:
        for name, request in _requests().items():
            status, headers, data = _ask(port, *request)
            body = _json_or_text(data)
            facts[name] = {"status": status, "headers": headers, "body": tree.steady(without(body, "message"))}
            words[name] = {place: value for place, value in flat(body).items() if place.endswith("message")}
        document = json.loads(_ask(port, "GET", "/docs.json")[2])
        facts["docs.json"] = without(document, *_PROSE)
        words["docs.json"] = {place: value for place, value in flat(document).items() if place.endswith(_PROSE)}
        facts["metrics"] = metric_names(_ask(port, "GET", "/metrics")[2].decode())
        url = f"http://127.0.0.1:{port}"
        ended = tree.tandem("parity", "colours", "sound", "awkward", "--service", url, "--report", "parity.json")
    report = json.loads((tree.work / "parity.json").read_bytes())
    facts["parity"] = {"exit": ended.code, "report": tree.steady(report)}
    words["parity"] = tree.words(ended)
    return facts, words


@contextmanager
def serving(tree: Tree) -> Iterator[int]:
    """Yield the port of a service that is ready, and stop it at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (tree.work / "service.log").open("wb") as log:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("bentoml"), "serve", "--host", "127.0.0.1", "--port", str(port)],
            cwd=tree.sources, env=tree.environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + READY_WITHIN_S
        while not _is_ready(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the service is not ready:\n{(tree.work / 'service.log').read_text()}")
            time.sleep(0.1)
        yield port
    finally:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _is_ready(port: int) -> bool:
    try:
        return _ask(port, "GET", "/readyz")[0] == http.HTTPStatus.OK
    except OSError:
        return False


def _ask(
    port: int, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path, body, {"X-Request-Id": "fixed", **(headers or {})})
        response = connection.getresponse()
        kept = {name: value for name in _HEADERS if (value := response.getheader(name))}
        return response.status, kept, response.read()


def _requests() -> dict[str, tuple[str, str, bytes | None, dict[str, str]]]:
    """Return requests by their names: method, path, body and headers."""
    image, files = SOUND["blue/3.png"].data, awkward()

    def form(*fields: bytes) -> tuple[str, str, bytes, dict[str, str]]:
        body = b"".join(b"--edge\r\nContent-Disposition: form-data; " + field + b"\r\n" for field in fields)
        return "POST", "/classify", body + b"--edge--\r\n", {"Content-Type": "multipart/form-data; boundary=edge"}

    def raw(data: bytes, query: str = "", **headers: str) -> tuple[str, str, bytes, dict[str, str]]:
        return "POST", f"/classify{query}", data, headers

    def get(path: str) -> tuple[str, str, None, dict[str, str]]:
        return "GET", path, None, {}

    file = b'name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n' + image
    return {
        "raw": raw(image),
        "raw, one label": raw(image, "?top_k=1"),
        "raw, more labels than there are": raw(image, "?top_k=50"),
        "form": form(file),
        "form, one label": form(file, b'name="top_k"\r\n\r\n1'),
        "form without an image": form(b'name="top_k"\r\n\r\n1'),
        "form with two images": form(file, file),
        "form with text": form(b'name="image"\r\n\r\nhello'),
        "malformed form": raw(b"hello", **{"Content-Type": "multipart/form-data"}),
        "no labels": raw(image, "?top_k=0"),
        "labels that are not a number": raw(image, "?top_k=many"),
        **{f"raw {name}": raw(files[name]) for name in _UPLOADED},
        "body that is too large": raw(b"", **{"Content-Length": str(2**30)}),
        "GET /classify": get("/classify"),
        "unknown path": get("/nothing"),
        "/model": get("/model"),
        "/livez": get("/livez"),
        "/readyz": get("/readyz"),
        "/healthz": get("/healthz"),
    }


_UPLOADED = (
    *("text.png", "empty.jpg", "cut.png", "corrupt.png", "huge.png", "a-gif.png"),
    *("photo.jpg", "cmyk.jpeg", "rotated.jpg", "photo.webp", "animated.webp", "photo.bmp", "palette.png"),
)


def _json_or_text(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data.decode(errors="replace")
