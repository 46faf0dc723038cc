"""HTTP to one registry: authentication, redirects and failures.

No secret reaches another host: the `Authorization` header goes only to the registry's own origin. URLs are never logged
with their query, where registries and their storage put signatures.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urljoin

import urllib3
from urllib3.exceptions import HTTPError

from classifier.errors import RegistryDenied, RegistryError, RegistryUnreachable
from registry.remote.authentication import Authenticator
from registry.remote.failures import LATER, TransientFailure, network_failure, origin_of, overloaded, problem_of
from registry.remote.hosts import answers_tls, api_host, is_loopback, is_plain, may_be_plain, open_pool, origin
from registry.remote.reach import check_reach
from registry.remote.retrying import time_limit_s

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import BinaryIO

    from urllib3 import BaseHTTPResponse

    Body = Callable[[], BinaryIO | bytes]

CONNECTIONS = 4
"""How many blobs are transferred at once."""
MAX_ANSWER_BYTES = 4 << 20
"""Limit for answers other than blobs: the distribution specification's for manifests."""
_CONNECT_S = 10.0
_PIECE_BYTES = 1 << 20
_SLOWEST_BYTES_PER_S = 1024
"""A transfer that is slower over a quarter of the time limit counts as hung."""
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole answer, small enough for memory."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connection:
    """Authenticated HTTP to the registry `host`. Threads may share it."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.limit_s = time_limit_s()
        self._stall_s = self.limit_s / 4
        self._authenticator = Authenticator(host, self.ask)
        self._opened: tuple[str, urllib3.PoolManager] | None = None
        self._opening = threading.Lock()

    def fetch(
        self,
        method: str,
        target: str,
        *,
        scope: str,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        patience_s: float = 0.0,
    ) -> Answer:
        """Return a small answer whole; arguments and errors as in `open`."""
        with self.open(method, target, scope=scope, headers=headers, body=body, patience_s=patience_s) as response:
            return self.read(response)

    def open(
        self,
        method: str,
        target: str,
        *,
        scope: str,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        patience_s: float = 0.0,
    ) -> BaseHTTPResponse:
        """Return the answer, of any status, with its body unread. Only GET follows redirects.

        Args:
            method: the HTTP method.
            target: a URL, or a path under the registry's `/v2/`.
            scope: the permission needed, in the words of token servers: `repository:acme/digits:pull`.
            headers: other headers than `Authorization`.
            body: makes the body; called again if the registry asks for credentials first.
            patience_s: how much longer than usual the answer may take.

        Raises:
            TransientFailure: another try may succeed.
            RegistryUnreachable: the answer isn't a registry's, or its certificate isn't trusted.
            RegistryDenied: the registry needs credentials, or other ones.
        """
        url = self._resolve(self._open()[0], target)
        for _ in range(_MAX_REDIRECTS):
            response = self._authorised(method, url, scope, {**(headers or {})}, body, patience_s)
            if response.status not in REDIRECTS or method != "GET":
                break
            url = self._redirected(url, response)
        if response.status in _TRANSIENT:
            raise self._transient(response)
        return response

    def pieces(self, response: BaseHTTPResponse) -> Iterator[bytes]:
        """Yield the body as it arrives.

        Raises:
            TransientFailure: the connection broke, or the transfer is too slow.
        """
        received = 0
        give_up_at = time.monotonic() + self._stall_s
        while True:
            try:
                # Not `read` or `stream`: they wait for a whole piece, so a trickle would never be noticed.
                piece = response.read1(_PIECE_BYTES)
            except (HTTPError, OSError) as error:
                raise network_failure(error, self.host) from error
            if not piece:
                return
            received += len(piece)
            now = time.monotonic()
            if received >= _SLOWEST_BYTES_PER_S * self._stall_s:
                received, give_up_at = 0, now + self._stall_s
            elif now > give_up_at:
                raise TransientFailure(f"{self.host} sends almost nothing: {LATER}")
            yield piece

    def read(self, response: BaseHTTPResponse) -> Answer:
        """Return a small answer with its whole body."""
        body = bytearray()
        for piece in self.pieces(response):
            body += piece
            if len(body) > MAX_ANSWER_BYTES:
                raise RegistryUnreachable(
                    f"{self.host} answers with more than {MAX_ANSWER_BYTES >> 20} MiB instead of a few KiB: check that "
                    "it is an OCI registry"
                )
        return Answer(status=response.status, headers=response.headers, body=bytes(body))

    def ask(self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None) -> tuple[int, bytes]:
        """Return a token server's status and body."""
        with self._exchange(method, url, {**headers}, (lambda: body) if body else None, 0.0) as response:
            if response.status in _TRANSIENT:
                raise self._transient(response)
            return response.status, self.read(response).body

    def denied(self, answer: Answer | BaseHTTPResponse, what: str) -> RegistryError:
        """Return the error for an unexpected answer; `what` names the request: "read sha256:… of …"."""
        body = answer.body if isinstance(answer, Answer) else self.read(answer).body
        said = self.problem(body)
        fact = f"HTTP {answer.status}" + (f", {said}" if said else "")
        if answer.status in (401, 403):
            return RegistryDenied(
                f"{self.host} denied permission to {what} ({fact}): 'docker login {self.host}' as a user who may"
            )
        if answer.status == 413:
            return RegistryDenied(
                f"{self.host} can't {what}: it is over the registry's size limit ({fact}); raise that limit"
            )
        return RegistryUnreachable(f"{self.host} can't {what} ({fact}): check that it is an OCI registry, and its log")

    def problem(self, body: bytes) -> str:
        """Return the registry's own error message, on one line and without secrets."""
        return self._authenticator.redact(problem_of(body))[:200]

    def _open(self) -> tuple[str, urllib3.PoolManager]:
        """Return the URL that targets are relative to, and the connections."""
        with self._opening:
            if self._opened is None:
                host = api_host(self.host)
                plain = is_plain(host) or (is_loopback(host) and not self._answers_tls(host))
                pool = open_pool(host, CONNECTIONS, tls=not plain)
                self._opened = f"{'http' if plain else 'https'}://{host}/v2/", pool
            return self._opened

    def _answers_tls(self, host: str) -> bool:
        try:
            return answers_tls(host, min(_CONNECT_S, self._stall_s))
        except ConnectionRefusedError as error:
            raise TransientFailure(
                f"nothing accepts connections on {self.host}: check that the registry runs there"
            ) from error
        except OSError as error:
            raise network_failure(error, self.host) from error

    def _authorised(
        self,
        method: str,
        url: str,
        scope: str,
        headers: dict[str, str],
        body: Body | None,
        patience_s: float,
    ) -> BaseHTTPResponse:
        own = origin(url) == origin(self._open()[0])
        sent = self._authenticator.header(scope) if own else None
        if sent is not None:
            headers["Authorization"] = sent
        response = self._exchange(method, url, headers, body, patience_s)
        if response.status != 401 or not own:
            return response
        challenges = ", ".join(response.headers.getlist("WWW-Authenticate"))
        response.drain_conn()
        headers["Authorization"] = self._authenticator.answer(challenges, scope, refused=sent)
        return self._exchange(method, url, headers, body, patience_s)

    def _exchange(
        self, method: str, url: str, headers: dict[str, str], body: Body | None, patience_s: float
    ) -> BaseHTTPResponse:
        check_reach(self.host, url)
        if not may_be_plain(url):
            raise RegistryDenied(
                f"{self.host} leads to {origin_of(url)}, which is not HTTPS: list its host in "
                "TANDEM_REGISTRY_PLAIN_HTTP if you trust the network to it"
            )
        headers = {"User-Agent": "tandem", "Accept-Encoding": "identity", **headers}
        content = body() if body else None
        # urllib3 uses the first for sending, too.
        connect_s = self._stall_s if content is not None else min(_CONNECT_S, self._stall_s)
        timeout = urllib3.Timeout(connect=connect_s, read=self._stall_s + patience_s)
        try:
            return self._open()[1].urlopen(
                method,
                url,
                body=content,
                headers=headers,
                timeout=timeout,
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
        except (HTTPError, OSError) as error:
            raise network_failure(error, self.host) from error
        finally:
            if content is not None and not isinstance(content, bytes):
                content.close()

    def _redirected(self, url: str, response: BaseHTTPResponse) -> str:
        location = response.headers.get("Location")
        response.drain_conn()
        if not location:
            raise TransientFailure(f"{self.host} redirects to nowhere: {LATER}")
        return self._resolve(url, location)

    def _resolve(self, base: str, target: str) -> str:
        try:
            url = urljoin(base, target)
            origin(url)
        except ValueError:
            raise RegistryUnreachable(f"{self.host} leads to an invalid URL: {LATER}") from None
        return url

    def _transient(self, response: BaseHTTPResponse) -> TransientFailure:
        said = ""
        with response, contextlib.suppress(HTTPError, OSError):  # the status says enough
            said = self.problem(response.read1(1 << 16))
        return overloaded(self.host, response.status, said, response.headers.get("Retry-After"))
