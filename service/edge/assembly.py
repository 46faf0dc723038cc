"""Everything that a request can meet, put together. Imported by workers alone."""

from __future__ import annotations

import sys
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Self

from service import limits
from service.access.options import Access
from service.edge.application import Application
from service.edge.classify import ROUTES
from service.edge.connections import bound_connections
from service.edge.feedback import FEEDBACK_ROUTES
from service.edge.guarding import Guarded, with_cors
from service.edge.openapi import OPENAPI_ROUTES
from service.edge.page import PAGE_ROUTES
from service.edge.stopping import stop_with_care
from service.edge.v2.routes import V2_ROUTES

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.types import ASGIApp


class NoProxy:
    """Stands in for what BentoML gives a service to call itself with; ours doesn't."""

    to_async = to_sync = None

    def __init__(self, *_: object, **__: object) -> None:
        pass

    async def __aenter__(self) -> Self:
        return self

    async def close(self) -> None:
        """Do nothing."""


def spare_proxies() -> None:
    """Keep BentoML from importing aiohttp and pyparsing, a tenth of the CPU time of a start, for two proxies.

    One forwards requests to a program that a service starts, the other is for services that call each other.
    """
    for module, name, stand_in in (
        ("_bentoml_impl.server.proxy", "create_proxy_app", None),
        ("_bentoml_impl.client.proxy2", "RemoteProxy", NoProxy),
    ):
        if module not in sys.modules:
            sys.modules[module] = ModuleType(module)
            setattr(sys.modules[module], name, stand_in)


def assemble(bentoml: Starlette) -> ASGIApp:
    """Return the service's application around BentoML's, and prepare this process for it."""
    import_module("anyio._backends._asyncio")  # anyio would do this in the first request, and take 100 ms of it
    bound_connections()
    stop_with_care()
    limits.lower_limits()
    access = Access.from_environment()
    routes = [*ROUTES, *FEEDBACK_ROUTES, *V2_ROUTES, *OPENAPI_ROUTES, *PAGE_ROUTES]
    return Application(bentoml, routes, [partial(Guarded, access=access)], partial(with_cors, access=access))
