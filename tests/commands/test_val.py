"""`tandem val`: its numbers are those of a bulk run on the same images."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from commands.exit_codes import FAILED_IMAGES
from tests.commands.measured import add_relabelled

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Tandem


@pytest.fixture
def images(test_folder: Path, tmp_path: Path) -> Path:
    """Return a copy of the test images that a test may change."""
    return shutil.copytree(test_folder, tmp_path / "images")


def val(tandem: Tandem, folder: Path, *args: str | Path, code: int = 0) -> tuple[Any, str]:
    """Return the JSON of `tandem val digits FOLDER …` and what the command printed."""
    file = folder.with_name("val.json")
    done = tandem("val", "digits", folder, *args, "--json", file, check=False)
    assert done.returncode == code, done.stderr
    return json.loads(file.read_bytes()), done.stdout


@pytest.mark.usefixtures("home")
def test_numbers_are_those_of_a_bulk_run(tandem: Tandem, images: Path, tmp_path: Path) -> None:
    """The confusion matrix, acc1, acc5 and the scores of the mistakes equal what the rows of `tandem batch` say."""
    result, printed = val(tandem, images)
    tandem("batch", images, "--model", "digits", "--output", tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / "parts").to_pylist()
    pairs = Counter((row["path"].partition("/")[0], row["label"]) for row in rows)
    assert {(truth, given): n for truth, row in result["confusion"].items() for given, n in row.items()} == pairs
    record = json.loads((tmp_path / "out" / "run.json").read_bytes())
    right = sum(count for (truth, given), count in pairs.items() if truth == given)
    assert (result["correct"], result["images"]) == (right, len(rows))
    assert result["acc1"] == pytest.approx(right / len(rows), abs=1e-6)
    top5 = sum(row["path"].partition("/")[0] in {each["label"] for each in row["top_k"]} for row in rows)
    assert result["acc5"] == pytest.approx(top5 / len(rows), abs=1e-6)
    wrong = {row["path"]: row["score"] for row in rows if row["path"].partition("/")[0] != row["label"]}
    assert {each["path"]: each["score"] for each in result["worst"]} == wrong
    assert result["model"] == record["run"]["model"]
    assert result["engine"] == record["run"]["engine"]
    assert printed.splitlines()[-1].startswith(f"{len(rows)} images: acc1 {right / len(rows):.2%} ({right} right)")
    assert re.search(r"^CLASS +IMAGES +PRECISION +RECALL +F1$", printed, re.MULTILINE)


@pytest.mark.usefixtures("home")
def test_a_bad_image_is_named_and_not_counted(tandem: Tandem, images: Path, tmp_path: Path) -> None:
    """Images that can't be read are in no number; each is named with its reason, and the exit code is 3."""
    (images / "3" / "empty.png").touch()
    (images / "3" / "text.png").write_text("not an image")
    report = tmp_path / "val.html"
    result, printed = val(tandem, images, "--report", report, code=FAILED_IMAGES)
    assert {each["path"]: each["reason"] for each in result["failed"]} == {
        "3/empty.png": "empty",
        "3/text.png": "not_an_image",
    }
    assert result["images"] == result["data"]["images"] - 2
    assert "\nfailed: 3/empty.png: empty: " in printed
    page = report.read_text()
    assert "3/text.png" in page
    assert "<script" not in page
    assert page.count('<img src="data:image/') == len(result["worst"]) > 0


@pytest.mark.usefixtures("home")
def test_the_digest_of_the_data(tandem: Tandem, images: Path, tmp_path: Path) -> None:
    """It stays the same if the folder moves, and changes with the contents and the name of an image."""
    before = val(tandem, images)[0]["data"]["digest"]
    moved = images.rename(tmp_path / "moved")
    assert val(tandem, moved)[0]["data"]["digest"] == before
    first, second, *_ = sorted((moved / "3").iterdir())
    first.rename(first.with_name("renamed.png"))
    renamed = val(tandem, moved)[0]["data"]["digest"]
    second.write_bytes((moved / "3" / "renamed.png").read_bytes())
    assert len({before, renamed, val(tandem, moved)[0]["data"]["digest"]}) == 3


@pytest.mark.usefixtures("home")
def test_some_labels_are_enough(tandem: Tandem, images: Path) -> None:
    """Labels without a folder are counted in the summary and have no recall."""
    for digit in "23456789":
        shutil.rmtree(images / digit)
    result, printed = val(tandem, images)
    assert "\nno images of 8 labels of the model\n" in printed
    assert [each["recall"] is None for each in result["per_class"]] == [False, False, *[True] * 8]


def test_labels_that_the_model_lacks(tandem: Tandem, tandem_home: Path, test_folder: Path) -> None:
    """A folder whose name is not a label of the model ends the command with one sentence and exit code 1."""
    add_relabelled(tandem_home, "words", {"3": "three"})
    done = tandem("val", "words", test_folder, check=False)
    assert done.returncode == 1
    assert re.search(
        r"Error: 1 folder in '.*test' is not named like a label of words@sha256:\w+: 3; the model's labels are "
        r"0, 1, 2, three, 4 and 5 more; rename or remove the folders",
        done.stderr,
    )


@pytest.mark.usefixtures("home")
def test_what_can_not_be_measured(tandem: Tandem, tmp_path: Path) -> None:
    """No image, no readable image and a file in an unknown place end with one sentence, and nothing is written."""
    folder = tmp_path / "images"
    (folder / "3").mkdir(parents=True)
    for args, sentence in (
        ([], "Error: no image in "),
        (["--json", tmp_path / "gone" / "val.json"], "val.json' can't be written: its folder is missing or read-only"),
        (["--json", tmp_path / "same", "--report", tmp_path / "same"], "same' can't hold two results; name a file"),
    ):
        done = tandem("val", "digits", folder, *args, check=False)
        assert (done.returncode, sentence in done.stderr) == (1, True), done.stderr
    (folder / "3" / "bad.png").write_text("not an image")
    done = tandem("val", "digits", folder, "--json", tmp_path / "val.json", check=False)
    assert done.returncode == 1
    assert "none of the images in" in done.stderr
    assert "so nothing was measured; the first, '3/bad.png': " in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["images"]
