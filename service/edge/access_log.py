"""The access log: one line for each request, with numbers that programs can read."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from classifier.wording import escaped
from service.logs import Fields

if TYPE_CHECKING:
    from starlette.types import Scope

    from service.exchange import Exchange

log = logging.getLogger("bentoml.access")

_LOGGED_CHARS = 500


class AccessLine(Fields, frozen=True, kw_only=True):
    """One request and its answer. `classifier.wording.escaped` made its texts printable.

    Attributes:
        type: the Content-Type that the client sent.
        status: 0 if there was no answer.
        reason: why the request was refused.
        duration_ms: from its head to the end of its answer.
        client: name of the API key that was used.
        peer: address and port of the client, or of the proxy that is connected.
        images: how many were looked at.
        bytes_in: of the body, as far as it was read.
        bytes_out: of the answer's body.
        trace_id: of the trace that the request is part of, if it is recorded.
    """

    request_id: str
    method: str
    path: str
    type: str | None
    status: int
    reason: str | None
    duration_ms: float
    client: str | None
    peer: str
    images: int
    bytes_in: int
    bytes_out: int
    trace_id: str | None

    @property
    def message(self) -> str:
        """The message of a JSON line."""
        return f"{self.method} {self.path} {self.status}"

    def __str__(self) -> str:
        asked = f"method={self.method},path={self.path},type={self.type or ''},bytes={self.bytes_in}"
        answered = f"status={self.status},reason={self.reason or ''},images={self.images},bytes={self.bytes_out}"
        client = f" client={self.client}" if self.client else ""
        trace = f" trace={self.trace_id}" if self.trace_id else ""
        return f"{self.peer} ({asked}) ({answered}) {self.duration_ms:.3f}ms id={self.request_id}{client}{trace}"


class NoRequest(Fields, frozen=True, kw_only=True):
    """A connection that was refused before there was a request."""

    request_id: str
    peer: str
    status: int
    reason: str | None

    @property
    def message(self) -> str:
        """The message of a JSON line."""
        return f"no request {self.status}"

    def __str__(self) -> str:
        return f"{self.peer} (no request) (status={self.status},reason={self.reason}) id={self.request_id}"


def log_access(scope: Scope, exchange: Exchange, elapsed_s: float, trace_id: str | None) -> None:
    """Write the line of a request that has been answered in `elapsed_s`."""
    sent_type = next((value for name, value in scope["headers"] if name == b"content-type"), None)
    log.info(
        AccessLine(
            request_id=exchange.request_id,
            method=_printable(scope["method"]),
            path=_printable(scope["path"]),
            type=None if sent_type is None else _printable(sent_type.decode(errors="replace")),
            status=exchange.status,
            reason=exchange.reason,
            duration_ms=round(elapsed_s * 1000, 3),
            client=exchange.client,
            peer=peer_text(scope.get("client")),
            images=len(exchange.outcomes),
            bytes_in=exchange.received_bytes,
            bytes_out=exchange.sent_bytes,
            trace_id=trace_id,
        )
    )


def log_no_request(client: tuple[str, int] | None, exchange: Exchange) -> None:
    """Write the line of a connection that was refused before there was a request."""
    refused = NoRequest(
        request_id=exchange.request_id, peer=peer_text(client), status=exchange.status, reason=exchange.reason
    )
    log.info(refused)


def peer_text(client: tuple[str, int] | None) -> str:
    """Return the address and port of a client or a proxy."""
    host, port = client or ("?", 0)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _printable(text: str) -> str:
    if not text.isprintable():
        text = escaped(text)
    return text if len(text) <= _LOGGED_CHARS else f"{text[:_LOGGED_CHARS]}…"
