"""The API page at `/docs` in Chromium, within the same bounds as the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Page

    from tests.service.page.conftest import Tab
    from tests.serving import Server


def open_operation(page: Page, path: str) -> Any:
    """Return the block of an operation, opened and ready to be filled in."""
    block = page.locator(".opblock").filter(has=page.locator(f'[data-path="{path}"]'))
    block.locator(".opblock-summary-control").click()
    block.get_by_role("button", name="Try it out").click()
    return block


def test_every_operation_is_shown(open_tab: Callable[..., Tab], server: Server) -> None:
    """Swagger UI renders the document, of OpenAPI 3.1, with each of its operations."""
    page = open_tab().open("/docs")
    expect(page.locator(".opblock").first).to_be_visible()
    document = httpx.get(f"{server.url}/docs.json").json()
    assert document["openapi"].startswith("3.1")
    shown = {
        (
            block.locator(".opblock-summary-method").inner_text().lower(),
            block.locator("[data-path]").get_attribute("data-path"),
        )
        for block in page.locator(".opblock").all()
    }
    assert shown == {(method, path) for path, item in document["paths"].items() for method in item}
    assert page.locator(".errors-wrapper, .loading-container .failed-config").count() == 0


@pytest.mark.parametrize(
    "options", [{}, {"viewport": {"width": 375, "height": 700}, "is_mobile": True, "has_touch": True}]
)
def test_form_works_in_its_defaults(open_tab: Callable[..., Tab], digits: list[Path], options: dict[str, Any]) -> None:
    """An image and "Execute" are enough, at a desk and on a phone; nothing is wider than the screen."""
    tab = open_tab(**options)
    block = open_operation(tab.open("/docs"), "/classify")
    block.locator("input[type=file]").set_input_files(digits[0])
    with tab.page.expect_response("**/classify*") as answered:
        block.get_by_role("button", name="Execute").click()
    assert answered.value.status == 200
    assert len(answered.value.json()["predictions"]) == 5
    expect(block.locator(".live-responses-table .response-col_status").nth(1)).to_contain_text("200")
    assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_document_that_is_gone(open_tab: Callable[..., Tab]) -> None:
    """A sentence replaces the operations if the document can't be had."""
    tab = open_tab()
    tab.page.route("**/docs.json", lambda route: route.abort())
    expect(tab.open("/docs").get_by_role("alert")).to_contain_text("does not answer")


def test_dark(open_tab: Callable[..., Tab]) -> None:
    """The API page is dark in the dark, too."""
    page = open_tab(color_scheme="dark").open("/docs")
    expect(page.locator("#operations")).to_have_css("filter", "invert(0.88) hue-rotate(180deg)")
    expect(page.locator("body")).to_have_css("background-color", "rgb(31, 31, 31)")
