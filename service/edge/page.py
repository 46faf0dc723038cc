"""The page at `/`, where people drop images, and the OpenAPI page at `/docs`, with all that they load.

Swagger UI's files are those that BentoML brings: version 5, which reads OpenAPI 3.1. BentoML's own page is not served,
since it loads a tag manager in the visitor's browser.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import bentoml
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

_PAGE = Path(__file__).parent.parent / "page"
_SWAGGER_UI = Path(bentoml.__file__).parent / "_internal" / "server" / "static_content"

# Files are served by these names only, so no path leaves the folders.
_PAGE_FILES = frozenset({"docs.css", "docs.js", "icon.svg", "key.js", "page.css", "page.js", "service.js"})
_SWAGGER_UI_FILES = frozenset({"swagger-ui.css", "swagger-ui-bundle.js"})
_MEDIA_TYPES = {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".svg": "image/svg+xml"}

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE_POLICY = f"{_POLICY}; img-src 'self' blob:; require-trusted-types-for 'script'"
_DOCS_POLICY = f"{_POLICY}; img-src 'self' data:"
"""Swagger UI's style sheet has its icons as `data:` images, and its script makes HTML from strings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asset:
    content: bytes
    media_type: str
    etag: str


@cache
def _asset(path: Path) -> _Asset:
    """Return a file, read at its first request."""
    content = path.read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    return _Asset(content=content, media_type=_MEDIA_TYPES[path.suffix], etag=etag)


def _answer(request: Request, path: Path, policy: str = _PAGE_POLICY) -> Response:
    asset = _asset(path)
    headers = {
        "ETag": asset.etag,
        # Browsers keep the files but ask each time: names don't change with a new version, and must not mix with old.
        "Cache-Control": "no-cache",
        "Content-Security-Policy": policy,
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
    }
    if _is_known(request.headers.get("if-none-match", ""), asset.etag):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(asset.content, headers=headers, media_type=asset.media_type)


def _is_known(if_none_match: str, etag: str) -> bool:
    # A proxy that compresses an answer makes its ETag weak.
    return any(each.strip().removeprefix("W/") in {etag, "*"} for each in if_none_match.split(","))


async def _index(request: Request) -> Response:
    return _answer(request, _PAGE / "index.html")


async def _docs(request: Request) -> Response:
    return _answer(request, _PAGE / "docs.html", _DOCS_POLICY)


async def _docs_with_slash(_: Request) -> Response:
    # Relative, as all addresses of the pages: a proxy may serve the service under a prefix.
    return RedirectResponse("../docs")


def _folder(folder: Path, names: frozenset[str]) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in names:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return _answer(request, folder / name)

    return answer


PAGE_ROUTES = [
    Route("/", _index),
    Route("/docs", _docs),
    Route("/docs/", _docs_with_slash),
    Route("/docs/{name}", _folder(_SWAGGER_UI, _SWAGGER_UI_FILES)),
    Route("/page/{name}", _folder(_PAGE, _PAGE_FILES)),
]
