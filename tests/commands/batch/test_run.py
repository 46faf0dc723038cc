"""The real `tandem batch` in processes of its own."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import pty
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from tests.batch.conftest import read_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Tandem

TANDEM = Path(sys.executable).with_name("tandem")
WITHIN_S = 60


@pytest.fixture
def batch(tandem: Tandem, digits_home: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs `tandem batch` in `tmp_path`, without a check of its exit code."""

    def run(*args: str | Path) -> subprocess.CompletedProcess[str]:
        done = tandem("batch", *args, check=False, env={"TANDEM_HOME": str(digits_home)}, cwd=tmp_path)
        assert "Traceback" not in done.stderr
        return done

    return run


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.fixture
def hostile(tmp_path: Path, image: bytes) -> Path:
    """Return a folder with two sound images among everything else."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    files = {
        "a.png": image,
        "cut.png": image[:80],
        "corrupt.png": image[:50] + bytes(20) + image[70:],
        "huge.png": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")),
        'line\nbreak, "quoted".png': image,
        os.fsdecode(b"not utf-8 \xff.png"): image,
        "text.jpg": b"hello",
        "zero.jpg": b"",
        "README.txt": b"",
        ".hidden.png": image,
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "loop").symlink_to(".")
    return folder


EXPECTED = [
    ("a.png", "ok"),
    ("corrupt.png", "unreadable"),
    ("cut.png", "unreadable"),
    ("huge.png", "too_large"),
    ('line\nbreak, "quoted".png', "ok"),
    ("not utf-8 \\xff.png", "ok"),
    ("text.jpg", "not_an_image"),
    ("zero.jpg", "empty"),
]


def read_csv(part: Path) -> list[dict[str, Any]]:
    with part.open(newline="") as file:
        return list(csv.DictReader(file))


READERS: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    "parquet": lambda part: pl.read_parquet(part).to_dicts(),
    "csv": read_csv,
    "jsonl": lambda part: [json.loads(line) for line in part.read_text().split("\n")[:-1]],
}


@pytest.mark.parametrize("format", READERS)
def test_a_hostile_folder(
    batch: Callable[..., subprocess.CompletedProcess[str]], hostile: Path, tmp_path: Path, format: str
) -> None:
    """Among files of every wrong kind each sound image gets its label and each bad one its reason; exit code 3."""
    done = batch("hostile", "--model", "digits", "--output", "out", "--format", format)
    assert done.returncode == 3, done.stderr
    rows = READERS[format](tmp_path / "out" / "parts" / f"part-00000.{format}")
    assert [
        (row["path"], "ok" if row["status"] == "ok" else row["error"].partition(":")[0]) for row in rows
    ] == EXPECTED
    assert {row["label"] for row in rows if row["status"] == "ok"} == {rows[0]["label"]}
    assert {row["input"] for row in rows} == {"hostile"}
    summary, engine, skipped = done.stdout.splitlines()
    assert summary.startswith("8 images: 3 ok, 5 failed (empty 1, not_an_image 1, too_large 1, unreadable 2), in ")
    assert summary.endswith(" images/s) → out")
    assert engine.startswith("digits@sha256:")
    assert skipped == "skipped: hidden 1, other suffix 1, special file 1, symbolic link 1"
    again = batch("hostile", "--model", "digits", "--output", "out", "--format", format, "--retry-failed")
    assert again.stdout.startswith(summary.partition(", in ")[0] + ", 5 of them in ")


def test_the_folders_of_classes(
    batch: Callable[..., subprocess.CompletedProcess[str]], test_folder: Path, tmp_path: Path
) -> None:
    """The held-out digits: a row for each, the accuracy against the folder names, exit code 0; then done already."""
    done = batch(test_folder, "--output", "out")  # no --model: there is only one
    images = sum(1 for _ in test_folder.rglob("*.png"))
    assert done.returncode == 0, done.stderr
    table = pl.read_parquet(tmp_path / "out" / "parts")
    correct = (table["path"].str.split("/").list.first() == table["label"]).sum()
    assert len(table) == images
    assert done.stdout.splitlines()[-1] == (
        f"accuracy against the folder names: {correct / images:.2%} ({correct} of {images})"
    )
    assert correct / images >= 0.97
    assert json.loads((tmp_path / "out" / "run.json").read_bytes())["state"] == "done"
    again = batch(test_folder, "--output", "out")
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert "'out' is already done" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["missing", "-o", "out"], 1, "Error: the input 'missing' can't be read (No such file or directory);"),
        (["empty", "-o", "out"], 1, "Error: no image in 'empty';"),
        (["hostile/pipe.jpg", "-o", "out"], 1, "Error: the input 'hostile/pipe.jpg' is neither a folder nor a file;"),
        (["hostile", "-o", "hostile/out"], 1, "Error: the output 'hostile/out' is inside the input 'hostile';"),
        (["hostile", "-o", "foreign"], 1, "Error: the output 'foreign' holds 'mine' and no run to resume;"),
        (["hostile", "-o", "foreign/mine"], 1, "Error: the output 'foreign/mine' can't be used (Not a directory);"),
        (["hostile", "-o", "/proc/out"], 1, "Error: '/proc/out' can't be written (No such file or directory);"),
        (["hostile", "-o", "out", "-m", "birds"], 1, "Error: "),
        (["hostile", "-o", "out", "--device", "cuda"], 1, "Error: "),
        (["hostile", "-o", "out", "--top-k", "0"], 2, "Error: Invalid value for '--top-k'"),
        (["hostile", "-o", "out", "--format", "xlsx"], 2, "Error: Invalid value for '--format'"),
        (["hostile"], 2, "Error: Missing option"),
        (["-o", "out"], 2, "Error: Missing argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_could_not_run(
    batch: Callable[..., subprocess.CompletedProcess[str]],
    hostile: Path,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    sentence: str,
) -> None:
    """What can't run ends in one sentence with the right exit code, and writes nothing."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "mine").touch()
    before = sorted(tmp_path.rglob("*"))
    done = batch(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.splitlines()[-1].startswith(sentence)
    assert done.stderr.count("Error: ") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_another_run_is_refused_by_what_differs(
    batch: Callable[..., subprocess.CompletedProcess[str]], few: Path, tmp_path: Path
) -> None:
    """An output is only resumed by the run that began it; the refusal names all that differs, and changes nothing."""
    shutil.copytree(few, tmp_path / "in")
    assert batch("in", "-o", "out").returncode == 0
    before = read_parts(tmp_path / "out")
    done = batch(few, "-o", "out", "--format", "csv", "--top-k", "2", "--scores", "all", "--chunk-size", "9")
    assert done.returncode == 1
    for name in ("plan.inputs", "plan.chunk_size", "format", "top_k", "all_scores", "versions.pyarrow"):
        assert f"{name} was " in done.stderr
    assert "repeat the command that began it, or name another --output" in done.stderr
    assert read_parts(tmp_path / "out") == before


def test_another_model_is_refused(tandem: Tandem, tandem_home: Path, few: Path, tmp_path: Path) -> None:
    """A run is not resumed with another model under the same name."""
    from registry import LocalRegistry

    tandem("batch", few, "-o", tmp_path / "out")
    registry = LocalRegistry(tandem_home / "registry")
    first = registry.resolve("digits")
    registry.add("digits", {file: first.read(file) for file in first.files} | {"README.md": b"# Another card\n"})
    done = tandem("batch", few, "-o", tmp_path / "out", "-m", "digits", check=False)
    assert done.returncode == 1
    assert f"model was '{first.identity}' and is 'digits@sha256:" in done.stderr
    assert tandem("batch", few, "-o", tmp_path / "out", "-m", first.identity).returncode == 0


@pytest.fixture
def many(few: Path, tmp_path: Path) -> Path:
    """Return 4,000 images in class folders: hard links of a few, enough to be caught in the midst of."""
    folder = tmp_path / "many"
    for image in few.rglob("*.png"):
        target = folder / image.parent.name
        target.mkdir(parents=True, exist_ok=True)
        for number in range(100):
            os.link(image, target / f"{number}-{image.name}")
    return folder


@contextlib.contextmanager
def running(*args: str | Path, home: Path) -> Iterator[subprocess.Popen[str]]:
    """Yield a `tandem batch` with at least one committed chunk of 100 images, stopped where it stands."""
    process = subprocess.Popen(
        [TANDEM, "batch", *args, "--chunk-size", "100"],
        env={**os.environ, "TANDEM_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        parts = Path(args[args.index("-o") + 1]) / "parts"
        deadline = time.monotonic() + WITHIN_S
        while not (parts.is_dir() and any(parts.iterdir())):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.send_signal(signal.SIGSTOP)
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_a_signal_ends_a_run_cleanly(
    tandem: Tandem, many: Path, digits_home: Path, tmp_path: Path, signum: int, code: int
) -> None:
    """A signal lets the current chunk be committed, says how to go on, and the run resumes to the same parts."""
    home = {"TANDEM_HOME": str(digits_home)}
    out = tmp_path / "out"
    with running(many, "-o", out, home=digits_home) as process:
        process.send_signal(signum)
        process.send_signal(signal.SIGCONT)
        stdout, stderr = process.communicate(timeout=WITHIN_S)
    assert (process.returncode, stdout) == (code, ""), stderr
    assert stderr.splitlines()[-1] == f"Interrupted; the same command resumes the run in '{out}'."
    assert "Traceback" not in stderr
    record = json.loads((out / "run.json").read_bytes())
    assert record["state"] == "interrupted"
    committed = (out / ".batch" / "commits.jsonl").read_text().splitlines()
    assert record["images"] == 100 * len(committed) == 100 * len(read_parts(out)) < 4000
    resumed = tandem("batch", many, "-o", out, "--chunk-size", "100", env=home)
    assert f"resuming: {len(committed)} of 40 chunks committed" in resumed.stderr
    tandem("batch", many, "-o", tmp_path / "undisturbed", "--chunk-size", "100", env=home)
    assert read_parts(out) == read_parts(tmp_path / "undisturbed")


def test_a_second_run_is_refused_while_the_first_lives(
    tandem: Tandem, many: Path, digits_home: Path, tmp_path: Path
) -> None:
    """Two runs never write into one output; once the first was killed, the second resumes it."""
    second = ("batch", many, "-o", tmp_path / "out", "--chunk-size", "100")
    home = {"TANDEM_HOME": str(digits_home)}
    with running(*second[1:4], home=digits_home) as first:
        refused = tandem(*second, check=False, env=home)
        assert refused.returncode == 1
        assert refused.stderr.splitlines()[-1].startswith("Error: another process is running a batch into ")
        first.kill()
        first.wait()
        assert tandem(*second, env=home).returncode == 0
    assert pl.read_parquet(tmp_path / "out" / "parts").height == 4000


def test_a_full_disk(tandem: Tandem, few: Path, digits_home: Path, tmp_path: Path) -> None:
    """Where the disk is full, the run ends in one sentence, and goes on when there is room again."""
    out = tmp_path / "out"
    # A limit on the size of files: what a write beyond it meets is what it meets on a full disk, but for the number.
    arguments = [str(TANDEM), "batch", str(few), "-o", str(out), "--chunk-size", "9", "--format", "jsonl"]
    full = subprocess.run(
        ["bash", "-c", 'ulimit -f 4; exec "$@"', "bash", *arguments],
        env={**os.environ, "TANDEM_HOME": str(digits_home)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert full.returncode == 1
    assert full.stderr.splitlines()[-1].startswith("Error: '")
    assert "can't be written (File too large); put that right, and the same command resumes the run" in full.stderr
    assert "Traceback" not in full.stderr
    tandem(*arguments[1:], env={"TANDEM_HOME": str(digits_home)})
    assert sum(part.count(b"\n") for part in read_parts(out).values()) == 40


def test_a_bar_on_a_terminal(few: Path, digits_home: Path, tmp_path: Path) -> None:
    """On a terminal there is a bar with the rate on standard error; standard output has the summary alone."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [TANDEM, "batch", few, "-o", tmp_path / "out"],
        env={**os.environ, "TANDEM_HOME": str(digits_home), "TERM": "xterm", "COLUMNS": "100"},
        stdout=subprocess.PIPE, stderr=theirs, text=True,
    )  # fmt: skip
    os.close(theirs)
    written = b""
    with contextlib.suppress(OSError):  # what a terminal gives whose other side is closed
        while block := os.read(ours, 1 << 16):
            written += block
    os.close(ours)
    summary, _ = process.communicate()
    assert process.returncode == 0
    shown = written.decode()
    assert "40/40" in shown
    assert " images/s" in shown
    assert summary.startswith("40 images: 40 ok, 0 failed, in ")
    assert "\x1b" not in summary


def test_help_is_quick_and_whole(tandem: Tandem) -> None:
    """`--help` imports nothing heavy, lists each exit code and ends with an example on lines of its own."""
    imported = subprocess.run(
        [sys.executable, "-X", "importtime", TANDEM, "batch", "--help"], capture_output=True, text=True, check=True
    )
    modules = {line.rpartition("|")[2].strip() for line in imported.stderr.splitlines()}
    assert modules.isdisjoint({"onnxruntime", "PIL", "pyarrow", "httpx", "rich.progress"})
    assert "\n    tandem batch photos --model digits:production --output out\n" in imported.stdout
    assert "130" in imported.stdout


@pytest.mark.gpu
@pytest.mark.parametrize("runner", ["local", "ray"])
def test_a_resumed_shard_on_a_gpu_keeps_its_batch_size(
    home: Path, tandem: Tandem, few: Path, tmp_path: Path, runner: str
) -> None:
    """A shard that is resumed, and one that begins beside it, take the size that the first began with; they merge."""
    if runner == "ray":
        pytest.importorskip("ray")
    command = ("batch", few, "-o", tmp_path / "out", "--chunk-size", "9", "--device", "cuda", "--runner", runner)
    tandem(*command, "--shard", "1/2", "--batch-size", "2")
    min((tmp_path / "out" / "shard-1-of-2" / "parts").iterdir()).unlink()
    for shard in ("1/2", "2/2"):
        tandem(*command, "--shard", shard)
    assert tandem("batch", "merge", tmp_path / "out").stdout.startswith("40 images: 40 ok")
