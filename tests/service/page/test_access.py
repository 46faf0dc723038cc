"""Whom the page serves: people without a mouse, without sight, in the dark, on a small screen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.service.page.conftest import Tab

# Contrast as WCAG 2 defines it. Text lies on the nearest opaque background behind it.
CONTRASTS = """() => {
    const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const luminance = ([red, green, blue]) => {
        const [r, g, b] = [red, green, blue].map((level) => level / 255)
            .map((level) => (level <= 0.04045 ? level / 12.92 : ((level + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const contrast = (one, other) => {
        const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
        return (light + 0.05) / (dark + 0.05);
    };
    const behind = (element) => {
        for (let each = element; each; each = each.parentElement) {
            const [r, g, b, alpha = 1] = parse(getComputedStyle(each).backgroundColor);
            if (alpha === 1) return [r, g, b];
        }
    };
    const found = [];
    for (const element of document.querySelectorAll("body *")) {
        if (!element.checkVisibility() || element.closest(".unseen, template, noscript")) continue;
        const style = getComputedStyle(element);
        const hasText = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
        const name = `${element.tagName} #${element.id} .${element.className}`;
        if (hasText || element.matches("input:not([type=file])"))
            found.push([name, "text", contrast(parse(style.color), behind(element))]);
        if (element.matches(".thumbnail.blank")) found.push([name, "text",
            contrast(parse(getComputedStyle(element, "::after").color), behind(element))]);
        if (element.matches("input:not([type=file]), .button.quiet, #drop"))
            found.push([name, "border", contrast(parse(style.borderTopColor), behind(element.parentElement))]);
        if (element.matches(".fill"))
            found.push([name, "bar", contrast(parse(style.backgroundColor), behind(element.parentElement))]);
    }
    return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(
    open_tab: Callable[..., Tab], digits: list[Path], text_file: Path, scheme: Literal["light", "dark"]
) -> None:
    """Text has a contrast of 4.5, bars and borders of controls of 3 (WCAG 2 AA), in the light and in the dark."""
    tab = open_tab(color_scheme=scheme, has_touch=True)
    tab.page.route("**/classify?top_k=1", lambda route: route.abort())
    tab.open()
    expect(tab.page.locator("#model")).to_be_visible()
    tab.page.locator("#key-form").evaluate("(form) => (form.hidden = false)")
    tab.pick(*digits[:2], text_file)
    tab.wait(3)
    tab.page.get_by_label("Labels per image").fill("1")
    tab.pick(digits[3])  # a failure with a button
    tab.wait(4)
    found = tab.page.evaluate(CONTRASTS)
    names = " ".join(name for name, _, _ in found)
    for part in (
        "#model-digest",
        "hint",
        "time",
        "score",
        "label",
        "fill",
        "state",
        "again",
        "blank",
        "#key",
        "#top-k",
    ):
        assert part in names
    assert {kind for _, kind, _ in found} == {"text", "border", "bar"}
    assert not [each for each in found if each[2] < (4.5 if each[1] == "text" else 3)]
    [background] = {
        each.evaluate("(body) => getComputedStyle(body).backgroundColor") for each in [tab.page.locator("body")]
    }
    assert (max(map(int, background[4:-1].split(","))) < 60) == (scheme == "dark")


def test_keyboard_alone(tab: Tab, digits: list[Path]) -> None:
    """Every control is reached by Tab in the order of the page, shows its focus, and works by the keyboard."""
    keyboard, page = tab.page.keyboard, tab.page
    # Before the first key: playwright begins to catch the dialog without waiting until the browser does.
    page.on("filechooser", lambda _: None)
    ring = "(element) => getComputedStyle(element).outlineStyle + getComputedStyle(element).outlineWidth"
    keyboard.press("Tab")
    expect(page.get_by_role("link", name="API documentation")).to_be_focused()
    assert page.locator(":focus").evaluate(ring) == "solid3px"
    keyboard.press("Tab")
    expect(page.locator("#files")).to_be_focused()
    assert page.get_by_text("Choose images", exact=True).evaluate(ring) == "solid3px"
    with page.expect_file_chooser() as chosen:
        keyboard.press("Enter")
    chosen.value.set_files(digits[:2])
    tab.wait(2)
    keyboard.press("Tab")
    expect(page.get_by_label("Labels per image")).to_be_focused()
    assert page.locator(":focus").evaluate(ring) == "solid3px"
    keyboard.press("Control+a")
    keyboard.type("3")
    keyboard.press("Tab")
    expect(page.locator(".bars").first.locator("li")).to_have_count(3)
    expect(page.get_by_role("button", name="Clear")).to_be_focused()
    assert page.locator(":focus").evaluate(ring) == "solid3px"
    keyboard.press("Enter")
    expect(page.locator(".card")).to_have_count(0)
    expect(page.locator("#files")).to_be_focused()


def test_results_are_announced(tab: Tab, digits: list[Path], text_file: Path) -> None:
    """A screen reader hears the counts, and of each new image its label or what is wrong; not the old ones again."""
    status = tab.page.get_by_role("status")
    tab.pick(digits[0], text_file)
    tab.wait(2)
    label, score = tab.labels()[0], tab.page.locator(".score").first.inner_text()
    expect(status).to_contain_text(f"1 of 2 classified, 1 failed. {digits[0].name}: {label}, {score}.")
    expect(status).to_contain_text("not an image")
    tab.pick(digits[8])
    tab.wait(3)
    expect(status).to_contain_text(f"{digits[8].name}: {tab.labels()[0]}")
    assert digits[0].name not in status.inner_text()
    assert status.get_attribute("aria-live") == "polite"


def test_names_and_structure(tab: Tab, digits: list[Path]) -> None:
    """Each control has a name, each image a heading, and the page its landmarks and its language."""
    page = tab.page
    tab.pick(digits[0])
    tab.wait(1)
    unnamed: list[Any] = page.evaluate(
        "[...document.querySelectorAll('input')].filter((input) => input.labels.length !== 1).map((input) => input.id)"
    )
    assert not unnamed
    assert page.locator("html").get_attribute("lang") == "en"
    for role in ("banner", "main", "navigation"):
        expect(page.get_by_role(role)).to_have_count(1)  # type: ignore[arg-type]  # these are roles
    assert page.get_by_role("heading").all_inner_texts() == ["Classify images", "Results", digits[0].name]


@pytest.mark.parametrize("width", [320, 375])
def test_small_screen(open_tab: Callable[..., Tab], digits: list[Path], text_file: Path, width: int) -> None:
    """Nothing is wider than a phone, whatever the length of names and labels, and buttons are large enough to touch."""
    tab = open_tab(viewport={"width": width, "height": 700}, is_mobile=True, has_touch=True)
    answer = {"predictions": [{"label": "hammerhead_" * 12, "index": 0, "score": 0.5}]}
    tab.page.route("**/classify?top_k=1", lambda route: route.fulfill(json=answer))
    tab.open()
    expect(tab.page.locator("#model")).to_be_visible()
    tab.pick(*digits[:2], text_file)
    tab.wait(3)
    tab.page.get_by_label("Labels per image").fill("1")
    tab.pick(digits[3])
    tab.wait(4)
    assert tab.page.evaluate("document.documentElement.scrollWidth") == width
    for button in tab.page.locator(".button:visible").all():
        box = button.bounding_box()
        assert box
        assert box["height"] >= 44


def test_reduced_motion(open_tab: Callable[..., Tab], digits: list[Path]) -> None:
    """Who wants no motion gets none."""
    durations = []
    for motion in ("no-preference", "reduce"):
        tab = open_tab(reduced_motion=motion)
        tab.open()
        tab.pick(digits[0])
        tab.wait(1)
        durations.append(
            tab.page.locator(".fill").first.evaluate("(fill) => getComputedStyle(fill).transitionDuration")
        )
    assert durations == ["0.25s", "0s"]
