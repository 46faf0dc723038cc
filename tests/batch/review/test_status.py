"""`tandem batch status`, asked of real runs: while they work, after `kill -9`, stopped, and done."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from batch.inputs.shards import Shard
from batch.review.results import open_results
from batch.run.lock import open_run_folder
from batch.run.stopping import FailureLimits
from classifier.errors import OutputError, TooManyFailures
from classifier.wording import duration
from tests.conftest import TANDEM

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.batch.conftest import Run
    from tests.conftest import Tandem

WITHIN_S = 60
COMMANDS = ("status", "verify", "report")


@pytest.fixture
def many(few: Path, tmp_path: Path) -> Path:
    """Return 4,000 hard links of the images in their class folders: enough to be met at work."""
    folder = tmp_path / "many"
    for image in few.rglob("*.png"):
        (folder / image.parent.name).mkdir(parents=True, exist_ok=True)
        for number in range(100):
            os.link(image, folder / image.parent.name / f"{number}-{image.name}")
    return folder


def status(tandem: Tandem, output: Path, code: int) -> dict[str, Any]:
    done = tandem("batch", "status", output, "--json", check=False)
    assert done.returncode == code, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_run_that_works_is_killed_and_is_done(
    tandem: Tandem, digits_home: Path, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each moment the state, the counts and the exit code are the true ones, and the process is named."""
    monkeypatch.setenv("TANDEM_HOME", str(digits_home))
    out = tmp_path / "out"
    commits = out / ".batch" / "commits.jsonl"
    command = (TANDEM, "batch", str(many), "-o", str(out), "--chunk-size", "100", "--batch-size", "1")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: commits.exists() and commits.read_bytes().count(b"\n") >= 2)
        os.kill(process.pid, signal.SIGSTOP)  # so that what is compared stands still
        working = status(tandem, out, 5)
        text = tandem("batch", "status", out, check=False).stdout
        assert tandem("batch", "verify", out, check=False).stderr.startswith(f"Error: a run into '{out}' is under way")
        os.kill(process.pid, signal.SIGKILL)
    committed = 100 * commits.read_bytes().count(b"\n")
    assert (working["state"], working["images"], working["total"]) == ("running", committed, 4000)
    assert working["holder"] == {"pid": process.pid, "host": platform.node()}
    assert working["images_per_s"] > 0
    assert working["left_s"] == pytest.approx((4000 - committed) / working["images_per_s"])
    assert text.startswith(f"running: {committed:,} of 4,000 images (")
    assert f"process {process.pid} on " in text
    killed = status(tandem, out, 6)
    assert (killed["state"], killed["images"], killed["left_s"]) == ("killed", committed, None)
    assert "the same command resumes it" in tandem("batch", "status", out, check=False).stdout
    tandem(*command[1:])
    done = status(tandem, out, 0)
    assert (done["state"], done["images"], done["ok"], done["attempts"]) == ("done", 4000, 4000, 2)
    assert done["images_per_s"] == json.loads((out / "run.json").read_text())["attempts"][-1]["images_per_s"]


def test_while_the_images_are_listed(tandem: Tandem, digits_home: Path, few: Path, tmp_path: Path) -> None:
    """A run that waits for its list has planned nothing yet, and is running."""
    out = tmp_path / "out"
    command = (TANDEM, "batch", "--files-from", "-", "-o", str(out))
    environment = {**os.environ, "TANDEM_HOME": str(digits_home)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as process:
        assert process.stdin is not None
        wait_for((out / ".batch" / "plan").exists)
        assert status(tandem, out, 5)["state"] == "planning"
        assert f"process {process.pid} on" in tandem("batch", "status", out, check=False).stdout
        process.stdin.write(bytes(next(few.rglob("*.png"))) + b"\n")
        process.stdin.close()
        assert process.wait(WITHIN_S) == 0
    assert status(tandem, out, 0)["images"] == 1


def test_failed_and_stopped(tandem: Tandem, run: Run, few: Path, tmp_path: Path) -> None:
    """A run that a limit stopped says so, and by reason what failed; done with failed images has its own exit code."""
    images, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(few, images)
    for image in list(images.rglob("*.png"))[:3]:
        image.write_bytes(b"")
    with pytest.raises(TooManyFailures):
        run(out, images, limits=FailureLimits(failures=0))
    stopped = status(tandem, out, 6)
    assert stopped["state"] == "interrupted"
    assert stopped["images"] < stopped["total"] == 40
    run(out, images)
    done = status(tandem, out, 3)
    assert (done["images"], done["ok"], done["errors"]) == (40, 37, {"empty": 3})
    assert tandem("batch", "status", out, check=False).stdout.startswith("done: 40 of 40 images, 3 failed (empty 3)\n")


def test_shards_each_and_together(tandem: Tandem, run: Run, tmp_path: Path) -> None:
    """A line for each shard, those that have not begun too; done when all are; merged, it is one run."""
    out = tmp_path / "out"
    for number in (1, 3):
        run(out / f"shard-{number}-of-3", shard=Shard(number=number, count=3))
    some = status(tandem, out, 6)
    assert [(each["state"], each["images"], each["total"]) for each in some["shards"]] == [
        ("done", 18, 18), ("not begun", 0, 13), ("done", 9, 9),
    ]  # fmt: skip
    assert (some["images"], some["total"]) == (27, 40)
    lines = tandem("batch", "status", out, check=False).stdout.splitlines()
    assert lines[0] == "interrupted: 27 of 40 images (67.5%), 0 failed"
    assert "  not begun: 1 shard" in lines
    assert lines[-2].split()[:4] == ["2-of-3", "not", "begun", "0"]
    assert status(tandem, out / "shard-3-of-3", 0)["images"] == 9
    run(out / "shard-2-of-3", shard=Shard(number=2, count=3))
    assert "'tandem batch merge' joins the shards" in tandem("batch", "status", out).stdout
    tandem("batch", "merge", out)
    merged = status(tandem, out, 0)
    assert (merged["images"], merged["attempts"], merged["shards"]) == (40, 3, [])


@pytest.mark.parametrize("command", COMMANDS)
def test_what_holds_no_run(tandem: Tandem, few: Path, tmp_path: Path, command: str) -> None:
    """An OUT that is missing, or is something else, is one sentence and exit code 1; nothing is written."""
    for output, sentence in ((tmp_path / "missing", "No such file or directory"), (few, "holds no run")):
        done = tandem("batch", command, output, check=False)
        assert done.returncode == 1
        assert re.fullmatch(f"Error: .*{sentence}.*\n", done.stderr)
    assert not list(few.glob("*.html"))


def test_what_no_run_left_like_this(run: Run, few: Path, tmp_path: Path) -> None:
    """Whatever is wrong with an OUT is a sentence that names it, before a row is read."""

    def refused(output: Path, sentence: str) -> None:
        with pytest.raises(OutputError, match=sentence):
            open_results(output)

    refused(min(few.rglob("*.png")), "Not a directory")
    out = tmp_path / "out"
    run(out)
    for shard in ("shard-1-of-2", "shard-1-of-3"):
        shutil.copytree(out, tmp_path / "two" / shard)
    refused(tmp_path / "two", "holds shards of 2 and of 3")
    fingerprint = out / ".batch" / "fingerprint.json"
    sound = fingerprint.read_text()
    fingerprint.write_text(sound.replace('"schema_version": 1', '"schema_version": 0'))
    refused(out, "wrote rows of schema version 0, and this Tandem reads version 1")
    fingerprint.write_text(sound[:100])
    refused(out, "is not a fingerprint that this Tandem can read")
    fingerprint.write_text(sound)
    commits = out / ".batch" / "commits.jsonl"
    commits.write_bytes(b"{}\n")
    refused(out, "is damaged")
    commits.unlink()
    refused(out, r"can't be read \(No such file or directory\)")


def test_shards_of_different_runs(run: Run, few: Path, tmp_path: Path) -> None:
    """Shards of other images are no part of the same run, and what differs is named."""
    out = tmp_path / "out"
    run(out / "shard-1-of-2", shard=Shard(number=1, count=2))
    run(out / "shard-2-of-2", few / "3", shard=Shard(number=2, count=2))
    with pytest.raises(OutputError, match=r"are of different runs: .*plan\.inputs was"):
        open_results(out)


def test_asking_does_not_get_in_a_runs_way(tmp_path: Path) -> None:
    """A look at the lock, which takes it for an instant, is no other run; a run that holds it is."""
    with open_run_folder(tmp_path / "out") as folder:
        (tmp_path / "lock").touch()
        with pytest.raises(OutputError, match="another process is running"), open_run_folder(folder.path):
            pass
    (tmp_path / "out" / ".batch").mkdir(parents=True)
    with (tmp_path / "out" / ".batch" / "lock").open("w") as looked_at:
        fcntl.flock(looked_at, fcntl.LOCK_SH)
        threading.Timer(0.03, fcntl.flock, (looked_at, fcntl.LOCK_UN)).start()
        with open_run_folder(tmp_path / "out"):
            pass


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (60, "1 min 0 s"), (3_725, "1 h 2 min"), (90_000, "1 d 1 h"), (9e6, "104 d 4 h")],
)
def test_times_are_readable(seconds: float, text: str) -> None:
    """A time is told in its two largest units."""
    assert duration(seconds) == text
