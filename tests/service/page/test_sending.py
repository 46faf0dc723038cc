"""How the page sends images: a few at a time, again if the service is busy, with a key if it needs one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Route

    from tests.service.page.conftest import Tab


class TestManyImages:
    def test_a_few_are_sent_at_a_time(self, tab: Tab, digits: list[Path]) -> None:
        """40 images are all classified, each by one request, with at most 4 under way."""
        under_way, highest = set[Any](), 0

        def begin(request: Any) -> None:
            nonlocal highest
            if "/classify" in request.url:
                under_way.add(request)
                highest = max(highest, len(under_way))

        tab.page.on("request", begin)
        tab.page.on("requestfinished", lambda request: under_way.discard(request))  # noqa: PLW0108
        tab.pick(*digits)
        tab.wait(40)
        assert tab.page.locator("#progress").inner_text() == "40 of 40 classified."
        assert len(tab.sent) == 40
        assert 1 < highest <= 4

    @pytest.mark.parametrize("status", [429, 503])
    def test_a_busy_service_is_given_time(self, tab: Tab, digits: list[Path], status: int) -> None:
        """After a refusal with Retry-After, nothing is sent until then; then every image is classified."""
        refused, sent_after = [], []

        def answer(route: Route) -> None:
            if not refused:
                refused.append(time.monotonic())
                error = {"error": {"reason": "overloaded", "message": "busy"}}
                route.fulfill(status=status, headers={"Retry-After": "2"}, json=error)
            else:
                sent_after.append(time.monotonic() - refused[0])
                route.continue_()

        tab.page.route("**/classify*", answer)
        tab.pick(*digits[:12])
        expect(tab.page.locator(".card .state", has_text="busy. Trying again in 2 s")).to_have_count(1)
        tab.wait(12)
        assert tab.page.locator("#progress").inner_text() == "12 of 12 classified."
        assert len(sent_after) == 12
        # Three were under way with the one that was refused.
        assert len([each for each in sent_after if each < 1.9]) <= 6

    def test_a_service_that_is_gone(self, tab: Tab, digits: list[Path]) -> None:
        """The card says so, and its button tries again."""
        tab.page.route("**/classify*", lambda route: route.abort())
        tab.pick(digits[0])
        assert "does not answer" in tab.wait(1).locator(".state").inner_text()
        tab.page.unroute("**/classify*")
        tab.page.get_by_role("button", name="Try again").click()
        expect(tab.page.locator("#progress")).to_have_text("1 of 1 classified.")
        assert tab.page.get_by_role("button", name="Try again").count() == 0

    def test_clearing_forgets_all(self, tab: Tab, digits: list[Path]) -> None:
        """Clear stops what is under way and empties the page; new images work as before."""
        # Or a fast service has answered all before the click.
        network = tab.page.context.new_cdp_session(tab.page)
        slow = {"offline": False, "latency": 500, "downloadThroughput": -1, "uploadThroughput": -1}
        network.send("Network.emulateNetworkConditions", slow)
        tab.pick(*digits)
        tab.page.get_by_role("button", name="Clear").click()
        expect(tab.page.locator(".card")).to_have_count(0)
        assert len(tab.sent) < 40
        tab.pick(digits[0])
        tab.wait(1)
        assert tab.page.locator("#progress").inner_text() == "1 of 1 classified."

    def test_object_urls_are_revoked(self, open_tab: Callable[..., Tab], digits: list[Path], text_file: Path) -> None:
        """The page keeps no image in memory for its address: after each thumbnail, good or bad, the address is gone."""
        tab = open_tab()
        tab.page.add_init_script(
            """window.addresses = new Set();
            window.made = 0;
            const [create, revoke] = [URL.createObjectURL, URL.revokeObjectURL];
            URL.createObjectURL = (blob) => {
                const url = create(blob);
                addresses.add(url);
                made += 1;
                return url;
            };
            URL.revokeObjectURL = (url) => { addresses.delete(url); revoke(url); };"""
        )
        tab.open()
        tab.pick(*digits[:5], text_file)
        tab.wait(6)
        assert tab.page.evaluate("made") == 6
        assert tab.page.evaluate("addresses.size") == 0


class TestKeys:
    def test_key_is_asked_for_and_kept(self, open_tab: Callable[..., Tab], digits: list[Path]) -> None:
        """The page asks for a key, says if it is wrong, and keeps it over a reload and for the API page."""
        tab = open_tab()

        def check(route: Route) -> None:
            if route.request.headers.get("authorization") == "Bearer right-key":
                return route.continue_()
            error = {"error": {"reason": "unauthorized", "message": "no key"}}
            return route.fulfill(status=401, headers={"WWW-Authenticate": "Bearer"}, json=error)

        for path in ("**/model", "**/classify*", "**/docs.json"):
            tab.page.context.route(path, check)
        field = tab.open().get_by_label("API key")
        tab.pick(*digits[:6])
        expect(field).to_be_focused()
        field.fill("wrong-key")
        field.press("Enter")
        expect(tab.page.locator("#key-why")).to_have_text("The service refused this key. Enter another one.")
        field.fill(" right-key ")
        tab.page.get_by_role("button", name="Use this key").click()
        tab.wait(6)
        expect(tab.page.locator("#model-name")).to_have_text("digits")
        expect(field).to_be_hidden()
        assert tab.page.locator("#progress").inner_text() == "6 of 6 classified."
        tab.page.reload()
        expect(tab.page.locator("#model-name")).to_have_text("digits")
        tab.open("/docs")
        expect(tab.page.locator(".opblock").first).to_be_visible()
        tab.page.evaluate("sessionStorage.clear()")
        expect(tab.open().get_by_label("API key")).to_be_visible()
