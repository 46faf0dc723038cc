"""The page at `/` in Chromium. Every tab also fails a request that leaves the service and a violation of its policy."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from playwright.sync_api import expect

from tests.service.page.conftest import SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Route

    from tests.service.page.conftest import Tab
    from tests.serving import Server


class TestAdding:
    def test_several_files_are_chosen(self, tab: Tab, server: Server, digits: list[Path]) -> None:
        """Each image gets a thumbnail, its name, its time, and the labels and scores that the service gives."""
        tab.pick(*digits[:3])
        cards = tab.wait(3)
        for number, file in enumerate(digits[:3]):
            card = cards.nth(number)
            predictions = httpx.post(f"{server.url}/classify", content=file.read_bytes()).json()["predictions"]
            assert tab.labels(number) == [each["label"] for each in predictions]
            assert card.locator(".score").first.inner_text() == f"{100 * predictions[0]['score']:.1f}%"
            width = card.locator(".fill").first.evaluate("(fill) => fill.style.width")
            assert float(width.removesuffix("%")) == pytest.approx(100 * predictions[0]["score"], rel=1e-4)
            assert card.locator("h3").inner_text() == file.name
            assert SECONDS.match(card.locator(".time").inner_text())
            assert card.locator("img").evaluate("(image) => image.complete && image.naturalWidth") == 8
        assert tab.page.locator("#progress").inner_text() == "3 of 3 classified."

    def test_model_is_named(self, tab: Tab, server: Server) -> None:
        """The header says what answers: model, short digest, precision and engine."""
        described: Any = server.model
        engine = described["engine"]
        assert tab.page.locator("#model-name").inner_text() == "digits"
        assert tab.page.locator("#model-digest").inner_text() == described["digest"][:19]
        assert tab.page.locator("#model-digest").get_attribute("title") == described["digest"]
        assert tab.page.locator("#model-precision").inner_text() == engine["precision"]
        assert tab.page.locator("#model-engine").inner_text() == (
            f"{engine['name']} {engine['version']}, {engine['device']}"
        )

    def test_files_are_dropped(self, tab: Tab, digits: list[Path]) -> None:
        """Images may be dropped anywhere on the page."""
        session = tab.page.context.new_cdp_session(tab.page)
        data = {"items": [], "files": [str(file) for file in digits[:2]], "dragOperationsMask": 1}
        for type in ("dragEnter", "dragOver", "drop"):
            session.send("Input.dispatchDragEvent", {"type": type, "x": 20, "y": 700, "data": data})
            dragging = type != "drop"
            assert tab.page.locator("body.dragging").count() == dragging or type == "dragEnter"
        assert [tab.wait(2).nth(number).locator("h3").inner_text() for number in range(2)] == [
            file.name for file in digits[:2]
        ]
        assert tab.page.url == f"{tab.url}/"

    def test_what_is_not_a_file_is_dropped(self, tab: Tab) -> None:
        """Text that is dropped makes no card, and leaves the page where it is."""
        session = tab.page.context.new_cdp_session(tab.page)
        item = {"mimeType": "text/plain", "data": "https://example.invalid/x.png"}
        data = {"items": [item], "dragOperationsMask": 1}
        for type in ("dragEnter", "dragOver", "drop"):
            session.send("Input.dispatchDragEvent", {"type": type, "x": 20, "y": 700, "data": data})
        expect(tab.page.locator("#progress")).to_contain_text("not a file")
        assert tab.page.locator(".card").count() == 0
        assert tab.page.url == f"{tab.url}/"

    def test_a_folder_is_dropped(self, tab: Tab, tmp_path: Path) -> None:
        """A folder can't be read, and the card says what to do."""
        session = tab.page.context.new_cdp_session(tab.page)
        data = {"items": [], "files": [str(tmp_path)], "dragOperationsMask": 1}
        for type in ("dragEnter", "dragOver", "drop"):
            session.send("Input.dispatchDragEvent", {"type": type, "x": 20, "y": 700, "data": data})
        assert "drop the images in it" in tab.wait(1).locator(".state").inner_text()

    def test_an_image_is_pasted(self, tab: Tab, digits: list[Path]) -> None:
        """Ctrl+V takes the image in the clipboard."""
        tab.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        tab.page.evaluate(
            """async (encoded) => {
                const bytes = Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0));
                const image = new Blob([bytes], { type: "image/png" });
                await navigator.clipboard.write([new ClipboardItem({ "image/png": image })]);
            }""",
            base64.b64encode(digits[0].read_bytes()).decode(),
        )
        tab.page.keyboard.press("Control+v")
        tab.wait(1)
        assert len(tab.labels()) == 5

    def test_the_same_file_is_chosen_again(self, tab: Tab, digits: list[Path]) -> None:
        """Each choice makes a card, and the newest is on top."""
        tab.pick(digits[0])
        tab.wait(1)
        tab.pick(digits[8])
        tab.pick(digits[0])
        names = [tab.wait(3).nth(number).locator("h3").inner_text() for number in range(3)]
        assert names == [digits[0].name, digits[8].name, digits[0].name]

    def test_a_phone_has_a_camera_button(self, open_tab: Callable[..., Tab], digits: list[Path]) -> None:
        """A touch screen gets a button for the camera; a mouse gets none."""
        phone, desk = open_tab(has_touch=True, is_mobile=True), open_tab()
        expect(phone.open().get_by_text("Take a photo")).to_be_visible()
        expect(desk.open().get_by_text("Take a photo")).to_be_hidden()
        assert phone.page.locator("#camera").get_attribute("capture") == "environment"
        phone.page.get_by_label("Take a photo").set_input_files(digits[0])
        phone.wait(1)
        assert len(phone.labels()) == 5


class TestBadImages:
    def test_bad_image_beside_good_ones(self, tab: Tab, server: Server, digits: list[Path], text_file: Path) -> None:
        """A bad image shows the service's reason beside its own thumbnail; its neighbours have their labels."""
        tab.pick(digits[0], text_file, digits[1])
        cards = tab.wait(3)
        message = httpx.post(f"{server.url}/classify", content=text_file.read_bytes()).json()["error"]["message"]
        assert cards.nth(1).locator(".state").inner_text().lower() == f"{message}.".lower()
        assert cards.nth(1).locator(".thumbnail.blank").count() == 1
        assert [len(tab.labels(number)) for number in range(3)] == [5, 0, 5]
        assert tab.page.locator("#progress").inner_text() == "2 of 3 classified, 1 failed."

    def test_names_are_text(self, tab: Tab, text_file: Path) -> None:
        """A file name that is HTML is shown as it is written."""
        tab.pick(text_file)
        assert tab.wait(1).locator("h3").inner_text() == text_file.name
        assert tab.page.locator("h3 img").count() == 0

    def test_labels_are_text(self, tab: Tab, digits: list[Path]) -> None:
        """So are the labels of a model."""
        label = "<b>bold</b>"
        answer = {"predictions": [{"label": label, "index": 0, "score": 1.0}]}
        tab.page.route("**/classify*", lambda route: route.fulfill(json=answer))
        tab.pick(digits[0])
        tab.wait(1)
        assert tab.labels() == [label]


class TestTopK:
    def test_number_of_labels_is_chosen(self, tab: Tab, digits: list[Path]) -> None:
        """More labels are asked for again, fewer are not; and no more than the model has."""
        tab.pick(*digits[:2])
        tab.wait(2)
        field = tab.page.get_by_label("Labels per image")
        for value, shown, sent in (("10", 10, 4), ("3", 3, 4), ("99", 10, 4), ("0", 1, 4)):
            field.fill(value)
            field.blur()
            expect(tab.page.locator(".card .bars").first.locator("li")).to_have_count(shown)
            expect(tab.page.locator(".card .bars").last.locator("li")).to_have_count(shown)
            assert len(tab.sent) == sent
        tab.pick(digits[2])
        tab.wait(3)
        assert len(tab.labels()) == 1


def test_below_a_prefix(open_tab: Callable[..., Tab], digits: list[Path]) -> None:
    """A proxy may serve the service under a path: no address of the pages begins at the root."""
    tab = open_tab()

    def forward(route: Route) -> None:
        route.fulfill(response=route.fetch(url=route.request.url.replace("/below/", "/")))

    tab.page.route("**/*", lambda route: route.fulfill(status=404))
    tab.page.route("**/below/**", forward)
    tab.open("/below/")
    tab.pick(digits[0])
    tab.wait(1)
    assert len(tab.labels()) == 5
    expect(tab.open("/below/docs").locator(".opblock").first).to_be_visible()


def test_without_scripts(open_tab: Callable[..., Tab]) -> None:
    """A browser without JavaScript is told what to do instead."""
    tab = open_tab(java_script_enabled=False)
    expect(tab.open().locator("noscript code")).to_be_visible()  # by text, playwright finds nothing in <noscript>
    expect(tab.open("/docs").locator("noscript a")).to_be_visible()


def test_policy_holds(open_tab: Callable[..., Tab]) -> None:
    """The browser itself refuses inline scripts and styles, HTML from strings, and other hosts, on the page."""
    tab = open_tab()
    tab.open().evaluate(
        """() => {
            const script = document.createElement("script");
            try { script.textContent = "window.ran = true"; } catch { }
            document.body.append(script);
            try { document.body.insertAdjacentHTML("beforeend", "<i>x</i>"); } catch { window.refusedHtml = true; }
            document.body.setAttribute("style", "color: red");
            document.body.append(Object.assign(new Image(), { src: "http://127.0.0.2:9/x.png" }));
            return fetch("http://127.0.0.2:9/").catch(() => null);
        }"""
    )
    assert not tab.page.evaluate("window.ran")
    assert tab.page.evaluate("window.refusedHtml")
    refused = {violation.split()[0] for violation in tab.violations}
    assert {"style-src-attr", "img-src", "connect-src", "require-trusted-types-for"} <= refused
    tab.violations.clear()
    tab.foreign.clear()
