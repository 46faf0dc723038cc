"""Bounds on what a client may do before and around its body: bytes, time and number of connections.

Uvicorn's parser collects a request line and headers without a limit, waits for them without a limit, and copies them
again for each piece that arrives. `BoundedProtocol` is its protocol with those limits. Refusals have the usual form.
"""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
import uvicorn.config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from classifier.answers import Error, Refusal
from classifier.hardware import allow_open_files
from service import limits
from service.edge.access_log import log_no_request
from service.edge.stopping import stopping
from service.exchange import Exchange, new_request_id
from service.serving import Serving

if TYPE_CHECKING:
    import asyncio

_PIECE_BYTES = 16 * 2**10
"""What the parser gets at a time, so that a limit is passed by less than this."""
_OPEN_FILES = 8192
_CHECK_EVERY_S = 2


def bound_connections() -> None:
    """Make uvicorn use `BoundedProtocol` in this process."""
    # Room for connections that are accepted before the one over the limit is closed.
    allow_open_files(_OPEN_FILES)
    # BentoML's worker leaves the choice of the protocol to uvicorn, which looks it up here.
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{BoundedProtocol.__name__}"


class BoundedProtocol(HttpToolsProtocol):
    """One connection. `service.limits` has the numbers.

    A connection is in one of three states, each with its time limit: the client owes the head of a request; or the rest
    of its body; or the service owes an answer, which the client must also take.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ws_protocol_class = None  # the service has no websockets, which would leave these limits behind
        self._is_head = False
        self._is_body = False
        self._is_refused = False
        self._unread_bytes = 0
        """Received since the message or its last byte of body: the head, the framing of chunks, trailers."""
        self._deadline = math.inf
        self._heard_at = self.loop.time()
        self._checking: asyncio.TimerHandle | None = None
        self._cycles: list[RequestResponseCycle] = []

    # What happens on a connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin a connection. If there are too many, the one that owes its request and was silent longest ends."""
        super().connection_made(transport)  # type: ignore[arg-type]  # as uvicorn declares it
        self._await_request()
        self._check_later()
        if len(self.connections) > limits.MAX_CONNECTIONS:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """End a connection."""
        if self._checking is not None:
            self._checking.cancel()
        self._disconnect()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived, piece by piece, until a limit is passed."""
        self._heard_at = self.loop.time()
        for start in range(0, len(data), _PIECE_BYTES):
            if self._is_refused or self.transport.is_closing():
                return
            piece = data[start : start + _PIECE_BYTES]
            self._unread_bytes += len(piece)
            super().data_received(piece)
            if self._unread_bytes > limits.MAX_HEAD_BYTES:
                what = f"the request line and the headers are over {limits.MAX_HEAD_BYTES:,} bytes: send fewer"
                self._refuse(431, "head_too_large", what)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP. Uvicorn calls this."""
        self._refuse(400, "bad_request", "the request is not valid HTTP")

    def _unsupported_upgrade_warning(self) -> None:
        """Answer a request to upgrade as if it had not asked for that. Uvicorn would advise to install websockets."""

    # What the parser finds in a message

    def on_message_begin(self) -> None:
        """Begin a request."""
        if len(self.pipeline) >= limits.MAX_PIPELINED:
            raise RuntimeError("too many requests at once")  # stops the parser; uvicorn calls send_400_response
        super().on_message_begin()
        self._is_head = True
        if not self._owes_answer:
            self._await_request()

    def on_headers_complete(self) -> None:
        """End a request's head."""
        super().on_headers_complete()
        self._cycles = [each for each in self._cycles if not each.response_complete] + [self.cycle]
        self._is_head, self._is_body = False, True
        self._unread_bytes = 0
        if stopping.has_begun:
            self.close_after_answer()
        self._deadline = self.loop.time() + limits.BODY_WITHIN_S + limits.SLACK_S

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._unread_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request. The service may have refused it already."""
        super().on_message_complete()
        self._is_body = False
        self._unread_bytes = 0
        if self._owes_answer:
            self._deadline = self.loop.time() + limits.ANSWER_WITHIN_S
        else:
            self._await_request()

    def on_response_complete(self) -> None:
        """End an answer. A request that was refused early may still be arriving."""
        super().on_response_complete()
        if not self._is_body and not self._owes_answer:
            self._await_request()

    # How it ends

    def eof_received(self) -> None:
        """Refuse a request that ends in the middle, and close the connection."""
        super().eof_received()
        if self._is_body or (self._is_head and not self._owes_answer):
            what = "the request ended before it was complete; send all that its Content-Length or its chunks announce"
            self._refuse(400, "truncated_request", what, linger=False)

    def close_after_answer(self) -> None:
        """Let the answer to the last request close the connection."""
        if self.cycle is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Close the connection, or let the answer that it waits for do so. Uvicorn calls this when it stops."""
        if self._is_head and not self._owes_answer:
            self._deadline = min(self._deadline, self.loop.time() + limits.SLACK_S)  # the rest is on its way
        else:
            super().shutdown()

    # How long it may take

    @property
    def _owes_answer(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete and not self._is_body

    def _await_request(self) -> None:
        self._unread_bytes = 0
        self._deadline = self.loop.time() + max(self.timeout_keep_alive, limits.HEAD_WITHIN_S)

    def _check_later(self) -> None:
        self._checking = self.loop.call_later(_CHECK_EVERY_S, self._check)

    def _check(self) -> None:
        if self.loop.time() >= self._deadline:
            if self._is_refused or self._owes_answer or not (self._is_head or self._is_body):
                self.transport.abort()  # the client doesn't take the answer, or sends nothing at all
                return
            self._refuse(408, "slow_request", "the request did not arrive in time; send it over a faster connection")
        self._check_later()

    def _make_room(self) -> None:
        others = (each for each in self.connections if isinstance(each, BoundedProtocol) and each is not self)
        owing = [each for each in others if not each._owes_answer and not each.transport.is_closing()]
        # Uploads that progress go on, while silent connections end.
        victim = min(owing, key=lambda each: (not each._is_refused, each._heard_at), default=self)
        if victim._is_refused:
            victim.transport.abort()
        else:
            victim._refuse(503, "overloaded", "the service has too many connections; try again", linger=False)

    def _refuse(self, status: int, reason: str, message: str, *, linger: bool = True) -> None:
        """Answer, unless an answer has begun, and end the connection.

        With `linger`, what the client still sends is thrown away until it has closed: closing at once would reset the
        connection, and the client could lose the answer.
        """
        if self._is_refused:
            return
        self._is_refused = True
        self._deadline = self.loop.time() + limits.SLACK_S
        exchange = Exchange(request_id=new_request_id(), status=status, reason=reason)
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(_refusal(exchange, message))
        self._disconnect()
        log_no_request(self.client, exchange)
        # A request whose head is complete counts by itself, as that of a client that hung up.
        if all(cycle.response_complete for cycle in self._cycles):
            Serving.current().note(exchange, 0.0)
        if linger and not self.pipeline and self.transport.can_write_eof():
            self.transport.write_eof()
            self.flow.resume_reading()
        else:
            self.transport.close()

    def _disconnect(self) -> None:
        """Tell all requests that nobody takes their answers. Uvicorn tells only the last of a pipeline."""
        for cycle in self._cycles:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()


def _refusal(exchange: Exchange, message: str) -> bytes:
    error = Error(reason=exchange.reason or "", message=message, request_id=exchange.request_id)
    body = msgspec.json.encode(Refusal(error=error))
    busy = exchange.status == HTTPStatus.SERVICE_UNAVAILABLE
    retry = b"retry-after: %d\r\n" % limits.RETRY_AFTER_S if busy else b""
    head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n" % len(body)
    head += b"x-request-id: %s\r\n" % exchange.request_id.encode()
    return STATUS_LINE[exchange.status] + retry + head + b"\r\n" + body
