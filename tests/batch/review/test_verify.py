"""`tandem batch verify`: sound outputs are, and each thing that can be wrong with one is found."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import tarfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch.inputs.shards import Shard
from batch.review.merge import merge_shards
from batch.review.results import open_results
from batch.review.verify import find_problems
from batch.rows.formats import FORMATS, Columns, Format, encode_rows, read_rows
from classifier.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batch.rows.columns import Row
    from tests.batch.conftest import Run
    from tests.conftest import Tandem


def problems_of(output: Path) -> list[str]:
    """Return what is wrong with an output, without the seconds that a process takes to start."""
    return list(find_problems(open_results(output), lambda images: None))


def verify(tandem: Tandem, output: Path, *options: str) -> list[str]:
    """Return what is wrong with an output."""
    done = tandem("batch", "verify", output, *options, check=False)
    *problems, verdict = done.stdout.splitlines()
    assert done.returncode == (7 if problems else 0), done.stderr
    assert verdict.startswith(f"NOT sound: {len(problems)} problem" if problems else "sound: 40 images, one row each")
    return problems


@pytest.fixture
def out(run: Run, tmp_path: Path) -> Path:
    """Return the output of a run of 40 images in 5 parts."""
    run(tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize("format", FORMATS)
def test_sound_outputs(tandem: Tandem, run: Run, tmp_path: Path, format: Format) -> None:
    """A run of one process, its shards, and what they are merged into, in each format, are sound."""
    out = tmp_path / "out"
    for number in (1, 2):
        run(out / f"shard-{number}-of-2", shard=Shard(number=number, count=2), format=format)
    assert verify(tandem, out, "--inputs") == []
    merge_shards(out)
    assert verify(tandem, out) == []


def rewrite(out: Path, change: Callable[[list[Row]], list[Row]]) -> None:
    """Change the rows of the second part, and its commit with them, as one who wants it to look sound."""
    path = out / "parts" / "part-00001.parquet"
    rows = change(read_rows(path.read_bytes(), Columns(format="parquet")))
    path.write_bytes(data := encode_rows(rows, Columns(format="parquet", all_scores=False)))
    recommit(out, 1, rows=len(rows), bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def recommit(out: Path, chunk: int, **fields: Any) -> None:
    path = out / ".batch" / "commits.jsonl"
    commits = [json.loads(line) for line in path.read_text().splitlines()]
    [commit] = [commit for commit in commits if commit["chunk"] == chunk]
    commit.update(fields)
    path.write_text("".join(f"{json.dumps(commit)}\n" for commit in commits))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def cut(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def garbage(out: Path) -> None:
    (out / "parts" / "part-00001.parquet").write_bytes(b"PAR1")
    recommit(out, 1, bytes=4, sha256=hashlib.sha256(b"PAR1").hexdigest())


def drop_columns(out: Path) -> None:
    path = out / "parts" / "part-00001.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["score"]), path)
    recommit(out, 1, bytes=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


PART, PLAN = "parts/part-00001.parquet", ".batch/plan"
TAMPERED: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "a flipped byte": (lambda out: flip(out / PART), ["part-00001.parquet' is not what the run wrote"]),
    "a lost part": (lambda out: (out / PART).unlink(), ["part-00001.parquet' is missing"]),
    "a part that can't be read": (
        lambda out: ((out / PART).unlink(), (out / PART).mkdir()), ["part-00001.parquet' can't be read"]
    ),
    "one part more": (lambda out: shutil.copy(out / PART, out / "parts" / "more"), ["more' is not a part"]),
    "a row twice": (
        lambda out: rewrite(out, lambda rows: [*rows[:1], *rows]),
        ["has 10 rows, and its chunk 9 images", "in row 1, but the plan has", "the commit of .* has other counts",
         "run.json' differ"],
    ),
    "a lost row": (
        lambda out: rewrite(out, lambda rows: rows[:-1]),
        ["has 8 rows, and its chunk 9 images", "the commit of .* has other counts", "run.json' differ"],
    ),
    "a row in place of another": (
        lambda out: rewrite(out, lambda rows: [*rows[:4], rows[3], *rows[5:]]), ["in row 4, but the plan has"]
    ),
    "rows in another order": (
        lambda out: rewrite(out, lambda rows: [rows[1], rows[0], *rows[2:]]), ["in row 0, but the plan has"]
    ),
    "another label": (
        lambda out: rewrite(out, lambda rows: [replace(rows[0], label="no label"), *rows[1:]]),
        ["row 0 of the part .* can't be of this run", "the commit of .* has other counts"],
    ),
    "a row of another model": (
        lambda out: rewrite(out, lambda rows: [*rows[:-1], replace(rows[-1], model="other@sha256:0")]),
        ["row 8 of the part .* can't be of this run"],
    ),
    "an error without a reason": (
        lambda out: rewrite(out, lambda rows: [replace(rows[0], status="error"), *rows[1:]]),
        ["row 0 of the part .* can't be of this run"],
    ),
    "no Parquet": (garbage, ["part-00001.parquet' can't be read as parquet"]),
    "a lost column": (drop_columns, ["part-00001.parquet' can't be read as parquet"]),
    "a changed count": (
        lambda out: recommit(out, 1, errors={"empty": 1}),
        ["the commit of .* has other counts", "run.json' differ"],
    ),
    "a changed plan": (lambda out: edit(out / PLAN, "0/", "1/"), ["plan' is not the list that the run began with"]),
    "a lost plan": (lambda out: (out / PLAN).unlink(), ["plan' can't be read"]),
    "a changed run.json": (lambda out: edit(out / "run.json", '"ok": 40', '"ok": 41'), ["run.json' differ"]),
    "a lost run.json": (lambda out: (out / "run.json").unlink(), ["run.json' is missing"]),
    "a lost _SUCCESS": (lambda out: (out / "_SUCCESS").unlink(), ["has all its parts and no _SUCCESS"]),
    "a lost commit": (
        lambda out: cut(out / ".batch" / "commits.jsonl"), ["has lost 1 of its 5 parts", "run.json' differ"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", TAMPERED)
def test_what_is_wrong_is_found(out: Path, what: str) -> None:
    """Whatever was changed behind the run's back is named, also where the checksum was made to fit it."""
    tamper, sentences = TAMPERED[what]
    tamper(out)
    problems = problems_of(out)
    for sentence in sentences:
        assert any(re.search(sentence, problem) for problem in problems), problems
    assert len(problems) == len(sentences), problems


def test_the_command_lists_what_is_wrong(tandem: Tandem, out: Path) -> None:
    """Each problem is a line of standard output, the verdict the last one, and the exit code says so."""
    flip(out / PART)
    (out / "parts" / "part-00003.parquet").unlink()
    assert [re.sub(r".*(part-\d+).*", r"\1", problem) for problem in verify(tandem, out)] == [
        "part-00001",
        "part-00003",
    ]


@pytest.mark.parametrize("fields", [{"chunk": 77}, {"part": "part-00002.parquet"}], ids=str)
def test_commits_of_another_run(out: Path, fields: dict[str, Any]) -> None:
    """A commit of a chunk that the run does not have, or of another chunk's part, is refused."""
    path = out / ".batch" / "commits.jsonl"
    first, rest = path.read_text().split("\n", 1)
    path.write_text(f"{json.dumps(json.loads(first) | fields)}\n{rest}")
    with pytest.raises(OutputError, match="which this run does not have"):
        open_results(out)


def test_a_run_that_is_not_done(tandem: Tandem, run: Run, tmp_path: Path) -> None:
    """Chunks that a killed run did not make are counted; shards that are not there are named."""
    out = tmp_path / "out"
    run(out / "shard-1-of-3", shard=Shard(number=1, count=3))
    (out / "shard-1-of-3" / "_SUCCESS").unlink()
    problems = verify(tandem, out)
    assert problems[:2] == [
        f"the shard {number}/3 has not begun in '{out}'; run it with --shard {number}/3" for number in (2, 3)
    ]
    assert len(problems) == 3


def test_inputs_that_changed(tandem: Tandem, run: Run, few: Path, tmp_path: Path) -> None:
    """With --inputs, an image that is another one now, and one that has gone, are named."""
    images, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(few, images)
    run(out, images)
    first, second, *_ = sorted(images.rglob("*.png"))
    first.write_bytes(second.read_bytes())
    second.unlink()
    assert verify(tandem, out) == []
    assert verify(tandem, out, "--inputs") == [
        (
            f"the image in '{images}': '{first.relative_to(images)}' is not the one that was classified; restore it, "
            "or run it again"
        ),
        f"the image in '{images}': '{second.relative_to(images)}' can't be read any more (missing); restore it",
    ]
    shutil.rmtree(images)
    gone = tandem("batch", "verify", out, "--inputs", check=False)
    assert gone.returncode == 1
    assert f"the input '{images}' can't be read (No such file or directory)" in gone.stderr


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "parquet"])
def test_inputs_that_hold_many_images(tandem: Tandem, run: Run, few: Path, tmp_path: Path, kind: str) -> None:
    """Images in tar files, compressed ones too, and in tables are read again like files; a changed one is found."""
    images = {str(image.relative_to(few)): image.read_bytes() for image in sorted(few.rglob("*.png"))}
    given, out = tmp_path / f"images.{kind}", tmp_path / "out"

    def write() -> None:
        if kind == "parquet":
            pq.write_table(pa.table({"image": list(images.values())}), given)
            return
        with tarfile.open(given, "w:gz" if kind == "tar.gz" else "w") as tar:
            for name, data in images.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))

    write()
    run(out, given)
    assert verify(tandem, out, "--inputs") == []
    name = list(images)[21]
    images[name] = images[name][:-1] + b"x"
    write()
    [problem] = verify(tandem, out, "--inputs")
    assert repr("21" if kind == "parquet" else name) in problem
