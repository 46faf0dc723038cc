from __future__ import annotations

import csv
import io
import itertools
import json
import math
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.rows import columns, parquet
from batch.rows.columns import Row, Score
from batch.rows.formats import FORMATS, Columns, Format, encode_rows, read_outcomes, read_rows
from classifier.errors import OutputError
from tests.batch.conftest import read_parts
from tests.conftest import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.batch.conftest import Run

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
SCORE = st.floats(0, 1, width=32)
NUMBER = st.floats(width=32, allow_nan=False, allow_infinity=False)
COLUMNS = tuple(Row.__slots__)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    """Return a row as a run can make it, with any text where a file's or a class's name can bring it in."""
    failed = draw(st.booleans())
    scores = draw(st.lists(SCORE, min_size=2, max_size=5))
    label = draw(TEXT)
    return Row(
        path=draw(TEXT),
        input=draw(TEXT),
        status="error" if failed else "ok",
        error=f"unreadable: {draw(TEXT)}" if failed else None,
        width=None if failed else draw(st.integers(1, 65_535)),
        height=None if failed else draw(st.integers(1, 65_535)),
        bytes=draw(st.none() | st.integers(0, 2**40)),
        sha256=draw(st.none() | st.just("ab" * 32)),
        label=None if failed else label,
        score=None if failed else scores[0],
        top_k=None if failed else (Score(label=label, score=scores[0]), Score(label="b", score=scores[1])),
        scores=None if failed else np.array(scores, dtype=np.float32),
        embedding=None if failed else np.array(draw(st.lists(NUMBER, min_size=3, max_size=3)), dtype=np.float32),
        model="digits@sha256:" + "0" * 64,
        engine="onnxruntime 1.31.1",
        device="cpu",
        precision="fp32",
    )


def plain(row: Row) -> dict[str, Any]:
    """Return a row as JSON Lines has it."""
    values = {name: getattr(row, name) for name in COLUMNS}
    values["top_k"] = row.top_k and [{"label": each.label, "score": each.score} for each in row.top_k]
    values["scores"] = None if row.scores is None else row.scores.tolist()
    values["embedding"] = None if row.embedding is None else row.embedding.tolist()
    return values


def read_csv(data: bytes) -> list[dict[str, Any]]:
    """Return CSV as Python's own reader has it, with empty fields as None and JSON where there is JSON."""
    table = list(csv.DictReader(io.StringIO(data.decode(), newline="")))
    types: dict[str, Any] = {"width": int, "height": int, "bytes": int, "score": float, "top_k": json.loads}
    types["scores"] = types["embedding"] = json.loads
    return [{name: types.get(name, str)(text) if text else None for name, text in row.items()} for row in table]


@given(st.lists(rows(), max_size=6))
def test_every_format_gives_back_every_value(rows: list[Row]) -> None:
    """What is read back is what was written: odd names, nulls, and every bit of a score."""
    expected = [plain(row) for row in rows]
    parquet = encode_rows(rows, Columns(format="parquet", all_scores=True, embeddings=True))
    assert pq.read_table(pa.BufferReader(parquet)).to_pylist() == expected
    assert read_csv(encode_rows(rows, Columns(format="csv", all_scores=True, embeddings=True))) == expected
    lines = encode_rows(rows, Columns(format="jsonl", all_scores=True, embeddings=True)).decode().split("\n")
    assert [json.loads(line) for line in lines[:-1]] == expected
    assert lines[-1] == ""


FORMULA = "=+-@\t\r\n＝＋－＠"


@given(rows=st.lists(rows(), min_size=1, max_size=4), first=st.sampled_from([*FORMULA, "'", "''="]))
def test_escaped_formulas_are_text_and_read_back_equal(rows: list[Row], first: str) -> None:
    """With the option, no field begins as a formula does, and whatever a name begins with is read back as it was."""
    rows = [replace(row, path=first + row.path, label=row.label and first + row.label) for row in rows]
    columns = Columns(format="csv", all_scores=True, embeddings=True, escape_formulas=True)
    data = encode_rows(rows, columns)
    fields = [field for line in csv.reader(io.StringIO(data.decode(), newline="")) for field in line]
    assert not [field for field in fields if field[:1] in {*FORMULA}]
    assert list(map(plain, read_rows(data, columns))) == list(map(plain, rows))
    assert [(each.path, each.label) for each in read_outcomes(data, columns)] == [(row.path, row.label) for row in rows]
    assert encode_rows(read_rows(data, columns), columns) == data


@given(st.lists(rows(), min_size=1, max_size=6))
def test_polars_reads_parquet_and_json_lines(rows: list[Row]) -> None:
    """polars, which shares no code with the writer, reads the same rows."""
    expected = [plain(row) for row in rows]
    assert (
        pl.read_parquet(
            io.BytesIO(encode_rows(rows, Columns(format="parquet", all_scores=True, embeddings=True)))
        ).to_dicts()
        == expected
    )
    text = pl.read_ndjson(
        io.BytesIO(encode_rows(rows, Columns(format="jsonl", all_scores=True, embeddings=True))),
        infer_schema_length=None,
    )
    assert text["path"].to_list() == [row.path for row in rows]
    assert text["score"].to_list() == [row.score for row in rows]


def test_the_parquet_schema() -> None:
    """The Parquet types are those that the documentation names, and the schema says its version."""
    data = encode_rows([], Columns(format="parquet", all_scores=True, embeddings=True))
    schema = pq.read_schema(pa.BufferReader(data))
    types = {field.name: str(field.type) for field in schema}
    strings = dict.fromkeys(COLUMNS, "string")
    assert types == strings | {
        "width": "int32",
        "height": "int32",
        "bytes": "int64",
        "score": "float",
        "top_k": "list<element: struct<label: string, score: float>>",
        "scores": "list<element: float>",
        "embedding": "list<element: float>",
    }
    assert pq.read_metadata(pa.BufferReader(data)).metadata[b"tandem.schema_version"] == b"1"


@pytest.mark.parametrize("format", FORMATS)
def test_a_column_that_was_not_asked_for_is_not_there(format: Format) -> None:
    """`scores` and `embedding` are there where they were asked for, and else take no room."""
    row = Row(
        **dict.fromkeys(COLUMNS, None)  # type: ignore[arg-type] # no value matters here
        | {"path": "a.png", "status": "ok"}
    )
    for all_scores, embeddings in itertools.product((False, True), repeat=2):
        data = encode_rows([row], Columns(format=format, all_scores=all_scores, embeddings=embeddings))
        assert (b"scores" in data, b"embedding" in data) == (all_scores, embeddings)


@given(st.lists(rows(), max_size=4), st.sampled_from(FORMATS))
def test_the_same_rows_are_the_same_bytes(rows: list[Row], format: Format) -> None:
    """A part depends on its rows alone: that is what lets a resumed run end as an undisturbed one."""
    assert encode_rows(rows, Columns(format=format, all_scores=True, embeddings=True)) == encode_rows(
        rows, Columns(format=format, all_scores=True, embeddings=True)
    )


@given(st.lists(rows(), max_size=4), st.sampled_from(FORMATS))
def test_rows_that_are_read_are_written_to_the_same_bytes(rows: list[Row], format: Format) -> None:
    """What a retry keeps of a part stands in the new one as it stood in the old."""
    data = encode_rows(rows, Columns(format=format, all_scores=True, embeddings=True))
    assert (
        encode_rows(read_rows(data, Columns(format=format)), Columns(format=format, all_scores=True, embeddings=True))
        == data
    )


@pytest.mark.parametrize("format", FORMATS)
def test_the_scores_of_many_labels_are_read_again(format: Format) -> None:
    """A field of scores that is longer than what Python's CSV reader takes of itself is read, as any other."""
    text = dict.fromkeys(COLUMNS, "a") | {"status": "ok", "error": None}
    numbers = {"width": 8, "height": 8, "bytes": 9, "score": 0.5, "top_k": (Score(label="a", score=0.5),)}
    scores = np.random.default_rng(1).random(20_000, dtype=np.float32)
    row = Row(**text | numbers | {"scores": scores, "embedding": None})  # type: ignore[arg-type] # as they are
    data = encode_rows([row], Columns(format=format, all_scores=True))
    assert encode_rows(read_rows(data, Columns(format=format)), Columns(format=format, all_scores=True)) == data
    assert [outcome.path for outcome in read_outcomes(data, Columns(format=format))] == ["a"]


def test_reading_a_part_starts_no_thread(run: Run, tmp_path: Path) -> None:
    """A command that read one and ends at once, while Arrow starts its threads, could be aborted: it starts none."""
    run(tmp_path / "out")
    program = """if True:
        import os, sys
        from pathlib import Path
        import pyarrow.parquet
        from batch.rows.formats import Columns, read_outcomes, read_rows
        data, before = Path(sys.argv[1]).read_bytes(), len(os.listdir("/proc/self/task"))
        print(len(read_outcomes(data, Columns(format="parquet"))), len(read_rows(data, Columns(format="parquet"))))
        print(len(os.listdir("/proc/self/task")) - before)
    """
    command = [sys.executable, "-c", program, tmp_path / "out" / "parts" / "part-00000.parquet"]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.split() == ["9", "9", "0"]


def test_writing_parquet_imports_no_pandas() -> None:
    """A run does not stop for the import of pandas, where it is installed: a second or more."""
    program = """if True:
        import sys
        from types import SimpleNamespace
        from batch.rows.parquet import encode
        rows = [SimpleNamespace(path="a", width=1, scores=[0.5]), SimpleNamespace(path=None, width=None, scores=None)]
        encode(rows, ("path", "width", "scores"))
        print("pandas" in sys.modules)
    """
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout == "False\n"


def test_a_part_of_too_many_values_is_refused() -> None:
    """What Parquet's writer can't hold in one part is an error that says what to do, and not another part."""
    with pytest.raises(OutputError, match="smaller --chunk-size"):
        parquet.encode([SimpleNamespace(scores=np.zeros(2**20, dtype=np.float32))] * 2**11, ("scores",))  # type: ignore[list-item]


@given(SCORE)
def test_a_score_survives_as_text(score: float) -> None:
    """The text of a score reads as the same float32, also by way of a float32 parser."""
    text = repr(score)
    assert np.float32(text).tobytes() == np.float32(score).tobytes()
    assert math.isclose(float(text), score, rel_tol=0, abs_tol=0)


def test_each_column_is_documented() -> None:
    """The tables of columns in the module's docstring and in the documentation have every column, with one type."""
    assert columns.__doc__ is not None
    table, of_docs = (
        [line.split(" | ")[:2] for line in text.splitlines() if re.match(r"\| `[^|]* \| (string|int|list)", line)]
        for text in (columns.__doc__, (ROOT / "docs" / "batch.md").read_text())
    )
    assert [name for cells in table for name in cells[0].split("`")[1::2]] == list(COLUMNS)
    assert of_docs == table


@pytest.mark.parametrize("format", FORMATS)
def test_pandas_polars_and_duckdb_open_the_parts(run: Run, few: Path, tmp_path: Path, format: Format) -> None:
    """Pointed at OUT/parts, the readers that people use see the same rows, failed ones too, and the same scores."""
    images, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(few, images)
    (images / "0" / 'a "quoted", broken\nname.png').write_bytes(b"")
    run(out, images, format=format)
    expected = [plain(row) for part in read_parts(out).values() for row in read_rows(part, Columns(format=format))]
    wanted = [
        [row[name] for name in ("path", "status", "error", "width", "bytes", "label", "score")] for row in expected
    ]
    assert len(wanted) == 41
    assert {row[2] for row in wanted} == {None, "empty: the image is empty (0 bytes): copy or export it again"}
    columns = ["path", "status", "error", "width", "bytes", "label", "score"]
    parts = sorted((out / "parts").iterdir())
    text = {"label": str, "sha256": str}  # labels such as '7' are text

    of_polars = {
        "parquet": lambda: pl.read_parquet(out / "parts"),
        "csv": lambda: pl.read_csv(parts, schema_overrides=dict.fromkeys(text, pl.String)),
        "jsonl": lambda: pl.concat([pl.read_ndjson(part) for part in parts], how="vertical_relaxed"),
    }[format]()
    assert [list(row) for row in of_polars.select(columns).rows()] == wanted

    of_pandas = {
        "parquet": lambda: pd.read_parquet(out / "parts"),
        "csv": lambda: pd.concat([pd.read_csv(part, dtype=text) for part in parts]),
        "jsonl": lambda: pd.concat([pd.read_json(part, lines=True, dtype=text) for part in parts]),
    }[format]()
    assert same(of_pandas[columns].to_numpy(dtype=object).tolist(), wanted)

    source = {
        "parquet": "read_parquet('{}/*.parquet')",
        "csv": "read_csv('{}/*.csv', types={{'label': 'VARCHAR', 'sha256': 'VARCHAR'}})",
        "jsonl": "read_json('{}/*.jsonl', format='newline_delimited')",
    }[format].format(out / "parts")
    of_duckdb = duckdb.sql(f"SELECT {', '.join(columns)} FROM {source}").fetchall()
    assert same([list(row) for row in of_duckdb], wanted)


def same(found: list[list[Any]], wanted: list[list[Any]]) -> bool:
    """Return whether rows are equal, NaN being null to pandas, and a score the same float32."""

    def value(cell: Any) -> Any:
        if cell is None or cell != cell:  # NaN is not equal to itself
            return None
        return float(np.float32(cell)) if isinstance(cell, float) else cell

    return [[value(cell) for cell in row] for row in found] == [[value(cell) for cell in row] for row in wanted]
