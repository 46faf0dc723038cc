"""The ASGI application of the service: our routes, and the few of BentoML's that stay.

BentoML's middleware (tracing, metrics, access log, timeout) costs more CPU than a small model's answer, and its API
routes accept either a form or a raw body and write each upload to disk. So requests meet our routes alone, which
observe themselves. BentoML's application still opens and closes the service, and answers its probes and its clients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Match, Route, Router

from service.edge.observing import Observed
from service.exchange import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.applications import Starlette
    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp, Receive, Scope, Send

KEPT = frozenset({"/livez", "/readyz", "/healthz", "/metrics", "/schema.json"})
"""Paths that BentoML answers. Its page at `/` loads a tag manager, and its API routes are replaced by ours."""


class Application:
    """Sends each request through `around`, from the first to the last, to its route.

    Args:
        bentoml: BentoML's application of the service.
        routes: ours; they come first.
        around: middleware, outermost first.
        shared: middleware around that, which also sees refusals.

    Attributes:
        paths: of all routes.
    """

    def __init__(
        self,
        bentoml: Starlette,
        routes: Sequence[BaseRoute],
        around: Sequence[Callable[[ASGIApp], ASGIApp]] = (),
        shared: Callable[[ASGIApp], ASGIApp] = lambda app: app,
    ) -> None:
        self._bentoml = bentoml
        bentoml.user_middleware.clear()  # it would count requests that it never sees
        kept = [route for route in bentoml.routes if isinstance(route, Route) and route.path in KEPT]
        self._router = Router([*routes, *kept], redirect_slashes=False)
        # Two routes may share an endpoint: then either path is a fine label.
        self._paths = {route.endpoint: route.path for route in self._router.routes if isinstance(route, Route)}
        self.paths = frozenset(route.path for route in self._router.routes if isinstance(route, Route))
        app: ASGIApp = self._router
        for middleware in reversed(around):
            app = middleware(app)
        self._observed = Observed(app, endpoint_of=self._endpoint_of, shared=shared)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or open and close the service."""
        if scope["type"] != "http":
            await self._bentoml(scope, receive, send)
            return
        scope["app"] = self  # then the router raises errors instead of answering in plain text
        await self._observed(scope, receive, send)

    def _endpoint_of(self, scope: Scope) -> str:
        """Return the path of the route of a request: what strangers try must not become a label."""
        if "endpoint" in scope:
            return self._paths.get(scope["endpoint"], UNKNOWN)
        # Refused before the router: it counts where it would have gone.
        for route in self._router.routes:
            match, _ = route.matches(scope)
            if match is not Match.NONE and isinstance(route, Route):
                return route.path
        return UNKNOWN
