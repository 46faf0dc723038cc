"""`tandem batch report`: the page's numbers are those of the rows, and nothing on it can do anything."""

from __future__ import annotations

import base64
import html.parser
import io
import os
import re
import shutil
import subprocess
import tarfile
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from batch.inputs.shards import Shard
from batch.review.page import MATRIX_CLASSES, SHOWN_PAIRS, confusion
from batch.review.report import write_report
from batch.review.survey import SHOWN_IMAGES, Survey
from batch.rows.formats import FORMATS, Columns, Format, read_rows
from batch.run.stopping import FailureLimits
from classifier.errors import OutputError, TooManyFailures
from tests.batch.conftest import read_parts
from tests.conftest import TANDEM

if TYPE_CHECKING:
    from pathlib import Path

    from batch.rows.columns import Row
    from tests.batch.conftest import Run
    from tests.conftest import Tandem

EVIL = ("<img src=x onerror=alert(1)>.png", "\"'><script>alert(2)<!--.png", "{{ 7 * 7 }}.png", "back\u202egnp\n.png")
NOT_UTF8 = b"\xff\xfe not utf-8.png"


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    children: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        inner = "".join(each if isinstance(each, str) else each.text for each in self.children)
        return " ".join(inner.split())

    def all(self, tag: str, **attributes: str) -> list[Element]:
        """Return the elements below, itself among them, with this tag and these attributes."""
        found = [each for child in self.children if isinstance(child, Element) for each in child.all(tag, **attributes)]
        matches = tag in ("*", self.tag) and attributes.items() <= self.attributes.items()
        return [self, *found] if matches else found

    def section(self, title: str) -> Element:
        [found] = [each for each in self.all("section") if [h.text for h in each.all("h2")] == [title]]
        return found

    def rows(self) -> list[list[str]]:
        return [[cell.text for cell in row.children if isinstance(cell, Element)] for row in self.all("tr")[1:]]


class Parser(html.parser.HTMLParser):
    """Builds the tree, and wants each element to be closed."""

    VOID = ("meta", "img", "br", "rect", "line")

    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs))
        self.open[-1].children.append(element)
        if tag not in self.VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parse(path: Path) -> Element:
    parser = Parser()
    parser.feed(path.read_text(encoding="utf-8"))
    assert len(parser.open) == 1
    return parser.open[0]


def rows_of(output: Path) -> list[Row]:
    return [
        row
        for name, data in read_parts(output).items()
        for row in read_rows(data, Columns(format=name.rpartition(".")[2]))  # type: ignore[arg-type]
    ]


@pytest.fixture
def lively(few: Path, tmp_path: Path) -> Path:
    """Return class folders in which some images lie wrong, and some are none and have hostile names."""
    folder = tmp_path / "lively"
    shutil.copytree(few, folder)
    for digit in range(3):
        shutil.move(min((folder / f"{digit}").iterdir()), folder / f"{digit + 1}" / "moved.png")
    for number, name in enumerate(EVIL):
        (folder / "5" / name).write_bytes(b"" if number else b"no image")
    (folder / "5" / os.fsdecode(NOT_UTF8)).write_bytes(b"")
    return folder


def test_the_numbers_are_those_of_the_rows(tandem: Tandem, run: Run, lively: Path, tmp_path: Path) -> None:
    """Counts, labels, scores, classes, pairs and matrix are what a few lines of Python make of the rows."""
    out = tmp_path / "out"
    run(out, lively)
    assert tandem("batch", "report", out).stdout == f"written to {out}/report.html\n"
    page = parse(out / "report.html")
    rows = rows_of(out)
    sound = [row for row in rows if row.label is not None]
    tiles = {
        each.all("dt")[0].text: each.all("dd")[0].text for each in page.all("dl", **{"class": "tiles"})[0].all("div")
    }
    correct = sum(row.path.split("/")[0] == row.label for row in sound)
    assert (tiles["classified"], tiles["failed"]) == (f"{len(sound)}", f"{len(rows) - len(sound)}") == ("40", "5")
    assert tiles["accuracy"] == f"{correct / len(sound):.2%}"

    labels = Counter(row.label for row in sound)
    assert {row[0]: int(row[1]) for row in page.section("Labels").rows()} == labels
    bins = Counter(min(int((row.score or 0) * 20), 19) * 5 for row in sound)
    assert {int(row[0].partition("%")[0]): int(row[1]) for row in page.section("Scores").rows()} == bins

    pairs = Counter((row.path.split("/")[0], row.label) for row in sound)
    assert len([pair for pair in pairs if pair[0] != pair[1]]) >= 3
    matrix = page.section("Confusion matrix")
    names = [each.text for each in matrix.all("th", scope="col")[1:]]
    assert names == [f"{digit}" for digit in range(10)]
    for truth, *counts in matrix.rows():
        assert [int(count) for count in counts] == [pairs[truth, label] for label in names]
    for label, images, recall, precision in page.section("Classes").rows():
        of_class = sum(count for pair, count in pairs.items() if pair[0] == label)
        assert (int(images), recall) == (of_class, f"{pairs[label, label] / of_class:.1%}")
        assert precision == f"{pairs[label, label] / labels[label]:.1%}"
    confused = {(row[0], row[1]): int(row[2]) for row in page.section("Confused").rows()}
    assert confused == {pair: count for pair, count in pairs.items() if pair[0] != pair[1]}


def test_the_images_are_those_that_are_named(run: Run, lively: Path, tmp_path: Path) -> None:
    """The sheets hold the lowest scores, and the highest ones of what is wrong, in order, with their pictures."""
    out = tmp_path / "out"
    run(out, lively)
    changed = min((lively / "7").iterdir())
    page = parse(write_report(out))
    sound = [row for row in rows_of(out) if row.score is not None]
    least = sorted(sound, key=lambda row: row.score or 0)[:SHOWN_IMAGES]
    wrong = sorted((row for row in sound if row.path.split("/")[0] != row.label), key=lambda row: -(row.score or 0))
    for title, expected in (("Least certain", least), ("Surest mistakes", wrong)):
        figures = page.section(title).all("figure")
        assert [each.all("span", **{"class": "path"})[0].text for each in figures] == [row.path for row in expected]
        for figure, row in zip(figures, expected, strict=True):
            assert f"{row.label} {row.score:.1%}" in figure.text
            [picture] = figure.all("img")
            source = str(picture.attributes["src"])
            shown = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).convert("RGB")
            original = Image.open(lively / row.path).convert("RGB").resize((160, 160), Image.Resampling.BOX)
            assert shown.tobytes() == original.tobytes()  # of 8 × 8 pixels, so a PNG is smaller than a JPEG

    # All 40 would be shown, but for the one that is not what was classified any more.
    changed.write_bytes(b"something else")
    again = parse(write_report(out))
    paths = [each.all("span", **{"class": "path"})[0].text for each in page.section("Least certain").all("figure")]
    gone = str(changed.relative_to(lively)) in paths
    assert len(again.section("Least certain").all("img")) == SHOWN_IMAGES - gone
    shutil.rmtree(lively)
    assert "none of these images could be read again" in parse(write_report(out)).text
    without = parse(write_report(out, tmp_path / "without.html", with_images=False))
    assert without.all("img") == []


def test_nothing_on_the_page_can_do_anything(run: Run, lively: Path, tmp_path: Path) -> None:
    """No name of a file becomes an element, nothing is loaded, nothing runs; what can't be shown is written out."""
    out = tmp_path / '<b onclick="x">&amp;'
    run(out, lively)
    page = parse(write_report(out))
    elements = page.all("*")
    assert {each.tag for each in elements} <= {
        "", "html", "head", "meta", "title", "style", "body", "header", "main", "footer", "section", "div", "span", "p",
        "h1", "h2", "h3", "dl", "dt", "dd", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "figure", "img",
        "figcaption", "details", "summary", "svg", "g", "rect", "line", "text", "code", "br", "strong",
    }  # fmt: skip
    for element in elements:
        assert not any(name.startswith("on") for name in element.attributes)
        for name in ("src", "href", "srcset", "action", "data"):
            assert str(element.attributes.get(name, "data:image/")).startswith("data:image/")
    [policy] = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy.attributes["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert re.search(r"url\(|@import", page.all("style")[0].text) is None
    errors = page.section("Errors").text
    for name in (*EVIL[:3], "back\\u202egnp\\n.png", "\\xff\\xfe not utf-8.png"):
        assert f"5/{name}" in errors
    assert [each.text for each in page.section("Errors").all("h3")] == ["empty 4 images", "not_an_image 1 image"]
    assert str(out) in page.section("The run").text


def test_the_page_is_accessible(run: Run, lively: Path, tmp_path: Path) -> None:
    """It has a language, one main heading, a title, headers on each table, and text for each picture."""
    run(tmp_path / "out", lively)
    page = parse(write_report(tmp_path / "out"))
    assert page.all("html")[0].attributes["lang"] == "en"
    assert page.all("meta", name="viewport")
    assert len(page.all("h1")) == len(page.all("main")) == 1
    assert page.all("title")[0].text == "45 images by digits"
    assert all(picture.attributes["alt"] for picture in page.all("img"))
    assert all(drawing.attributes["aria-label"] for drawing in page.all("svg"))
    for table in page.all("table"):
        head, *rows = table.all("tr")
        assert all(cell.attributes["scope"] == "col" for cell in head.all("th"))
        assert all(row.all("th", scope="row") for row in rows)
    for region in page.all("div", role="region"):
        assert region.attributes["aria-label"]
        assert region.attributes["tabindex"] == "0"  # or who has no mouse can't scroll it


@pytest.mark.parametrize("format", FORMATS)
def test_formats_and_shards(run: Run, few: Path, tmp_path: Path, format: Format) -> None:
    """Each format gives the same page, and so do shards, with a table of them."""
    run(tmp_path / "whole", format=format)
    whole = parse(write_report(tmp_path / "whole"))
    for number in (1, 2):
        run(tmp_path / "out" / f"shard-{number}-of-2", shard=Shard(number=number, count=2), format=format)
    shards = parse(write_report(tmp_path / "out"))
    for title in ("Labels", "Scores", "Least certain", "Classes", "Confusion matrix"):
        assert shards.section(title) == whole.section(title)
    assert len(whole.section("Least certain").all("img")) == SHOWN_IMAGES
    assert ["shard-1-of-2", "done", "22", "22", "0"] in [row[:5] for row in shards.section("The run").rows()]


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "parquet"])
def test_images_out_of_tar_files_and_tables(run: Run, few: Path, tmp_path: Path, kind: str) -> None:
    """Their pictures are found again where the images were found."""
    given = tmp_path / f"images.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"image": [image.read_bytes() for image in sorted(few.rglob("*.png"))]}), given)
    else:
        with tarfile.open(given, "w:gz" if kind == "tar.gz" else "w") as tar:
            tar.add(few, arcname=".")
    run(tmp_path / "out", given)
    page = parse(write_report(tmp_path / "out"))
    assert len(page.section("Least certain").all("img")) == SHOWN_IMAGES
    assert bool([each for each in page.all("h2") if each.text == "Classes"]) == (kind != "parquet")


def test_a_run_that_is_not_finished(run: Run, few: Path, tmp_path: Path) -> None:
    """The page says so first, with how many images it is about."""
    images = tmp_path / "in"
    shutil.copytree(few, images)
    min(images.rglob("*.png")).write_bytes(b"")
    with pytest.raises(TooManyFailures):
        run(tmp_path / "out", images, limits=FailureLimits(failures=0))
    page = parse(write_report(tmp_path / "out"))
    [banner] = page.all("section", role="status")
    assert banner.text.startswith("This run is not finished: it was interrupted. 9 of 40 images have their rows")
    assert page.all("h1")[0].text == "9 of 40 images by digits interrupted"


def test_nothing_to_show(run: Run, tmp_path: Path) -> None:
    """Where every image failed there is still a page."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").touch()
    run(tmp_path / "out", tmp_path / "in")
    page = parse(write_report(tmp_path / "out"))
    assert "No image was classified." in page.section("Labels").text


def test_a_thousand_classes() -> None:
    """Above what a matrix can show, the pairs that are confused most are listed, and the worst classes come first."""
    labels = [f"class {number}" for number in range(1000)]
    seen = Survey(has_truth=True)
    for number, label in enumerate(labels):
        seen.pairs[label, label] = 1000 - number
        seen.pairs[label, labels[number - 1]] = number + 1
        seen.labels[label] += 1000 - number
        seen.labels[labels[number - 1]] += number + 1
    shown = confusion(seen)
    assert shown["matrix"] is None
    assert len(labels) > MATRIX_CLASSES
    assert shown["mistakes"] == [
        ((labels[999 - place], labels[998 - place]), 1000 - place) for place in range(SHOWN_PAIRS)
    ]
    assert [row.label for row in shown["classes"][:3]] == labels[:-4:-1]


def test_a_damaged_output_is_refused(run: Run, tmp_path: Path) -> None:
    """A part or a plan that is not what the run wrote is named, and an older page stays as it was."""
    out = tmp_path / "out"
    run(out)
    before = write_report(out).read_bytes()
    part, plan = out / "parts" / "part-00002.parquet", out / ".batch" / "plan"
    for path, sentence in ((part, "is missing; the same command"), (plan, "can't be read")):
        moved = path.rename(tmp_path / "moved")
        with pytest.raises(OutputError, match=sentence):
            write_report(out)
        path.write_bytes(moved.read_bytes()[:-1])
        with pytest.raises(OutputError, match=r"is not what the run wrote|is not the list"):
            write_report(out)
        moved.rename(path)
    assert (out / "report.html").read_bytes() == before


def test_where_it_is_written(tandem: Tandem, run: Run, tmp_path: Path) -> None:
    """Whole or not at all: on a full disk an older page stays, and nothing is left beside it. It is in no run's way."""
    out = tmp_path / "out"
    run(out / "shard-1-of-1", shard=Shard(number=1, count=1))
    page = write_report(out)
    page.write_text("older")
    limited = f"ulimit -f 8; exec '{TANDEM}' batch report '{out}'"  # blocks of 1 KiB
    done = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, check=False)
    assert (done.returncode, page.read_text()) == (1, "older")
    assert done.stderr.splitlines()[-1].startswith(f"Error: the report '{page}' can't be written (File too large)")
    assert sorted(each.name for each in out.iterdir()) == ["report.html", "shard-1-of-1"]
    tandem("batch", "merge", out)
    assert page.read_text() == "older"
    for wrong in (tmp_path / "missing" / "page.html", tmp_path):
        refused = tandem("batch", "report", out, "--output", wrong, check=False)
        assert refused.returncode in {1, 2}
        assert refused.stderr.splitlines()[-1].startswith("Error: ")
