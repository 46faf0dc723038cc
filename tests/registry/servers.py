"""Real registries for tests, a proxy that injects faults before them, and a token server."""

from __future__ import annotations

import hashlib
import http.client
import http.server
import json
import re
import shutil
import socket
import subprocess
import threading
import time
from base64 import b64encode
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from pathlib import Path

needs_registry = pytest.mark.skipif(
    shutil.which("docker-registry") is None, reason="needs docker-registry: apt-get install docker-registry"
)
USER, PASSWORD = "ada", "correct-horse-\u00e9"
"""The user of the registry that `locked_host` yields."""

needs_skopeo = pytest.mark.skipif(shutil.which("skopeo") is None, reason="needs skopeo: apt-get install skopeo")


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def run_registry(
    folder: Path, *, auth: dict[str, Any] | None = None, tls: dict[str, str] | None = None, port: int = 0
) -> Iterator[str]:
    """Yield the `host:port` of a docker-registry that keeps its blobs in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    config = {
        "version": "0.1",
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "blobs")}, "delete": {"enabled": True}},
        "http": {"addr": f"127.0.0.1:{port}", "secret": "tests", **({"tls": tls} if tls else {})},
        **({"auth": auth} if auth else {}),
    }
    (folder / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(folder / "config.yml")], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        wait_for_port(port)
        yield f"localhost:{port}"
    finally:
        process.terminate()
        process.wait(20)


def wait_for_port(port: int) -> None:
    """Return once something listens on `port`."""
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    pytest.fail(f"nothing listens on port {port} after 30 s")


@dataclass(frozen=True)
class Request:
    """One request to a proxy."""

    method: str
    path: str
    body_bytes: int
    headers: dict[str, str]


Fault = str
"""A status to answer with, `500`; or drop, hang, slow, truncated, shortened, flipped, wrong digest header."""


@dataclass
class Proxy:
    """Forwards to the registry at `upstream`, and injects a fault into chosen requests.

    Attributes:
        fault: what goes wrong.
        when: takes a request's number, from 1 on, and the request, and returns whether it goes wrong.
        requests: every request so far.
    """

    upstream: str
    host: str = ""
    fault: Fault = ""
    when: Callable[[int, Request], bool] = lambda number, request: False
    hang_s: float = 1.5
    requests: list[Request] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def inject(self, fault: Fault, when: Callable[[int, Request], bool]) -> None:
        """From now on inject `fault`; count requests from 1 again."""
        self.requests.clear()
        self.fault, self.when = fault, when

    def sent(self, method: str) -> list[Request]:
        """Return the requests of a method that had a body."""
        return [request for request in self.requests if request.method == method and request.body_bytes]


class _ProxyHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        proxy = self.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = Request(self.command, self.path, len(body), dict(self.headers))
        with proxy.lock:
            proxy.requests.append(request)
            fault = proxy.fault if proxy.when(len(proxy.requests), request) else ""
        if fault.isdigit():
            self._answer(int(fault), {"Retry-After": "0"} if fault == "429" else {}, b"{}")
        elif fault == "drop":
            self._drop()
        elif fault == "hang":
            time.sleep(proxy.hang_s)
            self._drop()
        else:
            self._forward(body, fault)

    do_HEAD = do_POST = do_PUT = do_PATCH = do_GET  # noqa: N815

    def _forward(self, body: bytes, fault: Fault) -> None:
        if fault == "flipped" and body:
            body, fault = flip(body), ""
        status, headers, content = self._ask_upstream(body)
        if fault == "wrong digest header" and "Docker-Content-Digest" in headers:
            headers["Docker-Content-Digest"] = "sha256:" + "0" * 64
        if fault == "flipped" and content:
            content = flip(content)
        if fault == "shortened" and content:
            content = content[: len(content) // 2]
            headers["Content-Length"] = str(len(content))
        self._answer(status, headers, content, fault)

    def _ask_upstream(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        upstream = http.client.HTTPConnection(self.proxy.upstream, timeout=30)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("connection",)}
        with closing(upstream):
            upstream.request(self.command, self.path, body=body or None, headers=headers)
            answer = upstream.getresponse()
            content = answer.read()
        headers = {name: value for name, value in answer.getheaders() if name.lower() not in ("connection", "date")}
        return answer.status, headers, content

    def _answer(self, status: int, headers: dict[str, str], content: bytes, fault: Fault = "") -> None:
        self.send_response_only(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "truncated":
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self._drop()
        elif fault == "slow":
            for start in range(0, len(content), max(1, len(content) // 5)):
                self.wfile.write(content[start : start + max(1, len(content) // 5)])
                self.wfile.flush()
                time.sleep(0.02)
        else:
            self.wfile.write(content)

    def _drop(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


REFERRERS_PER_PAGE = 2


class _ReferrersHandler(_ProxyHandler):
    """Adds the referrers API of OCI distribution 1.1, which docker-registry 2.8 lacks, from the manifests that pass."""

    listed: dict[str, list[dict[str, Any]]]
    """Descriptors by the path that lists them."""

    def _ask_upstream(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        url = urlsplit(self.path)
        if self.command == "GET" and re.fullmatch(r"/v2/.+/referrers/sha256:[0-9a-f]{64}", url.path):
            return self._list(url.path, start=int(parse_qs(url.query).get("start", ["0"])[0]))
        status, headers, content = super()._ask_upstream(body)
        subject = json.loads(body).get("subject") if self.command == "PUT" and "/manifests/" in url.path else None
        if status == 201 and subject is not None:
            headers["OCI-Subject"] = subject["digest"]
            self._remember(f"{url.path.partition('/manifests/')[0]}/referrers/{subject['digest']}", body)
        return status, headers, content

    def _remember(self, path: str, body: bytes) -> None:
        manifest = json.loads(body)
        referrer = {
            "mediaType": self.headers["Content-Type"],
            "digest": f"sha256:{hashlib.sha256(body).hexdigest()}",
            "size": len(body),
            "artifactType": manifest.get("artifactType") or manifest["config"]["mediaType"],
        }
        with self.proxy.lock:
            if referrer not in self.listed.setdefault(path, []):
                self.listed[path].append(referrer)

    def _list(self, path: str, start: int) -> tuple[int, dict[str, str], bytes]:
        referrers, end = self.listed.get(path, []), start + REFERRERS_PER_PAGE
        media_type = "application/vnd.oci.image.index.v1+json"
        headers = {"Content-Type": media_type}
        if end < len(referrers):
            headers["Link"] = f'<{path}?start={end}>; rel="next"'
        index = {"schemaVersion": 2, "mediaType": media_type, "manifests": referrers[start:end]}
        return 200, headers, json.dumps(index).encode()


def flip(content: bytes) -> bytes:
    """Return `content` with one bit changed."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore connections that the client closed."""


@contextmanager
def serve(
    handler: type[http.server.BaseHTTPRequestHandler],
    context: ssl.SSLContext | None = None,
    *,
    address: str = "127.0.0.1",
) -> Iterator[str]:
    """Yield the `host:port` of a server in this process."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = type("Server", (_Server,), {"address_family": family})((address, 0), handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        host = f"[{address}]" if ":" in address else "localhost"
        yield f"{host}:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def run_proxy(upstream: str, *, referrers_api: bool = False, address: str = "127.0.0.1") -> Iterator[Proxy]:
    """Yield a proxy before the registry at `upstream`; with `referrers_api` it adds the API that the registry lacks."""
    proxy = Proxy(upstream)
    handler = _ReferrersHandler if referrers_api else _ProxyHandler
    with serve(type("Handler", (handler,), {"proxy": proxy, "listed": {}}), address=address) as host:
        proxy.host = host
        yield proxy


def skopeo(*args: str) -> bytes:
    """Return what skopeo printed."""
    return subprocess.run(["skopeo", *args], check=True, stdout=subprocess.PIPE, timeout=60).stdout


def log_in(docker_config: Path, host: str, user: str = USER, password: str = PASSWORD) -> None:
    """Write what `docker login` writes."""
    auth = b64encode(f"{user}:{password}".encode()).decode()
    docker_config.write_text(json.dumps({"auths": {host: {"auth": auth}}, "HttpHeaders": {"x": "y"}}))
