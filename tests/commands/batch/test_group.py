"""`tandem batch` as a run and as a group, and the options that are more than a field of the job."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest

from commands.batch.group import COMMANDS
from tests.batch.conftest import read_parts

if TYPE_CHECKING:
    from tests.conftest import Tandem

TANDEM = Path(sys.executable).with_name("tandem")


def test_a_folder_named_like_a_command(tandem: Tandem, home: Path, few: Path, tmp_path: Path) -> None:
    """The name of a command is the command; a folder of that name is written with ./ before it."""
    for name in COMMANDS:
        (tmp_path / name).symlink_to(few)
        help_text = tandem("batch", name, "--help", cwd=tmp_path).stdout
        assert help_text.startswith(f"Usage: tandem batch {name} ")
        assert "\n  Example:" in help_text
        done = tandem("batch", f"./{name}", "-o", f"out-{name}", cwd=tmp_path)
        assert done.stdout.startswith("40 images: 40 ok")


@pytest.mark.parametrize(("typed", "meant"), [("stats", "status"), ("verfy", "verify"), ("reports", "report")])
def test_a_mistyped_command(tandem: Tandem, tmp_path: Path, typed: str, meant: str) -> None:
    """What is no file and looks like a command is asked about; a folder of that name is an INPUT like any other."""
    asked = tandem("batch", typed, "out", cwd=tmp_path, check=False)
    assert asked.returncode == 2
    assert asked.stderr.splitlines()[-1] == (
        f"Error: '{typed}' is neither a file nor a folder; did you mean 'tandem batch {meant}'?"
    )
    (tmp_path / typed).mkdir()
    taken = tandem("batch", typed, "-o", "out", cwd=tmp_path, check=False)
    assert f"no image in '{typed}'" in taken.stderr
    for other in ("photos", "s3://bucket/status"):
        assert "did you mean" not in tandem("batch", other, "out", cwd=tmp_path, check=False).stderr


def test_the_help_lists_the_commands(tandem: Tandem) -> None:
    """`tandem batch --help` shows the run's own usage and options, and the commands beside it."""
    text = tandem("batch", "--help").stdout
    assert text.startswith("Usage: tandem batch [OPTIONS] [INPUT]...\n")
    assert "--max-failures" in text
    for name, (_, what) in COMMANDS.items():
        assert f"  {name}" in text
        assert what in text


def test_options_come_before_or_after_the_input(home: Path, tandem: Tandem, few: Path, tmp_path: Path) -> None:
    """As in any command, options and INPUTs stand in any order."""
    for number, arguments in enumerate(([few, "--top-k", "2"], ["--top-k", "2", few])):
        tandem("batch", *arguments, "-o", tmp_path / f"{number}")
    assert read_parts(tmp_path / "0") == read_parts(tmp_path / "1")


def test_a_list_on_standard_input(home: Path, few: Path, tmp_path: Path) -> None:
    """What `find -print0` writes is read from standard input; the run resumes without it."""
    images = sorted(few.rglob("*.png"))[:5]
    command = [TANDEM, "batch", "--files-from", "-", "-0", "-o", tmp_path / "out"]
    listed = b"\0".join(bytes(image) for image in images)
    for given in (listed, b""):
        done = subprocess.run(command, input=given, capture_output=True, check=True)
        assert done.stdout.startswith(b"5 images: 5 ok")
    assert pl.read_parquet(tmp_path / "out" / "parts")["path"].to_list() == [str(image) for image in images]


def test_a_list_is_resumed_where_it_was_begun(home: Path, tandem: Tandem, few: Path, tmp_path: Path) -> None:
    """The paths of a list are below the folder that the command was given in; from another one they are other files."""
    (tmp_path / "list").write_text("".join(f"{image.relative_to(few)}\n" for image in sorted(few.rglob("*.png"))))
    arguments = ("batch", "--files-from", tmp_path / "list", "-o", tmp_path / "out")
    tandem(*arguments, cwd=few)
    before = read_parts(tmp_path / "out")
    (tmp_path / "out" / "parts" / "part-00000.parquet").unlink()
    elsewhere = tandem(*arguments, cwd=tmp_path, check=False)
    assert elsewhere.returncode == 1
    assert f"plan.inputs was 'in {few}: " in elsewhere.stderr
    assert f"and is 'in {tmp_path}" in elsewhere.stderr
    tandem(*arguments, cwd=few)
    assert read_parts(tmp_path / "out") == before


def test_one_image(home: Path, tandem: Tandem, few: Path, tmp_path: Path) -> None:
    """Of one image, and of the one part that it is in, each command speaks in the singular."""
    (tmp_path / "in").mkdir()
    shutil.copy(min(few.rglob("*.png")), tmp_path / "in")
    runs = [tandem("batch", tmp_path / "in", "-o", tmp_path / "out")]
    runs += [tandem("batch", command, tmp_path / "out") for command in ("status", "verify", "report")]
    said = "".join(done.stdout + done.stderr for done in runs)
    assert said.count("1 image") >= 4
    page = re.sub("<[^>]*>", "", (tmp_path / "out" / "report.html").read_text())
    assert re.findall(r"\b1 [a-z]+s\b(?!/s)", said + page) == []


def test_too_many_failures_have_an_exit_code(home: Path, tandem: Tandem, tmp_path: Path) -> None:
    """A run that is stopped by its limit ends with 4, says what to do, and with --retry-failed ends the rest."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").touch()
    stopped = tandem("batch", tmp_path / "in", "-o", tmp_path / "out", "--max-failures", "0", check=False)
    assert stopped.returncode == 4
    assert stopped.stderr.splitlines()[-1] == (
        "Error: 1 image failed, over --max-failures 0; the rows say why: put it right and add --retry-failed, "
        "or resume with a higher limit"
    )
    again = tandem("batch", tmp_path / "in", "-o", tmp_path / "out", "--retry-failed", check=False)
    assert again.returncode == 3


def test_log_lines_are_json_without_a_terminal(home: Path, tandem: Tandem, few: Path, tmp_path: Path) -> None:
    """Where standard error is no terminal, each line of it is a JSON object."""
    done = tandem("batch", few, "-o", tmp_path / "out")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["message"] for line in lines][-1] == (
        "planned 40 images, of 40 entries seen; classifying 40 images in 1 chunk"
    )
    assert {line["level"] for line in lines} == {"info"}


def test_the_shards_of_an_indexed_job(home: Path, tandem: Tandem, few: Path, tmp_path: Path) -> None:
    """Pods of an Indexed Job run their shards by the environment alone; merged they are the run of one process."""
    common = ("batch", few, "--chunk-size", "9", "-o")
    for index in range(2):
        pod = {"JOB_COMPLETION_INDEX": f"{index}", "JOB_COMPLETION_COUNT": "2"}
        early = tandem("batch", "merge", tmp_path / "out", check=False)
        assert (early.returncode, early.stderr.startswith("Error: ")) == (1, True)
        tandem(*common, tmp_path / "out", env=pod)
    assert tandem("batch", "merge", tmp_path / "out").stdout.startswith("40 images: 40 ok")
    tandem(*common, tmp_path / "alone")
    assert read_parts(tmp_path / "out") == read_parts(tmp_path / "alone")


@pytest.mark.parametrize("arguments", [["--shard", "0/3"], ["--shard", "x"], ["--max-failure-rate", "2"]], ids=str)
def test_wrong_options(tandem: Tandem, few: Path, tmp_path: Path, arguments: list[str]) -> None:
    """A value that makes no sense is a usage error, and nothing is written."""
    done = tandem("batch", few, "-o", tmp_path / "out", *arguments, check=False)
    assert done.returncode == 2
    assert "Error: Invalid value for '--" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_runner_that_is_not_installed(home: Path, few: Path, tmp_path: Path) -> None:
    """Without Ray, `--runner ray` says how it is installed, and writes nothing."""
    without_ray = "import sys; sys.modules['ray'] = None; from tandem import main; main()"
    command = [sys.executable, "-P", "-c", without_ray, "batch", few, "-o", tmp_path / "out", "--runner", "ray"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        "needs Ray, which is not installed: pip install -e '.[ray]' in the clone of Tandem"
    )
    assert not (tmp_path / "out").exists()
