"""A proxy in front of a real service, whose answers a test can change."""

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

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass
class Request:
    """A request through the proxy. `count` is its number among the requests for the same path, from 1 on."""

    path: str
    count: int


@dataclass
class Reply:
    """The service's answer, which a test may change; `cut` breaks the connection instead."""

    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False


@contextmanager
def proxy(url: str, tamper: Callable[[Request, Reply], None]) -> Iterator[str]:
    """Yield the URL of a proxy before the service at `url`; `tamper` may change its answers."""
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
            if reply.cut:  # a reset, as from a killed server
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
