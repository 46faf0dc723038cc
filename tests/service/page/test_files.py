"""The files of the page and of the API page over HTTP: types, caching, policy, and nothing of BentoML's page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from service.edge.page import PAGE_ROUTES
from tests.conftest import ROOT
from tests.service.conftest import assert_refused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.serving import Server

FILES = {
    "/": "text/html; charset=utf-8",
    "/docs": "text/html; charset=utf-8",
    "/docs/swagger-ui.css": "text/css; charset=utf-8",
    "/docs/swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "/page/docs.css": "text/css; charset=utf-8",
    "/page/docs.js": "text/javascript; charset=utf-8",
    "/page/icon.svg": "image/svg+xml",
    "/page/key.js": "text/javascript; charset=utf-8",
    "/page/page.css": "text/css; charset=utf-8",
    "/page/page.js": "text/javascript; charset=utf-8",
    "/page/service.js": "text/javascript; charset=utf-8",
}


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url) as client:
        yield client


def test_every_file_of_the_folder_is_served() -> None:
    """A file that is added to the folder is added to the served names, too."""
    names = {path.name for path in (ROOT / "service" / "page").iterdir()}
    served = {path.rpartition("/")[2] for path in FILES if path.startswith("/page/")}
    assert names == served | {"index.html", "docs.html"}
    assert {route.path for route in PAGE_ROUTES} == {"/", "/docs", "/docs/", "/docs/{name}", "/page/{name}"}


@pytest.mark.parametrize(("path", "content_type"), FILES.items())
def test_headers(client: httpx.Client, path: str, content_type: str) -> None:
    """Each file has its type, may not be framed, and may load only what the service has; HEAD says the same as GET."""
    answer = client.get(path).raise_for_status()
    assert answer.content
    assert answer.headers["content-type"] == content_type
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers["x-frame-options"] == "DENY"
    policy = answer.headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"} <= set(policy)
    assert "unsafe" not in answer.headers["content-security-policy"]
    head = client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    varying = {"date", "x-request-id"}
    assert [each for each in head.headers.multi_items() if each[0] not in varying] == [
        each for each in answer.headers.multi_items() if each[0] not in varying
    ]


@pytest.mark.parametrize("path", FILES)
def test_a_file_is_sent_once(client: httpx.Client, path: str) -> None:
    """A browser keeps each file, asks each time whether it has changed, and gets no body if it has not."""
    first = client.get(path)
    assert first.headers["cache-control"] == "no-cache"
    etag = first.headers["etag"]
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = client.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag
    for unknown in ('"other"', etag[:-2]):
        assert client.get(path, headers={"If-None-Match": unknown}).content == first.content


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/page/",
            "/page/index.html",
            "/page/nothing.js",
            "/page/../service.py",
            "/page/..%2fservice.py",
            "/page/%2e%2e",
        ),
        *("/docs/swagger-initializer.js", "/docs/..%2fapp.py", "/docs/index.html"),
        *("/static_content/swagger-ui.css", "/static_content/swagger-initializer.js", "/assets/index.js"),
    ],
)
def test_nothing_else_is_served(server: Server, path: str) -> None:
    """Files beside the named ones, and those of BentoML's page, are not found."""
    with server.connect() as connection:  # httpx would shorten `..`
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b'"reason":"not_found"' in answer


def test_nothing_phones_home(client: httpx.Client) -> None:
    """No tag manager, which BentoML's page has, and no address of another host in what we write."""
    for path in FILES:
        text = client.get(path).text
        assert "googletagmanager" not in text
        if not path.startswith("/docs/"):
            assert "//" not in text.replace("http://www.w3.org/2000/svg", "").replace("// ", "")


def test_other_methods_are_refused(client: httpx.Client) -> None:
    """The page is read-only."""
    for path in ("/", "/docs", "/page/page.js"):
        answer = client.post(path)
        assert_refused(answer, 405, "method_not_allowed")
        assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}


def test_docs_with_a_slash(client: httpx.Client) -> None:
    """A trailing slash leads to the API page."""
    answer = client.get("/docs/", follow_redirects=True)
    assert answer.status_code == 200
    assert answer.url == client.base_url.join("/docs")
