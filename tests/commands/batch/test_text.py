"""Text from outside, in spreadsheets and on terminals: names that are formulas or hold escape sequences."""

from __future__ import annotations

import csv
import json
import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Tandem

FORMULAS = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "'quoted'", "plain")
HOSTILE = "\x1b]0;owned\x07\x1b[31m\x9b2J\u202e"


@pytest.fixture
def formulas(few: Path, tmp_path: Path) -> Path:
    """Return a folder of images whose names begin as formulas do; one of them is empty."""
    (tmp_path / "in").mkdir()
    for name in FORMULAS:
        shutil.copy(min(few.rglob("*.png")), tmp_path / "in" / f"{name}.png")
    (tmp_path / "in" / "=empty.png").touch()
    return tmp_path / "in"


def paths_in(out: Path) -> list[str]:
    """Return the paths as a spreadsheet has them."""
    rows = []
    for part in sorted((out / "parts").iterdir()):
        with part.open(newline="", encoding="utf-8") as file:
            rows += [row["path"] for row in csv.DictReader(file)]
    return rows


def test_formulas_are_escaped_and_read_back(home: Path, tandem: Tandem, formulas: Path, tmp_path: Path) -> None:
    """What was escaped is the same path in verify, report, a resumed, a retried and a merged run."""
    out = tmp_path / "out"
    command = ("batch", formulas, "--format", "csv", "--escape-formulas", "--chunk-size", "4")
    tandem(*command, "-o", out, check=False)
    # A CR is part of the name, so it comes first, in the order of bytes.
    expected = sorted([*FORMULAS, "=empty"], key=str.encode)
    assert paths_in(out) == [f"{'' if name == 'plain' else chr(39)}{name}.png" for name in expected]
    assert "sound: 9 images" in tandem("batch", "verify", out, "--inputs").stdout
    tandem("batch", "report", out)
    page = (out / "report.html").read_text()
    assert "@SUM(A1).png" in page
    assert "&#39;@SUM(A1).png" not in page

    shutil.copy(formulas / "plain.png", formulas / "=empty.png")
    (out / "parts" / "part-00002.csv").unlink()
    retried = tandem(*command, "-o", out, "--retry-failed")
    assert retried.stdout.startswith("9 images: 9 ok")
    for number in (1, 2):
        tandem(*command, "-o", tmp_path / "shards", "--shard", f"{number}/2")
    tandem("batch", "merge", tmp_path / "shards")
    parts = [
        {part.name: part.read_bytes() for part in (each / "parts").iterdir()} for each in (out, tmp_path / "shards")
    ]
    assert parts[0] == parts[1]


def test_a_run_keeps_its_escaping(home: Path, tandem: Tandem, formulas: Path, tmp_path: Path) -> None:
    """A run is not resumed with another escaping; and only CSV has formulas."""
    command = ("batch", formulas, "-o", tmp_path / "out", "--format", "csv")
    tandem(*command, check=False)
    assert "=1+1.png" in paths_in(tmp_path / "out")
    assert "escape_formulas" not in (tmp_path / "out" / "run.json").read_text()
    refused = tandem(*command, "--escape-formulas", check=False)
    assert (refused.returncode, "escape_formulas was None and is True" in refused.stderr) == (1, True)
    wrong = tandem("batch", formulas, "-o", tmp_path / "other", "--escape-formulas", check=False)
    assert (wrong.returncode, "add --format csv" in wrong.stderr) == (2, True)


def test_no_escape_sequence_reaches_the_terminal(home: Path, tandem: Tandem, few: Path, tmp_path: Path) -> None:
    """Names of images, outputs and parts, and a hostile lock, are printed without control characters everywhere."""
    images, out = tmp_path / f"in{HOSTILE}", tmp_path / f"out{HOSTILE}"
    images.mkdir()
    shutil.copy(min(few.rglob("*.png")), images / f"{HOSTILE}.png")
    (images / f"{HOSTILE}empty.png").touch()
    said = [tandem("batch", images, "-o", out, check=False)]
    said += [tandem("batch", command, out, check=False) for command in ("status", "report", "merge", "verify")]
    fingerprint = out / ".batch" / "fingerprint.json"
    fingerprint.write_text(fingerprint.read_text().replace('"0"', json.dumps(HOSTILE)))
    lock = out / ".batch" / "lock"
    lock.write_text(json.dumps({"pid": 1, "host": f"host{HOSTILE}"}))
    (out / "_SUCCESS").unlink()
    (out / "parts" / f"foreign{HOSTILE}").touch()
    (images / f"{HOSTILE}.png").unlink()
    status = tandem("batch", "status", out, "--json", check=False)
    assert json.loads(status.stdout)["holder"]["host"] == f"host{HOSTILE}"
    said += [tandem("batch", command, out, check=False) for command in ("status", "report", "verify")]
    said += [tandem("batch", "verify", out, "--inputs", check=False), tandem("batch", images, "-o", out, check=False)]
    said.append(tandem("batch", images / f"none{HOSTILE}", "-o", out, check=False))
    for done in (*said, status):
        text = done.stdout + done.stderr
        assert text
        assert not {char for char in text if not char.isprintable()} - {"\n"}, done.args
