"""Read the output of a bulk run: its parts, their columns and rows, its record, and its metrics."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

if TYPE_CHECKING:
    from pathlib import Path

    from tests.system.released_outputs.tree import Facts, Tree


def left(tree: Tree, output: str) -> Facts:
    """Return the files in the folder of a run, the digests and the columns of its parts, and its record."""
    folder = tree.work / output
    record = folder / "run.json"
    parts = parts_of(tree, output)
    return {
        "files": sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()),
        "parts": {part.name: digest(tree, part) for part in parts},
        "columns": columns(parts[0]) if parts else None,
        "run.json": tree.steady(json.loads(record.read_bytes())) if record.exists() else None,
    }


def parts_of(tree: Tree, output: str) -> list[Path]:
    """Return the part files of a run, in their order."""
    return sorted((tree.work / output / "parts").glob("*"))


def digest(tree: Tree, part: Path) -> str:
    """Return the SHA-256 of a part. In CSV and JSON Lines the engine's version and the work folder don't count."""
    data = part.read_bytes()
    if part.suffix != ".parquet":
        data = re.sub(rb"onnxruntime \d[\d.]*", b"onnxruntime", data.replace(str(tree.work).encode(), b"WORK"))
    return hashlib.sha256(data).hexdigest()


def columns(part: Path) -> Any:
    """Return the columns of a part; of Parquet also their types, and the file's metadata."""
    match part.suffix:
        case ".parquet":
            file = pq.ParquetFile(part)
            metadata = {key.decode(): value.decode() for key, value in (file.metadata.metadata or {}).items()}
            return {"types": {field.name: str(field.type) for field in file.schema_arrow}, "metadata": metadata}
        case ".csv":
            return part.read_bytes().partition(b"\r\n")[0].decode().split(",")
    with part.open(encoding="utf-8") as lines:
        return list(json.loads(next(lines)))


def read_rows(tree: Tree, output: str) -> list[Facts]:
    """Return the rows of a run, whatever its format, with the values that JSON Lines has."""
    rows: list[Facts] = []
    for part in parts_of(tree, output):
        match part.suffix:
            case ".parquet":
                rows += pq.ParquetFile(part).read(use_threads=False).to_pylist()
            case ".csv":
                rows += map(_from_csv, csv.DictReader(io.StringIO(part.read_bytes().decode(), newline="")))
            case _:
                rows += map(json.loads, part.read_bytes().splitlines())
    return rows


def _from_csv(row: dict[str, str]) -> Facts:
    text = ("path", "input", "status", "error", "sha256", "label", "model", "engine", "device", "precision")
    return {name: value if name in text and value else json.loads(value or "null") for name, value in row.items()}


def without_words(row: Facts) -> Facts:
    """Return a row with only the reason of its error, and without columns that are equal in all rows of a run."""
    same = ("model", "engine", "device", "precision", "input")
    kept = {name: value for name, value in row.items() if name not in same}
    return kept | {"error": row["error"] and row["error"].partition(":")[0]}


def rows_by_path(rows: list[Facts]) -> Facts:
    """Return rows without words, by their paths."""
    return {row["path"]: without_words(row) for row in rows}


def digest_of_rows(rows: list[Facts]) -> str:
    """Return the SHA-256 of rows without words."""
    return hashlib.sha256(json.dumps([*map(without_words, rows)], sort_keys=True).encode()).hexdigest()


def metric_names(text: str) -> list[str]:
    """Return the names of Tandem's own Prometheus metrics in `text`, with the names of their labels."""
    lines = (line for line in text.splitlines() if line.startswith("tandem_"))
    samples = (line.rpartition(" ")[0].partition("{") for line in lines)
    return sorted({f"{name}({', '.join(_label_names(labels))})" for name, _, labels in samples})


def _label_names(labels: str) -> list[str]:
    return re.findall(r'(\w+)="', labels)
