"""The outermost middleware: gives each request its ID, its line of the access log, and a refusal if it fails."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING

from service.edge.access_log import log_access
from service.edge.refusals import is_stopping, refusal_of, refuse
from service.edge.stopping import stopping
from service.exchange import Exchange
from service.logs import REQUEST_ID
from service.serving import Serving

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

UNLOGGED = frozenset({"/livez", "/readyz", "/healthz", "/metrics", "/v2/health/live", "/v2/health/ready"})
"""Endpoints that monitors ask for every few seconds: neither logged nor traced, but counted."""


class Observed:
    """Observes `app`.

    Args:
        app: what answers.
        endpoint_of: returns the path of the route of a scope.
        shared: middleware that also sees refusals.
    """

    def __init__(
        self, app: ASGIApp, *, endpoint_of: Callable[[Scope], str], shared: Callable[[ASGIApp], ASGIApp]
    ) -> None:
        self._app, self._endpoint_of = app, endpoint_of
        self._shared = shared(self._answer)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        started = perf_counter()
        exchange, serving = Exchange.begin(scope), Serving.current()
        REQUEST_ID.set(exchange.request_id)  # uvicorn gives each request a task, and so a context of its own

        async def receive_observed() -> Message:
            message = await receive()
            exchange.received_bytes += len(message.get("body", b""))
            return message

        async def send_observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"].append((b"x-request-id", exchange.request_id.encode()))
                if serving.cache is not None and (cached := exchange.cached):
                    message["headers"].append((b"x-tandem-cache", cached.encode()))
            else:
                exchange.sent_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self._shared(scope, receive_observed, send_observed)
        finally:
            exchange.endpoint = self._endpoint_of(scope)
            ended = perf_counter()
            serving.note(exchange, ended - started)
            if exchange.endpoint not in UNLOGGED:
                trace_id = None if serving.tracing is None else serving.tracing.record(scope, exchange, started, ended)
                log_access(scope, exchange, ended - started, trace_id)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, with a refusal if it fails."""
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if not stopping.has_begun:
                raise
            refusal = is_stopping()  # uvicorn has cut off what took too long
        except Exception as error:  # noqa: BLE001  # `refusal_of` knows each kind, and logs the traceback of a bug
            refusal = refusal_of(error)
        else:
            return
        exchange = Exchange.of_scope(scope)
        exchange.reason = refusal.reason
        if not exchange.status:
            await refuse(refusal, exchange.request_id, scope["path"])(scope, receive, send)
