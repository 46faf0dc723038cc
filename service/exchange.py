"""What is known about one request and its answer: metrics, access log and prediction log are written from it."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request
    from starlette.types import Scope

    from classifier.errors import ImageError
    from classifier.types import Prediction
    from service.scoring import Scored

UNKNOWN = "unknown"
"""The endpoint of every path that has no route."""

_KEY = "tandem.exchange"
REQUEST_ID_PATTERN = "^[A-Za-z0-9._:+/=-]{1,128}$"
"""Of the IDs that are taken from clients. Others could forge lines of a log."""

_REQUEST_ID = re.compile(REQUEST_ID_PATTERN[1:-1].encode())


def new_request_id() -> str:
    """Return an ID for a request that brings none."""
    return secrets.token_hex(16)


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of one image of a request.

    Attributes:
        index: its place in the request, from 0.
        size_bytes: of the image as it was sent; None if it could not be read from the request.
        sha256: of the encoded image; None if nothing needed it.
        status: the HTTP status that the image alone would have got; that of the request, if that failed.
        scored: its scores; None if there are none.
        error: why the image can't be classified; None if it is not the image.
        predictions: the answer; empty if no client got it.
        reason: the kind of failure in one word; None if the image was answered.
    """

    index: int
    size_bytes: int | None
    sha256: bytes | None = None
    status: int = 200
    scored: Scored | None = None
    error: ImageError | None = None
    predictions: tuple[Prediction, ...] = ()
    reason: str | None = None


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One request and its answer.

    Attributes:
        request_id: the client's `X-Request-Id`, or a new one.
        endpoint: the path of the route, or `UNKNOWN`.
        client: name of the API key that was used.
        source: whose share it counts for: the key's name or the network address.
        status: HTTP status of the answer; 0 until it begins.
        reason: why the request was refused, in one word.
        sizes: bytes of each image that arrived; None for one that could not be read from the request.
        outcomes: of the images that were looked at; after `settle`, of all in `sizes`.
        received_bytes: of the body, as far as it was read.
        sent_bytes: of the answer's body.
    """

    request_id: str
    endpoint: str = UNKNOWN
    client: str | None = None
    source: str = ""
    status: int = 0
    reason: str | None = None
    sizes: Sequence[int | None] = ()
    outcomes: list[Outcome] = field(default_factory=list)
    received_bytes: int = 0
    sent_bytes: int = 0

    @property
    def cached(self) -> str | None:
        """Whether the result cache had the images that were scored: all, some or none; None without such images."""
        scored = [outcome.scored for outcome in self.outcomes if outcome.scored is not None]
        hits = sum(each.cached is not None for each in scored)
        if not scored:
            return None
        return "hit" if hits == len(scored) else "partial" if hits else "miss"

    def settle(self) -> None:
        """Give each image an outcome. If the request failed, no client saw a label, whatever became of its images."""
        if 200 <= self.status < 400:
            return
        for outcome in self.outcomes:
            if outcome.error is None:
                outcome.status, outcome.reason, outcome.predictions = self.status, self.reason, ()
        known = {outcome.index for outcome in self.outcomes}
        self.outcomes += [
            Outcome(index=index, size_bytes=size, status=self.status, reason=self.reason)
            for index, size in enumerate(self.sizes)
            if index not in known
        ]

    @classmethod
    def begin(cls, scope: Scope) -> Exchange:
        """Return the exchange of a new request, and keep it in `scope`."""
        asked = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        # Another client's ID would be a line of the log and a header of the answer: take only plain ones.
        exchange = cls(request_id=asked.decode() if _REQUEST_ID.fullmatch(asked) else new_request_id())
        scope[_KEY] = exchange
        return exchange

    @classmethod
    def of(cls, request: Request) -> Exchange:
        """Return the exchange that a request is part of."""
        return cls.of_scope(request.scope)

    @classmethod
    def of_scope(cls, scope: Scope) -> Exchange:
        """Return the exchange that a request with this scope is part of."""
        exchange: Exchange = scope[_KEY]
        return exchange
