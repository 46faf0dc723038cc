"""Parquet tables of images or of their paths: the same rows as from a folder, in any order of resuming."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch.inputs.named import find_inputs
from batch.inputs.plan import listed_images
from batch.pipeline.reading import with_data
from classifier.errors import DataError
from tests.batch.conftest import read_parts
from tests.batch.images import WHAT, rows_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.batch.conftest import Run


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
    before = pa.total_allocated_bytes()
    peak = 0
    for file, image in zip(with_data(listed_images(find_inputs([str(path)]))), images, strict=True):
        assert file.data == image
        peak = max(peak, pa.total_allocated_bytes() - before)
    assert peak < 40 << 20
