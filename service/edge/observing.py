"""The outermost middleware: gives each request its ID, its line of the access log, and a refusal if it fails."""

from __future__ import annotations

import logging
from time import perf_counter
from typing import TYPE_CHECKING

from classifier.wording import escaped
from service.edge.refusals import refusal_of, refuse
from service.exchange import Exchange
from service.serving import Serving

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("bentoml.access")

UNLOGGED = frozenset({"/livez", "/readyz", "/healthz", "/metrics"})
"""Endpoints that monitors ask for every few seconds."""

_LOGGED_CHARS = 500


class Observed:
    """Observes `app`. `endpoint_of` returns the path of the route that a scope has taken."""

    def __init__(self, app: ASGIApp, *, endpoint_of: Callable[[Scope], str]) -> None:
        self._app, self._endpoint_of = app, endpoint_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        started = perf_counter()
        exchange = Exchange.begin(scope)
        sent: dict[bytes, bytes] = {}

        async def send_observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"].append((b"x-request-id", exchange.request_id.encode()))
                sent.update(message["headers"])
            await send(message)

        try:
            await self._app(scope, receive, send_observed)
        except Exception as error:  # noqa: BLE001  # `refusal_of` knows each kind, and logs the traceback of a bug
            refusal = refusal_of(error)
            exchange.reason = refusal.reason
            if not exchange.status:
                await refuse(refusal, exchange.request_id)(scope, receive, send_observed)
        finally:
            exchange.endpoint = self._endpoint_of(scope)
            self._end(scope, exchange, sent, perf_counter() - started)

    def _end(self, scope: Scope, exchange: Exchange, sent: dict[bytes, bytes], elapsed_s: float) -> None:
        Serving.current().metrics.count(exchange, elapsed_s)
        if exchange.endpoint not in UNLOGGED:
            _log(scope, exchange, sent, elapsed_s)


def _log(scope: Scope, exchange: Exchange, sent: dict[bytes, bytes], elapsed_s: float) -> None:
    host, port = scope.get("client") or ("?", 0)
    headers = dict(scope["headers"])
    log.info(
        "%s:%d (method=%s,path=%s,type=%s,length=%s,client=%s) (status=%d,reason=%s,length=%s) %.3fms id=%s",
        host,
        port,
        _printable(scope["method"]),
        _printable(scope["path"]),
        _printable(headers.get(b"content-type", b"").decode(errors="replace")),
        _printable(headers.get(b"content-length", b"").decode(errors="replace")),
        exchange.client or "",
        exchange.status,
        exchange.reason or "",
        sent.get(b"content-length", b"").decode(),
        elapsed_s * 1000,
        exchange.request_id,
    )


def _printable(text: str) -> str:
    text = escaped(text)
    return text if len(text) <= _LOGGED_CHARS else f"{text[:_LOGGED_CHARS]}…"
