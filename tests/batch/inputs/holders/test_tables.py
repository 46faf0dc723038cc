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


KINDS = {
    "category": lambda paths, _: pa.array(paths).dictionary_encode(),
    "large_string": lambda paths, _: pa.array(paths, pa.large_string()),
    "string_view": lambda paths, _: pa.array(paths, pa.string_view()),
    "binary": lambda _, images: pa.array(images, pa.binary()),
    "binary_view": lambda _, images: pa.array(images, pa.binary_view()),
    "dictionary of binary": lambda _, images: pa.array(images, pa.binary()).dictionary_encode(),
    "struct of views": lambda paths, images: pa.StructArray.from_arrays(
        [pa.array(images, pa.binary_view()), pa.array(paths, pa.string_view())], ["bytes", "path"]
    ),
    "datasets: paths alone": lambda paths, _: pa.array(
        [{"bytes": None, "path": path} for path in paths], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    ),
    "datasets: paths alone, no type": lambda paths, _: pa.array([{"bytes": None, "path": path} for path in paths]),
    "datasets: images and paths": lambda paths, images: pa.array(
        [
            {"bytes": image if number % 3 else None, "path": path}
            for number, (path, image) in enumerate(zip(paths, images, strict=True))
        ]
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.reported("parquet-datasets-paths", "parquet-dictionary-and-views")
def test_every_way_to_write_a_column(tmp_path: Path, run: Run, few: Path, kind: str) -> None:
    """Columns as pandas, polars, Arrow and datasets write them give the images that they hold or point to."""
    columns = table_of(few)
    paths = [str(few / path) for path in columns["path"]]
    table = pa.table({"image": KINDS[kind](paths, columns["image"])})
    # pyarrow can't write a part of such a struct.
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=None if kind == "struct of views" else 7)
    run(tmp_path / "out", tmp_path / "t.parquet")
    run(tmp_path / "folder")
    what = ("status", "bytes", "sha256", "label", "score")
    assert rows_of(tmp_path / "out", *what) == rows_of(tmp_path / "folder", *what)
    before = read_parts(tmp_path / "out")
    (tmp_path / "out" / "parts" / "part-00002.parquet").unlink()
    run(tmp_path / "out", tmp_path / "t.parquet")
    assert read_parts(tmp_path / "out") == before


def test_a_row_of_datasets_without_anything(tmp_path: Path, run: Run) -> None:
    """A row that holds neither an image nor a path is an empty image, and has its number as its path."""
    rows = [{"bytes": None, "path": None}, {"bytes": b"text", "path": "x"}, None, {"bytes": None, "path": "gone.png"}]
    pq.write_table(pa.table({"image": rows}), tmp_path / "t.parquet")
    record = run(tmp_path / "out", tmp_path / "t.parquet")
    assert record.errors == {"empty": 2, "missing": 1, "not_an_image": 1}
    assert [path for (path,) in rows_of(tmp_path / "out", "path")] == ["0", "1", "2", "gone.png"]


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
