"""What no run should have to bear, and does. `nox -s torture` runs all of it; the test suite a short form of each."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from batch.inputs.selection import Selection
from batch.pipeline.forks import MAX_MEMORY_BYTES
from batch.run.stopping import FailureLimits
from classifier.errors import OutputError, TooManyFailures
from tests.batch.conftest import mounted, read_parts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.batch.conftest import Run

IS_WHOLE = os.environ.get("TANDEM_TEST_TORTURE") == "1"
KILLS = 200 if IS_WHOLE else 5
ROUNDS, IMAGES, LONGEST_WAIT_S = (25, 3_000, 0.3) if IS_WHOLE else (1, 1_000, 0.05)
"""How often an output is replaced, a tar file rewritten, a disk lost; under how long a run, and how far into it."""
MUTANTS = 10_000 if IS_WHOLE else 400
FILES = (10_000, 1_000_000) if IS_WHOLE else (2_000, 20_000)
MAX_GROWTH_BYTES = 100 << 20
MAX_IMAGE_S, MAX_IMAGE_BYTES = 5, MAX_MEMORY_BYTES + (100 << 20)
SEED = 20_261_120

TANDEM = Path(sys.executable).with_name("tandem")
pytestmark = pytest.mark.timeout(7200 if IS_WHOLE else 300)


def link_many(images: list[Path], folder: Path, number: int) -> Path:
    """Return a folder of hard links of the images."""
    folder.mkdir()
    for each in range(number):
        os.link(images[each % len(images)], folder / f"{each:07}.png")
    return folder


def test_killed_at_any_instant(tmp_path: Path, few: Path, digits_home: Path) -> None:
    """Killed over and over at random instants, inside commits too, a run ends with the parts of an undisturbed one."""
    many = link_many(sorted(few.rglob("*.png")), tmp_path / "many", 3_000)
    command = [TANDEM, "batch", many, "--chunk-size", "10", "--batch-size", "10"]
    environment = {**os.environ, "TANDEM_HOME": str(digits_home)}

    def start(out: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*command, "-o", out], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    assert start(tmp_path / "undisturbed").wait() == 0
    expected = read_parts(tmp_path / "undisturbed")
    dice = random.Random(SEED)
    killed = in_commit = runs = 0
    while killed < KILLS:
        runs += 1
        out = tmp_path / f"out-{runs}"
        while not (out / "_SUCCESS").exists():
            process = start(out)
            lines = _commits(out)
            # From the first new commit on: what comes before it is the start of a process, which writes nothing.
            while process.poll() is None and _commits(out) == lines:
                time.sleep(0.001)
            time.sleep(dice.random() * 0.3)
            is_alive = process.poll() is None
            process.kill()
            killed += is_alive
            process.wait()
            in_commit += is_alive and (out / ".batch" / "aside").exists()
            if killed >= KILLS:
                break
        assert start(out).wait() == 0
        assert read_parts(out) == expected
    assert not IS_WHOLE or in_commit > 0


def _commits(out: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return (out / ".batch" / "commits.jsonl").stat().st_size
    return 0


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Starts real runs over one input, in small chunks."""

    home: Path

    def start(self, images: Path, out: Path, *options: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [TANDEM, "batch", images, "-o", out, "--chunk-size", "10", "--batch-size", "10", *options],
            env={**os.environ, "TANDEM_HOME": str(self.home)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def finish(self, images: Path, out: Path, *options: str) -> dict[str, bytes]:
        """Run to the end, and return the parts."""
        process = self.start(images, out, *options)
        _, said = process.communicate()
        assert process.returncode == 0, said
        return read_parts(out)


@pytest.fixture
def batches(digits_home: Path) -> Batches:
    return Batches(home=digits_home)


def wait_within_the_run(process: subprocess.Popen[str], out: Path, dice: random.Random) -> None:
    """Wait for the first commit of a process, and a random moment more."""
    lines = _commits(out)
    while process.poll() is None and _commits(out) == lines:
        time.sleep(0.001)
    time.sleep(dice.random() * LONGEST_WAIT_S)


def last_sentence(process: subprocess.Popen[str]) -> str:
    """Wait for the end of a process, and return the last line that it said; there is no traceback before it."""
    _, said = process.communicate()
    assert "Traceback" not in said
    return said.splitlines()[-1]


def test_an_output_that_is_replaced(tmp_path: Path, few: Path, batches: Batches) -> None:
    """If an output is removed under a run and another one begins there, the first ends, and the second has its rows."""
    many = link_many(sorted(few.rglob("*.png")), tmp_path / "many", IMAGES)
    expected = batches.finish(many, tmp_path / "undisturbed", "--precision", "int8")
    dice = random.Random(SEED)
    out, stopped = tmp_path / "out", 0
    for _ in range(ROUNDS):
        first = batches.start(many, out, "--precision", "fp32")
        wait_within_the_run(first, out, dice)
        while out.exists():
            subprocess.run(["rm", "-rf", out], stderr=subprocess.DEVNULL, check=False)
        assert batches.finish(many, out, "--precision", "int8") == expected
        sentence = last_sentence(first)
        stopped += first.returncode == 1 and "was removed or replaced while this process wrote into it" in sentence
        assert first.returncode in {0, 1}
        assert read_parts(out) == expected
        subprocess.run(["rm", "-r", out], check=True)
    assert stopped > 0


def write_tar(path: Path, images: list[bytes]) -> dict[str, str]:
    """Write a tar file of these images, and return the SHA-256 of each by its name."""
    with tarfile.open(path, "w") as tar:
        for number, data in enumerate(images):
            member = tarfile.TarInfo(f"{number:05}.png")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return {f"{number:05}.png": hashlib.sha256(data).hexdigest() for number, data in enumerate(images)}


@pytest.mark.parametrize("way", ["renamed over", "written in place"])
@pytest.mark.parametrize("when", ["between kill and resume", "under the run"])
def test_a_tar_file_that_is_rewritten(tmp_path: Path, few: Path, batches: Batches, when: str, way: str) -> None:
    """No row has another member's pixels: the run stops and names the file, and ends as ever once that is back."""
    images = [image.read_bytes() for image in sorted(few.rglob("*.png"))] * (IMAGES // 40)
    tar, other = tmp_path / "shard.tar", tmp_path / "other.tar"
    truth = write_tar(tar, images)
    write_tar(other, images[::-1])
    shutil.copy2(tar, tmp_path / "old.tar")
    expected = batches.finish(tar, tmp_path / "undisturbed")
    dice, stopped = random.Random(SEED), 0
    for round in range(ROUNDS):
        out = tmp_path / f"out-{round}"
        run = batches.start(tar, out)
        wait_within_the_run(run, out, dice)
        if when == "between kill and resume":
            run.kill()
            run.communicate()
        if way == "renamed over":
            shutil.copy(other, tmp_path / "new.tar")
            (tmp_path / "new.tar").rename(tar)
        else:
            shutil.copyfile(other, tar)
        if when == "between kill and resume":
            run = batches.start(tar, out)
        sentence = last_sentence(run)
        if not (out / "_SUCCESS").exists():
            assert run.returncode == 1
            assert f"the tar file '{tar}' " in sentence
            stopped += 1
        rows = pq.read_table(out / "parts", columns=["path", "sha256"]).to_pylist()
        assert {row["path"]: row["sha256"] for row in rows}.items() <= truth.items()
        shutil.copy2(tmp_path / "old.tar", tar)
        assert batches.finish(tar, out) == expected
    assert stopped > 0


@pytest.mark.parametrize("when", ["between kill and resume", "under the run"])
def test_a_disk_that_is_lost(tmp_path: Path, few: Path, batches: Batches, when: str) -> None:
    """A disk below the input that goes away stops the run; no image is missing. Once it is back, all ends as ever."""
    images = sorted(few.rglob("*.png"))
    many = link_many(images, tmp_path / "many", IMAGES // 4)
    place = many / "5-disk"
    place.mkdir()
    dice, stopped = random.Random(SEED), 0
    with mounted(tmp_path / "disk", "64m") as disk:
        for number in range(IMAGES):
            shutil.copy(images[number % len(images)], disk / f"{number:05}.png")
        subprocess.run(["mount", "--bind", disk, place], check=True)
        try:
            expected = batches.finish(many, tmp_path / "undisturbed")
            for round in range(ROUNDS):
                out = tmp_path / f"out-{round}"
                run = batches.start(many, out)
                wait_within_the_run(run, out, dice)
                if when == "between kill and resume":
                    run.kill()
                    run.communicate()
                subprocess.run(["umount", "--lazy", place], check=True)
                if when == "between kill and resume":
                    run = batches.start(many, out)
                sentence = last_sentence(run)
                if not (out / "_SUCCESS").exists():  # else all was read before
                    assert run.returncode == 1
                    assert "Error: the input " in sentence
                    stopped += 1
                assert pq.read_table(out / "parts", columns=["error"])["error"].null_count == _rows(out)
                subprocess.run(["mount", "--bind", disk, place], check=True)
                assert batches.finish(many, out) == expected
            assert stopped > 0
        finally:
            subprocess.run(["umount", "--lazy", place], stderr=subprocess.DEVNULL, check=False)


def _rows(out: Path) -> int:
    return sum(pq.read_metadata(part).num_rows for part in (out / "parts").iterdir())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a file system of 1 MiB."""
    with mounted(tmp_path / "disk", "1m") as disk:
        yield disk


def stops_for_want_of_room(run: Run, out: Path) -> bool:
    try:
        run(out, all_scores=True)
    except OutputError as error:
        return "No space left on device" in str(error)
    return False


def test_a_disk_that_is_full_at_any_level(tmp_path: Path, run: Run, small_disk: Path) -> None:
    """However little room there is, a run ends in a sentence, and with room again as if undisturbed."""
    run(tmp_path / "undisturbed", all_scores=True)
    expected = read_parts(tmp_path / "undisturbed")
    stopped = 0
    for room in range(24):
        out, ballast = small_disk / "out", small_disk / "ballast"
        ballast.write_bytes(bytes((256 - room) * 4096))
        stopped += stops_for_want_of_room(run, out)
        ballast.unlink()
        run(out, all_scores=True)
        assert read_parts(out) == expected
        subprocess.run(["rm", "-r", out], check=True)
    assert 5 <= stopped < 24


def sound_images() -> list[bytes]:
    """Return small images of every format, in every mode that it has."""
    levels = np.random.default_rng(SEED).integers(0, 256, (40, 60, 4), dtype=np.uint8)
    picture = Image.fromarray(levels).resize((90, 60))
    made = []
    for format, modes, options in (
        ("JPEG", ("RGB", "L", "CMYK"), ({}, {"progressive": True})),
        ("PNG", ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"), ({}, {"optimize": True})),
        ("WebP", ("RGB", "RGBA"), ({}, {"lossless": True})),
        ("BMP", ("RGB", "L", "P", "1", "RGBA"), ({},)),
    ):
        for mode in modes:
            for option in options:
                file = io.BytesIO()
                image = picture.convert("L").convert(mode) if mode == "I;16" else picture.convert(mode)
                image.save(file, format, **option)
                made.append(file.getvalue())
    return made


def mutate(data: bytes, dice: random.Random) -> bytes:
    """Return the image with a few bytes changed as a fuzzer does it, most of them in its head."""
    mutant = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 4, 16))):
        at = min(int(dice.expovariate(1 / 60)), len(mutant) - 1) if dice.random() < 0.6 else dice.randrange(len(mutant))
        kind = dice.randrange(6)
        if kind == 0:
            mutant[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            mutant[at : at + 4] = struct.pack(
                dice.choice("<>") + "I", dice.choice((0, 1, 65_535, 100_000, 2**31, 2**32 - 1))
            )
        elif kind == 2:
            del mutant[at : at + dice.randrange(1, 40)]
        elif kind == 3:
            mutant[at:at] = dice.randbytes(dice.randrange(1, 40))
        elif kind == 4:
            mutant[at : at + 2] = struct.pack(dice.choice("<>") + "H", dice.choice((0, 1, 9_999, 30_000, 65_535)))
        else:
            mutant[at : at + 8] = mutant[at // 2 : at // 2 + 8]
        if len(mutant) < 2:
            break
    return bytes(mutant)


DECODE = """
import json, resource, sys, time
from pathlib import Path
from batch.pipeline.contained import Decoder
from classifier.errors import ImageError
from classifier.types import Preprocessing
longest_s, reasons = 0.0, {}
with Decoder(Preprocessing(resize_size=256, crop_size=224), timeout_s=5) as decode:
    for file in sorted(Path(sys.argv[1]).iterdir()):
        data, started = file.read_bytes(), time.process_time()
        try:
            decode(data)
            reason = "ok"
        except ImageError as error:
            reason = error.reason
        reasons[reason] = reasons.get(reason, 0) + 1
        longest_s = max(longest_s, time.process_time() - started)
# Not our own ru_maxrss: that begins with what the parent had.
[own_kb] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
peak_kb = max(int(own_kb), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
print(json.dumps({"longest_s": longest_s, "peak_bytes": peak_kb * 1024, "reasons": reasons}))
"""


def test_mutated_images(tmp_path: Path, run: Run, few: Path, image: bytes) -> None:
    """Mutants of every format end no process, stay within time and memory, and leave their neighbours' rows alone."""
    dice = random.Random(SEED)
    sound = sound_images()
    folder = tmp_path / "mutants"
    folder.mkdir()
    for number in range(MUTANTS):
        (folder / f"{number:06}.img").write_bytes(mutate(sound[number % len(sound)], dice))
    done = subprocess.run([sys.executable, "-c", DECODE, folder], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    print(found)
    assert found["longest_s"] <= MAX_IMAGE_S
    assert found["peak_bytes"] <= MAX_IMAGE_BYTES
    assert sum(found["reasons"].values()) == MUTANTS
    assert {"ok", "unreadable", "not_an_image", *(["too_large"] * IS_WHOLE)} <= found["reasons"].keys()
    assert not {"codec_crash", "image_error"} & found["reasons"].keys()

    for number in range(0, MUTANTS, 10):
        (folder / f"{number:06}.png").write_bytes(image)
    record = run(tmp_path / "out", folder, chunk_size=1000, selection=Selection(include=("*",)))
    assert record.images == MUTANTS + MUTANTS // 10
    rows = pq.read_table(tmp_path / "out" / "parts", columns=["path", "label", "score", "sha256"]).to_pylist()
    neighbours = {(row["label"], row["score"], row["sha256"]) for row in rows if row["path"].endswith(".png")}
    alone = min(few.rglob("*.png"))
    run(tmp_path / "alone", alone)
    [row] = pq.read_table(tmp_path / "alone" / "parts").to_pylist()
    assert neighbours == {(row["label"], row["score"], row["sha256"])}
    assert record.failed == sum(count for reason, count in found["reasons"].items() if reason != "ok")


PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_maxrss, used.ru_utime + used.ru_stime)
"""


def test_memory_does_not_grow_with_the_number_of_files(tmp_path: Path, few: Path, digits_home: Path) -> None:
    """A hundred times the files take no more memory, but for a little, and no more CPU time each."""
    images = sorted(few.rglob("*.png"))[:32]
    copies = []
    for number in range(32):  # ext4 has 65,000 links of a file
        copies.append(tmp_path / f"{number}.png")
        copies[-1].write_bytes(images[number].read_bytes())
    peaks, cpu_s = [], []
    for files in (len(copies), *FILES):  # the first, to know what a start takes
        many = link_many(copies, tmp_path / f"{files}", files)
        done = subprocess.run(
            [sys.executable, "-c", PEAK, TANDEM, "batch", many, "-o", tmp_path / f"out-{files}"],
            env={**os.environ, "TANDEM_HOME": str(digits_home)}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        record = json.loads((tmp_path / f"out-{files}" / "run.json").read_bytes())
        assert record["ok"] == files
        peak, used_s = done.stdout.split()
        peaks.append(int(peak) * 1024)
        cpu_s.append(float(used_s))
    print(peaks, cpu_s)
    assert peaks[2] - peaks[1] <= MAX_GROWTH_BYTES
    if IS_WHOLE:
        each_s = [(used_s - cpu_s[0]) / files for used_s, files in zip(cpu_s[1:], FILES, strict=True)]
        assert each_s[1] <= 1.1 * each_s[0]  # a machine is never quite alone


def test_limits_on_failures_count_all_attempts(tmp_path: Path, run: Run, few: Path) -> None:
    """However often a run is stopped and resumed, its limits count every failed row once."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(90):
        (folder / f"{number:02}.png").write_bytes(b"")
    for limit in (8, 17, 44, 89):
        with pytest.raises(TooManyFailures, match=rf"images failed, over --max-failures {limit};"):
            run(tmp_path / "out", folder, limits=FailureLimits(failures=limit))
    assert run(tmp_path / "out", folder, limits=FailureLimits(failures=90)).failed == 90
