"""Tar files and Parquet tables of images: the same rows as from a folder, in any order of resuming."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch.inputs.named import find_inputs
from batch.inputs.plan import listed_images
from classifier.errors import DataError
from tests.batch.conftest import read_parts

if TYPE_CHECKING:
    from pathlib import Path

    from tests.batch.conftest import Run


def rows_of(output: Path, *columns: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in columns) for row in pq.read_table(output / "parts").to_pylist()]


WHAT = ("path", "status", "bytes", "sha256", "label", "score")


def make_tar(path: Path, folder: Path, mode: str) -> Path:
    with tarfile.open(path, mode) as tar:
        for image in sorted(folder.rglob("*.png")):
            tar.add(image, image.relative_to(folder))
            tar.addfile(tarfile.TarInfo(f"{image.stem}.cls"))  # as a WebDataset shard has beside each image
        tar.addfile(_link("link.png"))
    return path


def _link(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, "0/a.png"
    return member


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


def table_of(folder: Path) -> dict[str, list[Any]]:
    images = sorted(folder.rglob("*.png"))
    return {
        "image": [image.read_bytes() for image in images],
        "path": [str(image.relative_to(folder)) for image in images],
    }


@pytest.mark.parametrize("kind", ["bytes", "struct", "large"])
def test_a_table_of_images(tmp_path: Path, run: Run, few: Path, kind: str) -> None:
    """A Parquet column of encoded images gives a row for each of its rows, also an empty one, over row groups."""
    columns = table_of(few)
    images: list[Any] = [*columns["image"], None, b"text"]
    type: Any = {"bytes": pa.binary(), "large": pa.large_binary()}.get(kind)
    if kind == "struct":
        images = [None if image is None else {"bytes": image, "path": "x"} for image in images]
    table = pa.table({"image": pa.array(images, type=type), "other": range(len(images))})
    pq.write_table(table, tmp_path / "images.parquet", row_group_size=7)
    record = run(tmp_path / "out", tmp_path / "images.parquet")
    assert record.errors == {"empty": 1, "not_an_image": 1}
    run(tmp_path / "folder")
    expected = [row[1:] for row in rows_of(tmp_path / "folder", *WHAT)]
    assert [row[1:] for row in rows_of(tmp_path / "out", *WHAT)][:40] == expected
    assert [path for (path,) in rows_of(tmp_path / "out", "path")] == [str(number) for number in range(42)]
    before = read_parts(tmp_path / "out")
    (tmp_path / "out" / "parts" / "part-00002.parquet").unlink()
    run(tmp_path / "out", tmp_path / "images.parquet")
    assert read_parts(tmp_path / "out") == before


def test_a_table_of_paths(tmp_path: Path, run: Run, few: Path) -> None:
    """A Parquet column of paths, below the table's folder, gives the rows of those images, and their accuracy."""
    shutil.copytree(few, tmp_path / "in")
    pq.write_table(pa.table({"image": [*table_of(few)["path"], "gone.png", None]}), tmp_path / "in" / "index.parquet")
    record = run(tmp_path / "out", tmp_path / "in" / "index.parquet")
    run(tmp_path / "folder")
    assert rows_of(tmp_path / "out", *WHAT)[:40] == rows_of(tmp_path / "folder", *WHAT)
    assert record.errors == {"missing": 1, "not_a_file": 1}


def test_wrong_tables(tmp_path: Path) -> None:
    """A table without the column, with numbers in it, or that is none, is refused with what it has."""
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"number": [1]}), path)
    for column, sentence in (
        ("image", "no column 'image'.*it has number"),
        ("number", "no images or paths, but int64"),
    ):
        with pytest.raises(DataError, match=sentence):
            list(listed_images(find_inputs([str(path)], column=column)))
    path.write_bytes(b"PAR1 not at all")
    with pytest.raises(DataError, match=r"the Parquet file '.*x\.parquet' can't be read"):
        list(listed_images(find_inputs([str(path)])))


def test_memory_of_a_table_is_not_that_of_its_row_group(tmp_path: Path) -> None:
    """A row group of images is read a few at a time: 64 MB of them take a small part of that."""
    images = [os.urandom(1 << 20) for _ in range(64)]
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"image": images}), path, compression="none", use_dictionary=False, write_batch_size=1)
    from batch.pipeline.reading import with_data

    before = pa.total_allocated_bytes()
    peak = 0
    for file, image in zip(with_data(listed_images(find_inputs([str(path)]))), images, strict=True):
        assert file.data == image
        peak = max(peak, pa.total_allocated_bytes() - before)
    assert peak < 40 << 20


def test_a_tar_in_memory_does_not_grow(tmp_path: Path) -> None:
    """Listing a tar file keeps no member that was listed."""
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for number in range(2000):
            tar.addfile(tarfile.TarInfo(f"{number}.png"), io.BytesIO())
    import tracemalloc

    tracemalloc.start()
    assert sum(1 for _ in listed_images(find_inputs([str(tmp_path / "x.tar")]))) == 2000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000
