"""The middleware that decides, by a request's head alone, whether it may go on: keys, rates, encodings, stopping."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from starlette.middleware.cors import CORSMiddleware

from service.access.clients import is_loopback, network_of
from service.edge.refusals import BadRequest, is_stopping
from service.edge.stopping import stopping
from service.exchange import Exchange
from service.limits import OverShare

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from service.access.options import Access

OPEN = frozenset({"/", "/docs", "/docs.json", "/livez", "/readyz", "/healthz", "/v2/health/live", "/v2/health/ready"})
"""Paths that need no key: probes, the page and the documents that a browser loads before it can send one."""
OPEN_FOLDERS = ("/page/", "/docs/")
READINESS = frozenset({"/readyz", "/v2/health/ready"})
METRICS = "/metrics"
DOCUMENT = "/docs.json"
STRANGER = "tandem.stranger"
"""In the scope of a request for `DOCUMENT`: whether the service has keys, and the request has none of them."""

_READ = frozenset(
    {b"authorization", b"x-api-key", b"content-encoding", b"x-forwarded-for", b"forwarded", b"x-real-ip", b"via"}
)
_FORWARDED = (b"x-forwarded-for", b"forwarded", b"x-real-ip", b"via")
_CHALLENGE = 'Bearer realm="tandem"'


class Guarded:
    """Guards `app`: refuses a request before its body is read, and notes in its exchange who asks."""

    def __init__(self, app: ASGIApp, *, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request.

        Raises:
            BadRequest: it may not go on.
            OverShare: its client asks too often.
        """
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in _READ:
                headers[name] = headers[name] + b"," + value if name in headers else value
        path: str = scope["path"]
        exchange = Exchange.of_scope(scope)
        peer = scope["client"][0] if scope.get("client") else ""
        address = self._access.proxies.client_of(peer, headers.get(b"x-forwarded-for", b""))
        exchange.source = network_of(address)
        if stopping.has_begun and _asks_for_readiness(path):
            raise is_stopping()
        if path == DOCUMENT and self._access.keys is not None:
            key = _key_in(headers)
            exchange.client = None if key is None else self._access.keys.name_of(key)
            scope[STRANGER] = exchange.client is None
        elif path not in OPEN and not path.startswith(OPEN_FOLDERS):
            if path != METRICS:
                self._check_key(headers, exchange)
                self._check_rate(exchange)
            elif self._access.metrics != "open":
                self._check_metrics(headers, exchange, address, peer)
        if (
            scope["method"] == "POST"
            and (encoding := headers.get(b"content-encoding", b"identity").lower()) != b"identity"
        ):
            raise _encoded(encoding)
        await self._app(scope, receive, send)

    def _check_key(self, headers: dict[bytes, bytes], exchange: Exchange) -> None:
        keys = self._access.keys
        if keys is None:
            return
        key = _key_in(headers)
        exchange.client = None if key is None else keys.name_of(key)
        if exchange.client is None:
            self._check_rate(exchange)
            if key is None:
                raise _unauthorized("this service needs a key", "no_key", _CHALLENGE)
            challenge = f'{_CHALLENGE}, error="invalid_token"'
            raise _unauthorized("this service does not know the key", "unknown_key", challenge)
        exchange.source = f"key {exchange.client}"

    def _check_metrics(self, headers: dict[bytes, bytes], exchange: Exchange, address: str, peer: str) -> None:
        if self._access.metrics == "loopback":
            # What an unnamed proxy on this machine passes on comes from loopback, but not from this machine.
            is_forwarded = any(name in headers for name in _FORWARDED) and not self._access.proxies.trusts(peer)
            if is_loopback(address) and not is_forwarded:
                return
            if self._access.keys is None:
                raise BadRequest(
                    "the metrics are shown to this machine alone; start the service with TANDEM_METRICS=open, or with "
                    "TANDEM_API_KEYS, to show them to others",
                    reason="metrics_closed",
                    status=403,
                )
        self._check_key(headers, exchange)

    def _check_rate(self, exchange: Exchange) -> None:
        rate = self._access.rate
        if rate is not None and (wait_s := math.ceil(rate.wait_s(exchange.source))):
            raise OverShare(
                f"you send more than {rate.text}, the rate of each client; try again in {wait_s} s",
                retry_after_s=wait_s,
            )


def with_cors(app: ASGIApp, access: Access) -> ASGIApp:
    """Return `app`, which the pages of `access.origins` may use from a browser (CORS).

    Around refusals too, so that a preflight needs no key, and a page can read why it got no answer.
    """
    if not access.origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=access.origins,
        allow_methods=("GET", "POST"),
        allow_headers=(
            "Authorization",
            "Content-Type",
            "Inference-Header-Content-Length",
            "Traceparent",
            "X-Api-Key",
            "X-Request-Id",
        ),
        expose_headers=("Inference-Header-Content-Length", "Retry-After", "X-Request-Id", "X-Tandem-Cache"),
    )


def _asks_for_readiness(path: str) -> bool:
    return path in READINESS or (path.startswith("/v2/models/") and path.endswith("/ready"))


def _key_in(headers: dict[bytes, bytes]) -> bytes | None:
    """Return the key in a request's headers. An `Authorization` of another scheme may be meant for a proxy."""
    scheme, _, credentials = headers.get(b"authorization", b"").partition(b" ")
    return credentials.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key")


def _unauthorized(fact: str, reason: str, challenge: str) -> BadRequest:
    return BadRequest(
        f"{fact}; send one as 'Authorization: Bearer KEY' or 'X-Api-Key: KEY'",
        reason=reason,
        status=401,
        headers={"WWW-Authenticate": challenge},
    )


def _encoded(encoding: bytes) -> BadRequest:
    shown = encoding.decode("latin-1")[:40]
    return BadRequest(
        f"the body's Content-Encoding is {shown!a}; send the body as it is, images are compressed already",
        reason="encoded_body",
        status=415,
        headers={"Accept-Encoding": "identity"},
    )
