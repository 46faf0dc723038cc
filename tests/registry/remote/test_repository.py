"""One remote repository: lists that come in pages, and answers that are not lists."""

from __future__ import annotations

import http.server
import json

import pytest

from registry.remote.repository import RemoteRepository
from tests.registry.servers import serve


class _Page(http.server.BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        page = b"<html>" if "/referrers/" in self.path else b"{}"
        self.send_response_only(200 if page == b"<html>" else 404)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)


def test_a_page_is_no_list_of_referrers() -> None:
    """A proxy before a registry without the API may answer unknown paths with a page."""
    with serve(_Page) as host:
        assert RemoteRepository(host, "acme/digits").referrers("sha256:" + "0" * 64) == []


class _Paging(http.server.BaseHTTPRequestHandler):
    link: str

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        tags = ["1", "2"] if "last=" not in query else ["3"]
        page = json.dumps({"tags": tags} if path == "/v2/acme/digits/tags/list" else {}).encode()
        self.send_response_only(200)
        self.send_header("Content-Length", str(len(page)))
        if len(tags) == 2:
            self.send_header("Link", f'<{self.link}>; rel="next"')
        self.end_headers()
        self.wfile.write(page)


@pytest.mark.parametrize("link", ["?last=2", "list?last=2", "/v2/acme/digits/tags/list?last=2", "http://{host}{path}"])
def test_the_next_page_is_found_from_this_one(link: str) -> None:
    """In every form of the link; a missed page would hide models."""
    handler = type("Handler", (_Paging,), {"link": link})
    with serve(handler) as host:
        handler.link = link.format(host=host, path="/v2/acme/digits/tags/list?last=2")  # type: ignore[attr-defined]
        assert RemoteRepository(host, "acme/digits").tags() == ["1", "2", "3"]
