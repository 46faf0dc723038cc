"""`tandem compare`: two models on the same images, and a gate for releases."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from commands.exit_codes import FAILED_IMAGES, MAYBE_WORSE
from tests.commands.measured import add_relabelled

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.conftest import Tandem


@pytest.fixture
def swapped(tandem_home: Path) -> str:
    """Return a model that takes threes for fives and fives for threes."""
    add_relabelled(tandem_home, "swapped", {"3": "5", "5": "3"})
    return "swapped"


def compare(tandem: Tandem, *args: str | Path) -> subprocess.CompletedProcess[str]:
    done = tandem("compare", *args, check=False)
    assert "Traceback" not in done.stderr
    return done


def last(done: Any) -> str:
    return str(done.stdout.splitlines()[-1])


def test_a_worse_model(tandem: Tandem, swapped: str, test_folder: Path, tmp_path: Path) -> None:
    """What changed is counted, listed and shown; the result names both digests; the gate ends with exit code 8."""
    file, report = tmp_path / "compare.json", tmp_path / "compare.html"
    done = compare(
        tandem, "digits", swapped, test_folder, "--fail-if-worse", "0.05", "--json", file, "--report", report
    )
    assert done.returncode == MAYBE_WORSE, done.stderr
    result = json.loads(file.read_bytes())
    tandem("val", "digits", test_folder, "--json", tmp_path / "val.json")
    alone = json.loads((tmp_path / "val.json").read_bytes())
    assert (result["a"]["acc1"], result["a"]["digest"]) == (alone["acc1"], alone["digest"])
    assert result["data"] == alone["data"]
    assert result["a"]["digest"] != result["b"]["digest"]
    lost = sum(alone["confusion"][digit][digit] for digit in "35")
    assert (result["a_only"], result["b_only"], result["verdict"], result["passed"]) == (lost, 0, "worse", False)
    assert result["low"] < result["difference"] < result["high"] < -0.05
    assert {each["label"] for each in result["per_class"] if each["a_only"]} == {"3", "5"}
    assert all(each["a"]["label"] != each["b"]["label"] for each in result["differences"])
    page = report.read_text()
    assert "B is worse than A" in page
    assert f"{lost} images, the first 48." in page
    assert "<script" not in page
    assert page.count('<img src="data:image/') >= 48
    assert re.search(r"^3 +37 +\S+ +0.00%", done.stdout, re.MULTILINE)
    assert "NOT passed: the lower end, -" in done.stdout
    assert last(done) == "B is worse than A"


def test_a_better_model_passes(tandem: Tandem, swapped: str, test_folder: Path) -> None:
    """The same two the other way round: B is better, even without a margin."""
    done = compare(tandem, swapped, "digits", test_folder, "--fail-if-worse", "0")
    assert done.returncode == 0, done.stderr
    assert last(done) == "B is better than A"


@pytest.mark.usefixtures("tandem_home")
def test_a_model_beside_itself(tandem: Tandem, test_folder: Path) -> None:
    """Nothing differs, which 359 images show up to 1.06 points: a margin of half a point is not shown by them."""
    for margin, code in (("0.02", 0), ("0.005", MAYBE_WORSE)):
        done = compare(tandem, "digits", "digits:1", test_folder, "--fail-if-worse", margin)
        assert done.returncode == code, done.stderr
        assert "359 images, 0 with different labels: only A is right on 0, only B on 0" in done.stdout
        assert "B − A: +0.00 points of acc1, 95 % interval -1.06 to +1.06, p = 1" in done.stdout
        assert last(done) == "no difference is shown"


def test_bad_images(tandem: Tandem, swapped: str, test_folder: Path, tmp_path: Path) -> None:
    """An image that neither model can classify is named and not compared; the exit code is 3."""
    images = shutil.copytree(test_folder, tmp_path / "images")
    (images / "3" / "empty.png").touch()
    done = compare(tandem, "digits", swapped, images)
    assert done.returncode == FAILED_IMAGES
    assert done.stdout.count("failed: 3/empty.png: empty: ") == 1
    assert "\n359 images, " in done.stdout


def test_what_can_not_be_compared(tandem: Tandem, tandem_home: Path, test_folder: Path, tmp_path: Path) -> None:
    """Models with other labels, an unknown model and a wrong margin end with one sentence."""
    add_relabelled(tandem_home, "words", {"3": "three"})
    (empty := tmp_path / "empty").mkdir()
    for args, code, sentence in (
        (("digits", "words", test_folder), 1, r"have different labels \(digits@\S+ has '3', words@\S+ lacks it\)"),
        (("digits", "gone", test_folder), 1, "gone"),
        (("digits", "digits", empty), 1, "no image in "),
        (("digits", "digits", test_folder, "--fail-if-worse", "nan"), 2, "'nan' is not a number"),
        (("digits", "digits", test_folder, "--fail-if-worse", "2"), 2, "is not in the range"),
    ):
        done = compare(tandem, *args)
        assert done.returncode == code, done.stderr
        assert re.search(sentence, done.stderr), done.stderr
