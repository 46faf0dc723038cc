"""Where a registry may lead: only one on this machine may lead to this machine."""

from __future__ import annotations

import http.server
import socket
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from classifier.errors import RegistryDenied, RegistryError
from registry import LocalRegistry, Reference, pull, push
from registry.remote.reach import check_reach
from tests.registry.artifacts import make_files

if TYPE_CHECKING:
    from collections.abc import Iterator

INSIDE = [
    "http://127.0.0.1:8080/x",
    "http://127.1/x",
    "http://2130706433/x",
    "http://0x7f.1/x",
    "http://0.0.0.0/x",
    "http://localhost/x",
    "http://LOCALHOST./x",
    "http://any.localhost/x",
    "http://[::1]/x",
    "http://[::]/x",
    "http://[::ffff:127.0.0.1]/x",
    "http://169.254.169.254/latest/meta-data/",
    "http://[fe80::1]/x",
    "https://user@127.0.0.1\\@ghcr.io/x",
]


@pytest.mark.parametrize("url", INSIDE)
def test_addresses_of_this_machine(url: str) -> None:
    """In every spelling, they are refused to a registry elsewhere, and allowed to one here."""
    with pytest.raises(RegistryDenied, match=r"ghcr.io leads to .*, an address of this machine or its link"):
        check_reach("ghcr.io", url)
    for here in ("localhost:5000", "127.0.0.1:5000", "[::1]:5000"):
        check_reach(here, url)


@pytest.mark.parametrize(
    "url", ["https://ghcr.io/x", "https://cdn.example.org/x", "https://10.0.0.7/x", "https://[fd00::2]/x"]
)
def test_other_addresses(url: str) -> None:
    check_reach("ghcr.io", url)


def own_address() -> str | None:
    """Return an address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return None
        return str(probe.getsockname()[0])


class Hostile(http.server.BaseHTTPRequestHandler):
    """A registry that sends its clients to `target`, as `how` says."""

    target = ""
    how = ""

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        if self.how == "realm":
            self._answer(401, {"WWW-Authenticate": f'Bearer realm="{self.target}/token",service="x"'})
        elif self.how == "redirect" and self.command == "GET":
            self._answer(307, {"Location": f"{self.target}/v2/"})
        elif self.command == "POST":
            self._answer(202, {"Location": f"{self.target}/upload"})
        else:
            self._answer(404, {})

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def _answer(self, status: int, headers: dict[str, str]) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response_only(status)
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()


class Victim(http.server.BaseHTTPRequestHandler):
    """A service that only this machine reaches."""

    seen: list[str]

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        self.seen.append(f"{self.command} {self.headers.get('Authorization')}")
        self.send_error(404)

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815


@pytest.fixture
def victim() -> Iterator[tuple[int, list[str]]]:
    """Yield the port of a server on 127.0.0.1, and the requests that it got."""
    seen: list[str] = []
    yield from served("127.0.0.1", Victim, seen=seen)  # type: ignore[misc]


def served(address: str, handler: type, **attributes: Any) -> Iterator[tuple[int, Any]]:
    server = http.server.ThreadingHTTPServer((address, 0), type("Handler", (handler,), attributes))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_address[1], next(iter(attributes.values()))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("host", ["127.0.0.1", "a-name-of-this-machine"])
@pytest.mark.parametrize("how", ["redirect", "realm", "location"])
def test_a_registry_elsewhere_reaches_nothing_here(
    registry: LocalRegistry,
    victim: tuple[int, list[str]],
    host: str,
    how: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither GET nor PUT nor credentials reach a local port: not by an address, nor by a name that resolves to it."""
    address = own_address()
    if address is None or address.startswith("127."):
        pytest.skip("this machine has no other address than loopback")
    port, seen = victim
    resolve = socket.getaddrinfo
    # Only the answer of the name server is replaced.
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda name, *args, **kwargs: resolve(
            "127.0.0.1" if name == "a-name-of-this-machine" else name, *args, **kwargs
        ),
    )
    registry.add("digits", make_files())
    for hostile, _ in served(address, Hostile, target=f"http://{host}:{port}", how=how):
        monkeypatch.setenv("TANDEM_REGISTRY_PLAIN_HTTP", f"{address}:{hostile},a-name-of-this-machine:{port}")
        monkeypatch.setenv("TANDEM_REGISTRY_USERNAME", "ada")
        monkeypatch.setenv("TANDEM_REGISTRY_PASSWORD", "secret")
        reference = f"{address}:{hostile}/acme/digits:1"
        use = partial(push, "digits:1", reference) if how == "location" else partial(pull, Reference.parse(reference))
        with pytest.raises(RegistryError, match="leads to") as refused:
            use(registry)
    assert seen == []
    assert "an address of this machine" in str(refused.value)


def test_the_refusal_holds_no_secret() -> None:
    """It names the host, not the path and the query."""
    with pytest.raises(RegistryDenied) as refused:
        check_reach("ghcr.io", "http://127.0.0.1/upload?token=secret")
    assert "secret" not in str(refused.value)
