"""Tar files of images: the same rows as from a folder, in any order of resuming."""

from __future__ import annotations

import io
import os
import tarfile
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from batch.inputs.named import find_inputs
from batch.inputs.plan import listed_images
from classifier.errors import DataError
from tests.batch.conftest import read_parts
from tests.batch.images import WHAT, make_tar, rows_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.batch.conftest import Run


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.xz"])
def test_a_tar_file_gives_the_rows_of_its_folder(tmp_path: Path, run: Run, few: Path, suffix: str) -> None:
    """A tar file gives the rows that its folder gives; what is no image in it is counted, and the accuracy is known."""
    shard = make_tar(tmp_path / f"few.{suffix}", few, f"w:{suffix[4:]}")
    of_folder, of_tar = run(tmp_path / "folder"), run(tmp_path / "tar", shard)
    assert rows_of(tmp_path / "tar", *WHAT) == rows_of(tmp_path / "folder", *WHAT)
    assert of_tar.run.plan.skipped == {"other suffix": 40, "special file": 1}
    assert of_tar.accuracy == of_folder.accuracy
    before = read_parts(tmp_path / "tar")
    for number in (3, 1):
        (tmp_path / "tar" / "parts" / f"part-0000{number}.parquet").unlink()
    assert run(tmp_path / "tar", shard).attempts[-1].images == 18
    assert read_parts(tmp_path / "tar") == before


def test_a_tar_file_without_its_end_is_refused(tmp_path: Path, few: Path) -> None:
    """Wherever a tar file is cut off, and where a header in it is damaged, it is refused: no image is lost silently."""
    whole = make_tar(tmp_path / "few.tar", few, "w").read_bytes()
    cut = tmp_path / "cut.tar"
    with tarfile.open(tmp_path / "few.tar") as tar:
        end = tar.getmembers()[-1].offset_data
        second = tar.getmembers()[2].offset
    for size in [*range(0, end, 487), end]:
        cut.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"the tar file '.*cut\.tar' can't be read"):
            list(listed_images(find_inputs([str(cut)])))
    cut.write_bytes(whole[:second] + b"x" * 512 + whole[second + 512 :])
    with pytest.raises(DataError, match="no end mark where its last member ends"):
        list(listed_images(find_inputs([str(cut)])))


def test_a_tar_file_that_lost_its_end_after_it_was_planned(tmp_path: Path, run: Run, few: Path) -> None:
    """What can't be read any more out of a tar file is a row with its error."""
    shard = make_tar(tmp_path / "few.tar", few, "w")
    run(tmp_path / "out", shard)
    (tmp_path / "out" / "parts" / "part-00004.parquet").unlink()
    os.truncate(shard, 4000)
    assert run(tmp_path / "out", shard).errors == {"unreadable": 4}


def test_a_tar_in_memory_does_not_grow(tmp_path: Path) -> None:
    """Listing a tar file keeps no member that was listed."""
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for number in range(2000):
            tar.addfile(tarfile.TarInfo(f"{number}.png"), io.BytesIO())
    tracemalloc.start()
    assert sum(1 for _ in listed_images(find_inputs([str(tmp_path / "x.tar")]))) == 2000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000
