"""What stands around BentoML's middleware, since a request's path and Content-Type come from strangers.

BentoML labels its metrics by path, so each path that a scanner tries would stay in them for ever. Its access log prints
paths and types as they came, and fails on a Content-Type that is not UTF-8: then no answer is sent.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from bentoml._internal.server.http.instruments import RunnerTrafficMetricsMiddleware
from starlette.middleware import Middleware
from starlette.routing import Match

from classifier.wording import escaped
from service.edge.endpoints import refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.applications import Starlette
    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp, Receive, Scope, Send

UNKNOWN = "unknown"
"""The label in the metrics of every path that has no route."""

_PATH = "tandem.path"
_LOGGED_CHARS = 500


def guard(app: Starlette) -> None:
    """Put our middleware around BentoML's, and escape what its access log prints."""
    around: list[Middleware] = [Middleware(_checking_types)]
    for middleware in app.user_middleware:
        kind: Any = middleware.cls
        if kind is RunnerTrafficMetricsMiddleware:
            # Around the metrics only: the routes and the access log get the real path.
            around += [Middleware(_labelling, routes=app.router.routes), middleware, Middleware(_restoring)]
        else:
            around.append(middleware)
    app.user_middleware = around
    logging.getLogger("bentoml.access").addFilter(_escape)


def _checking_types(app: ASGIApp) -> ASGIApp:
    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        for name, value in scope.get("headers", ()):
            if name == b"content-type" and not _is_utf8(value):
                answer = refusal(
                    400, "bad_content_type", "the header Content-Type is not text; send image/jpeg or none"
                )
                return await answer(scope, receive, send)
        return await app(scope, receive, send)

    return call


def _labelling(app: ASGIApp, routes: Sequence[BaseRoute]) -> ASGIApp:
    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": _label(scope, routes), _PATH: scope["path"]}
        await app(scope, receive, send)

    return call


def _restoring(app: ASGIApp) -> ASGIApp:
    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        if _PATH in scope:
            scope = {**scope, "path": scope[_PATH]}
        await app(scope, receive, send)

    return call


def _label(scope: Scope, routes: Sequence[BaseRoute]) -> str:
    """Return the path of the route, without what a mounted folder has behind it."""
    route = next((route for route in routes if route.matches(scope)[0] is not Match.NONE), None)
    return getattr(route, "path", UNKNOWN)


def _escape(record: logging.LogRecord) -> bool:
    if isinstance(record.args, tuple):
        record.args = tuple(_printable(arg) if isinstance(arg, str) else arg for arg in record.args)
    return True


def _printable(text: str) -> str:
    text = escaped(text)
    return text if len(text) <= _LOGGED_CHARS else f"{text[:_LOGGED_CHARS]}…"


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
