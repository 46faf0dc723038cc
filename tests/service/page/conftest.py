"""Debian's Chromium, and tabs that report whatever leaves the service or breaks its policy."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect, sync_playwright

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, Locator, Page, Request

    from tests.serving import Server

CHROMIUM = Path("/usr/bin/chromium")

expect.set_options(timeout=20_000)  # a busy machine is not a wrong answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Tab:
    """A tab of the browser, and what went wrong in it.

    Attributes:
        foreign: the URLs outside the service that it asked for.
        violations: what it was refused by a Content-Security-Policy.
        errors: uncaught exceptions.
        sent: the requests to `/classify`.
    """

    page: Page
    url: str
    foreign: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    sent: list[Request] = field(default_factory=list)

    def listen(self) -> None:
        # Not the methods themselves: playwright sets an attribute on what it is given.
        self.page.on("request", lambda request: self._heed(request))  # noqa: PLW0108
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.expose_function("reportViolation", lambda violation: self.violations.append(violation))  # noqa: PLW0108
        self.page.add_init_script(
            "document.addEventListener('securitypolicyviolation',"
            " (event) => reportViolation(`${event.violatedDirective} ${event.blockedURI}`))"
        )

    def _heed(self, request: Request) -> None:
        if not request.url.startswith((f"{self.url}/", "blob:", "data:")):
            self.foreign.append(request.url)
        if "/classify" in request.url:
            self.sent.append(request)

    def open(self, path: str = "/") -> Page:
        self.page.goto(f"{self.url}{path}")
        return self.page

    def pick(self, *files: Path) -> None:
        self.page.locator("#files").set_input_files(files)

    def wait(self, cards: int) -> Locator:
        """Return the cards, once there are so many and none is waiting."""
        expect(self.page.locator("#results[aria-busy=false] .card")).to_have_count(cards)
        return self.page.locator(".card")

    def labels(self, card: int = 0) -> list[str]:
        return self.page.locator(".card").nth(card).locator(".label").all_inner_texts()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"needs {CHROMIUM}: install Debian's package chromium")
    with sync_playwright() as playwright:
        # No sandbox: Chromium has none for root, as whom containers run tests.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_tab(browser: Browser, server: Server) -> Iterator[Callable[..., Tab]]:
    """Return a function that makes a tab, which must stay within the service and its policy until the test ends."""
    tabs = []

    def make(**options: Any) -> Tab:
        tab = Tab(page=browser.new_context(**options).new_page(), url=server.url)
        tab.page.set_default_timeout(20_000)
        tab.listen()
        tabs.append(tab)
        return tab

    yield make
    for tab in tabs:
        tab.page.context.close()
    for tab in tabs:
        assert not tab.foreign
        assert not tab.violations
        assert not tab.errors


@pytest.fixture
def tab(open_tab: Callable[..., Tab]) -> Tab:
    """Return a tab with the page open."""
    tab = open_tab()
    tab.open()
    expect(tab.page.locator("#model")).to_be_visible()
    return tab


@pytest.fixture(scope="session")
def digits(test_folder: Path) -> list[Path]:
    """Return 40 images."""
    return [path for label in range(10) for path in sorted((test_folder / str(label)).glob("*.png"))[:4]]


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    """Return a file that is not an image, with a long name that would be HTML."""
    file = tmp_path / f"<img src=x onerror=alert(1)> {'long' * 40}.png"
    file.write_text("not an image")
    return file


SECONDS = re.compile(r"^(\d+ ms|\d+\.\d s)$")
