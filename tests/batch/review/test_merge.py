"""Merging the shards of a run."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batch.inputs.shards import Shard
from batch.review.merge import merge_shards
from batch.run.lock import open_run_folder
from classifier.errors import OutputError
from tests.batch.conftest import ROOT, read_parts
from tests.batch.inputs.conftest import Web
from tests.batch.run.test_folder import fail_at
from tests.batch.run.test_replaced import files_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.batch.conftest import Run


def run_shards(
    run: Run, out: Path, *inputs: Path | str, count: int = 3, only: set[int] | None = None, **options: Any
) -> None:
    for number in only or range(1, count + 1):
        shard = Shard(number=number, count=count)
        run(out / shard.folder, *inputs, shard=shard, **options)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_merged_shards_are_the_run_of_one_process(tmp_path: Path, run: Run, count: int) -> None:
    """The merged output is byte-identical to the run of one process, more shards than chunks too; it can be resumed."""
    alone = run(tmp_path / "alone")
    run_shards(run, tmp_path / "out", count=count)
    merged = merge_shards(tmp_path / "out")
    assert read_parts(tmp_path / "out") == read_parts(tmp_path / "alone")
    assert (merged.images, merged.ok, merged.accuracy, merged.run) == (40, 40, alone.accuracy, alone.run)
    assert merged.state == "done"
    assert merge_shards(tmp_path / "out") == merged
    assert run(tmp_path / "out") == merged


@pytest.mark.parametrize("retried", ["the shards", "the merged run"])
def test_a_merge_after_failed_rows_were_made_again(
    tmp_path: Path, run: Run, few: Path, image: bytes, retried: str
) -> None:
    """Merged again, the output has the rows that `--retry-failed` made since, and its counts are those of its rows."""
    images, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(few, images)
    (images / "0" / "x.png").write_bytes(b"")
    run_shards(run, out, images)
    assert merge_shards(out).failed == 1
    (images / "0" / "x.png").write_bytes(image)
    if retried == "the shards":
        run_shards(run, out, images, retry_failed=True)
    else:
        run(out, images, retry_failed=True)
    assert merge_shards(out).failed == 0
    run(tmp_path / "alone", images)
    assert read_parts(out) == read_parts(tmp_path / "alone")


@pytest.mark.parametrize("retried", ["the shards", "the merged run", "first the merged run"])
def test_a_merge_after_failed_rows_failed_otherwise(tmp_path: Path, run: Run, few: Path, retried: str) -> None:
    """A retry that failed again, for another reason, is as new as one that did not: the latest rows are merged."""
    images, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(few, images)
    (images / "0" / "x.png").write_bytes(b"")
    run_shards(run, out, images)
    assert merge_shards(out).errors == {"empty": 1}
    if retried == "first the merged run":
        (images / "0" / "x.png").write_bytes(b"text")
        run(out, images, retry_failed=True)
    (images / "0" / "x.png").unlink()
    if retried == "the merged run":
        run(out, images, retry_failed=True)
    else:
        run_shards(run, out, images, retry_failed=True)
    assert merge_shards(out).errors == {"missing": 1}
    [error] = [row["error"] for row in pq.read_table(out / "parts").to_pylist() if row["error"]]
    assert error.startswith("missing: ")
    assert merge_shards(out).errors == {"missing": 1}


def test_a_merge_takes_the_locks_of_the_shards_and_writes_nothing_into_them(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a process runs into a shard, a merge is refused; while it merges, no run begins in one."""
    out = tmp_path / "out"
    run_shards(run, out)
    shards = [out / f"shard-{number}-of-3" for number in (1, 2, 3)]
    half = shards[1] / ".batch" / "commits.jsonl"
    half.write_bytes(half.read_bytes() + b'{"chunk": 4, "part": "pa')
    before = [files_of(shard) for shard in shards]
    with (
        open_run_folder(shards[1]),
        pytest.raises(OutputError, match=r"is running a batch into .*shard-2"),
    ):
        merge_shards(out)
    assert [files_of(shard) for shard in shards] == before
    real = os.link

    def try_to_run(*args: Any, **kwargs: Any) -> None:
        for shard in shards:
            with pytest.raises(OutputError, match="another process is running a batch into"), open_run_folder(shard):
                pass
        real(*args, **kwargs)

    monkeypatch.setattr(os, "link", try_to_run)
    assert merge_shards(out).images == 40
    assert [files_of(shard) for shard in shards] == before


def test_more_shards_than_files_that_may_be_open(tmp_path: Path, run: Run) -> None:
    """A merge of many shards is not stopped by the soft limit on open files that a shell sets."""
    run_shards(run, tmp_path / "out", count=90, only=set(range(1, 91)), processes=0)
    command = f"ulimit -Sn 80; exec {sys.executable} -m tandem batch merge {tmp_path / 'out'}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout.startswith("40 images: 40 ok"), done.stderr


def test_a_merged_run_has_all_that_its_plan_was_made_of(tmp_path: Path, run: Run) -> None:
    """The files of a shard that tell what is classified are in the merged output, too, which can be resumed."""
    run_shards(run, tmp_path / "out")
    merge_shards(tmp_path / "out")
    of_shard, merged = (files_of(tmp_path / "out" / each / ".batch") for each in ("shard-1-of-3", "."))
    for name in ("lock", "fingerprint.json", "commits.jsonl"):
        del of_shard[name], merged[name]
    assert merged == of_shard


@given(chunk_size=st.integers(1, 50), count=st.integers(1, 9))
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_shards_of_any_chunks_merge_into_the_run_of_one_process(
    tmp_path_factory: pytest.TempPathFactory, run: Run, chunk_size: int, count: int
) -> None:
    """Whatever the chunks and however many shards, the merged parts are those of one process, to the byte."""
    folder = tmp_path_factory.mktemp("merge")
    run(folder / "alone", chunk_size=chunk_size)
    for number in range(1, count + 1):
        shard = Shard(number=number, count=count)
        run(folder / "out" / shard.folder, chunk_size=chunk_size, shard=shard)
    assert merge_shards(folder / "out").images == 40
    assert read_parts(folder / "out") == read_parts(folder / "alone")


def test_shards_that_read_other_versions_of_a_tar_file(tmp_path: Path, run: Run, few: Path) -> None:
    """One that was written anew between two shards, with members of the same names and sizes, is refused."""
    out, images = tmp_path / "out", sorted(few.rglob("*.png"))
    size = max(image.stat().st_size for image in images)
    with Web(tmp_path) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        for number in (1, 2):
            with tarfile.open(tmp_path / "images.tar", "w") as tar:
                for member, image in enumerate(images[:: 1 if number == 1 else -1]):
                    info = tarfile.TarInfo(f"{member:02}.png")
                    info.size = size
                    tar.addfile(info, io.BytesIO(image.read_bytes().ljust(size, b"\0")))
            run_shards(run, out, f"{web.url}/images.tar", count=2, only={number})
        web.shutdown()
    with pytest.raises(OutputError, match="read other versions of a tar file"):
        merge_shards(out)
    assert not (out / "parts").exists()


def test_merge_refuses_what_is_not_complete(tmp_path: Path, run: Run, few: Path) -> None:
    """A shard that is missing, not done, has lost or changed a part, or saw other images is named; nothing is made."""
    images, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(few, images)

    def refused(sentence: str) -> None:
        with pytest.raises(OutputError, match=sentence):
            merge_shards(out)
        assert not (out / "parts").exists()

    refused("can't be read")
    out.mkdir()
    refused("holds no shards")
    run_shards(run, out, images, only={1, 3})
    refused(r"' lacks 1 of the 3 shards \(2/3\)")
    (images / "0" / "new.png").write_bytes(b"")
    run_shards(run, out, images, only={2})
    refused(r"shard-2-of-3' and .* are of different runs: .*plan\.digest was")
    (images / "0" / "new.png").unlink()
    shutil.rmtree(out / "shard-2-of-3")
    run_shards(run, out, images, only={2})
    part = out / "shard-2-of-3" / "parts" / "part-00001.parquet"
    data = part.read_bytes()
    part.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    refused(r"has lost 'part-00001\.parquet'; run it again with --shard 2/3")
    part.unlink()
    refused(r"has lost 'part-00001\.parquet'; run it again with --shard 2/3")
    (out / "shard-2-of-3" / "_SUCCESS").unlink()
    refused("is not done; run it again with --shard 2/3")
    run_shards(run, out, images, only={2})
    (out / "shard-1-of-4").mkdir()
    refused("holds shards of 3 and of 4")
    (out / "shard-1-of-4").rmdir()
    assert merge_shards(out).images == 40


@pytest.mark.parametrize("call", ["fsync", "replace", "open", "write", "link"])
def test_a_merge_that_was_cut_short(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """A merge in which any sync, rename, write or link failed says so in a sentence, and is done by the next one.

    Where links fail there are none on that file system, and the parts are copied.
    """
    run_shards(run, tmp_path / "out")
    run(tmp_path / "alone")
    expected = read_parts(tmp_path / "alone")
    for nth in range(1, 100):
        out = tmp_path / f"{nth}"
        shutil.copytree(tmp_path / "out", out)
        with monkeypatch.context() as patch:
            calls = fail_at(patch, call, nth)
            if merges(out) and nth > len(calls):
                break
        merge_shards(out)
        assert read_parts(out) == expected
    assert nth == len(calls) + 1 >= 4


def merges(out: Path) -> bool:
    try:
        merge_shards(out)
    except OutputError as error:
        if "Input/output error" not in str(error):
            raise
        return False
    return True
