"""`kill -9` on the real `tandem batch`, at many instants: the next run ends with the parts of an undisturbed run."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Tandem

ROOT = Path(__file__).resolve().parent.parent.parent
TANDEM = Path(sys.executable).with_name("tandem")
KILLS = int(os.environ.get("TANDEM_TEST_KILLS", "15"))
WITHIN_S = 60
CHUNKS = 80


@pytest.fixture(scope="module")
def images(test_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 4,000 images in class folders, hard links of 30; one in a hundred is truncated."""
    folder = tmp_path_factory.mktemp("kill")
    few = sorted(test_folder.rglob("*.png"))[::10][:30]
    for number in range(4000):
        source = few[number % 30]
        first = folder / "first" / f"{number % 100}-{source.name}"
        if not first.exists():
            first.parent.mkdir(exist_ok=True)
            data = source.read_bytes()
            first.write_bytes(data[:70] if number % 100 == 50 else data)
        target = folder / "images" / source.parent.name / f"{number:04}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(first, target)
    return folder / "images"


def digests(output: Path) -> dict[str, str]:
    """Return the SHA-256 of each part that is visible."""
    return {part.name: sha256(part.read_bytes()).hexdigest() for part in (output / "parts").glob("*")}


def committed(output: Path) -> int:
    """Return how many chunks are committed, without a line that is still being written."""
    try:
        return (output / ".batch" / "commits.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def test_killed_at_random_instants(tandem: Tandem, digits_home: Path, images: Path, tmp_path: Path) -> None:
    """A run killed at random instants, while it plans, infers or commits, shows only complete and correct parts.

    In the end it has a row for each image and the parts of an undisturbed run, byte for byte.
    """
    home = {"TANDEM_HOME": str(digits_home)}
    arguments = ("batch", images, "--chunk-size", str(4000 // CHUNKS), "--output")
    tandem(*arguments, tmp_path / "undisturbed", check=False, env=home)
    expected = digests(tmp_path / "undisturbed")
    assert len(expected) == CHUNKS

    out, seed = tmp_path / "out", random.randrange(2**32)
    print(f"seed {seed}")
    instants = random.Random(seed)
    for _ in range(KILLS):
        # A quarter of the kills hit the start, the others a moment after one to three more chunks.
        until = committed(out) + instants.choice((-CHUNKS, 1, 2, 3))
        process = subprocess.Popen(
            [TANDEM, *arguments, out], env={**os.environ, **home}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        with process:
            deadline = time.monotonic() + WITHIN_S
            while committed(out) < until and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(instants.uniform(0, 1.5 if until < 0 else 0.05))
            process.kill()
        visible = digests(out)
        assert visible.items() <= expected.items()
        assert committed(out) <= len(visible) <= committed(out) + 1
        if len(visible) == CHUNKS:  # a fast machine finished the run: start over
            shutil.rmtree(out)

    assert tandem(*arguments, out, check=False, env=home).returncode == 3
    assert digests(out) == expected
    record = json.loads((out / "run.json").read_bytes())
    assert (record["state"], record["images"], record["failed"]) == ("done", 4000, 40)


def test_killed_at_each_durable_step(tandem: Tandem, digits_home: Path, images: Path, tmp_path: Path) -> None:
    """A run killed right before or after any fsync or rename resumes to the parts of an undisturbed run."""
    home = {"TANDEM_HOME": str(digits_home)}
    arguments = ("batch", images / "3", "--chunk-size", "300")
    tandem(*arguments, "--output", tmp_path / "undisturbed", check=False, env=home)
    expected = digests(tmp_path / "undisturbed")

    killed = tmp_path / "killed"
    killed.mkdir()
    driver = Path(__file__).with_name("killed_batches.py")
    done = subprocess.run(
        [sys.executable, driver, killed, *arguments[1:]],
        cwd=ROOT, env={**os.environ, **home, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    steps = int(done.stdout.splitlines()[-1])
    assert steps >= 40  # before and after at least 20 calls: the start, two chunks, run.json and _SUCCESS
    for step in range(steps):
        assert digests(killed / str(step)) == expected, f"killed at step {step}"
        assert (killed / str(step) / "_SUCCESS").exists()
