"""Run `tandem batch` and its sub-commands over sound and over awkward images; record their files and output."""

from __future__ import annotations

import io
import tarfile
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from tests.system.released_outputs.images import SOUND, write_awkward, write_sound
from tests.system.released_outputs.parts import (
    digest_of_rows,
    left,
    metric_names,
    parts_of,
    read_rows,
    rows_by_path,
)
from tests.system.released_outputs.tree import differing, flat, together

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.system.released_outputs.tree import Facts, Tree

FORMATS = ("jsonl", "csv", "parquet")
_EVERYTHING = ("--scores", "all", "--embeddings", "--top-k", "2")
_JSON_LINES = ("--format", "jsonl")

SOUND_RUNS = {
    **{name: ("sound", "--format", name, "--chunk-size", "5") for name in FORMATS},
    **{f"{name}, everything": ("sound", "--format", name, *_EVERYTHING) for name in FORMATS},
    "one at a time": ("sound", *_JSON_LINES, "--precision", "fp32", "--batch-size", "1", "--decode-threads", "1"),
    "one file": ("sound/red/0.png", *_JSON_LINES),
    "tar": ("sound.tar", *_JSON_LINES),
    "table": ("table.parquet", *_JSON_LINES),
    "table of paths": ("table.parquet", *_JSON_LINES, "--column", "path"),
    "list": ("--files-from", "list.txt", *_JSON_LINES),
    "list with NUL": ("--files-from", "list.nul", "--null", *_JSON_LINES),
    "selection": ("sound", "--include", "*.png", "--exclude", "red", "--exclude", "blue/2.png", *_JSON_LINES),
    "two inputs": ("sound/red", "sound/blue", *_JSON_LINES),
    "links": ("linked", *_JSON_LINES, "--follow-symlinks"),
}
"""Runs that classify every image. Their parts hold no sentence, so every byte is a fact."""

AWKWARD_RUNS = {
    **{name: ("awkward", "--format", name) for name in FORMATS},
    **{f"{name}, everything": ("awkward", "--format", name, *_EVERYTHING) for name in FORMATS},
    "one file": ("many-bytes.png", *_JSON_LINES),
    "list": ("--files-from", "missing.txt", *_JSON_LINES),
}
"""Runs in which some images fail."""


def write_inputs(work: Path) -> None:
    """Write the folders, the tar file, the table and the lists that the runs read."""
    write_sound(work / "sound")
    write_awkward(work / "awkward")
    (work / "empty").mkdir()
    (work / "linked").mkdir()
    (work / "linked" / "folder").symlink_to("../sound/red")
    (work / "linked" / "image.png").symlink_to("../sound/blue/0.png")
    with (work / "many-bytes.png").open("wb") as file:
        file.truncate(64 * 2**20 + 1)  # sparse
    with tarfile.open(work / "sound.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, image in SOUND.items():
            member = tarfile.TarInfo(name)
            member.size = len(image.data)
            archive.addfile(member, io.BytesIO(image.data))
    paths = [f"sound/{name}" for name in SOUND]
    pq.write_table(pa.table({"image": [image.data for image in SOUND.values()], "path": paths}), work / "table.parquet")
    (work / "list.txt").write_text("\n".join(paths))
    (work / "list.nul").write_text("\0".join(paths))
    (work / "missing.txt").write_text("sound/red/0.png\nnowhere.png\nsound\nempty\n")


def sound_runs(tree: Tree) -> tuple[Facts, Facts]:
    """Return facts and words of the runs over sound images."""
    return _runs(tree, SOUND_RUNS, "sound")


def awkward_runs(tree: Tree) -> tuple[Facts, Facts]:
    """Return facts and words of the runs over awkward images. The sentence of each error is among the words."""
    return _runs(tree, AWKWARD_RUNS, "awkward")


def _runs(tree: Tree, runs: Mapping[str, tuple[str, ...]], kind: str) -> tuple[Facts, Facts]:
    """Return facts and words of runs: the whole record of the first, and how the records of the others differ."""
    outputs = {name: f"{kind}, {name}" for name in runs}
    ended = together({name: partial(tree.tandem, "batch", *runs[name], "-o", outputs[name]) for name in runs})
    facts: Facts = {"parts": {}}
    words: Facts = {"parts": {}}
    first: Facts = {}
    for name, output in outputs.items():
        rows, found = read_rows(tree, output), left(tree, output)
        errors = {row["path"]: tree.plain(row["error"]) for row in rows if row["error"]}
        # The parts of a run with errors hold sentences.
        (words if errors else facts)["parts"][name] = found.pop("parts")
        flattened = flat(found)
        facts[name] = {
            "exit": ended[name].code,
            "left": differing(first, flattened),
            "rows": rows_by_path(rows) if name == FORMATS[0] else digest_of_rows(rows),
        }
        words[name] = tree.words(ended[name]) | {"errors": errors}
        first = first or flattened
    return facts, words


def shards(tree: Tree) -> tuple[Facts, Facts]:
    """Return facts and words of a run in three shards: before the last shard, after it, and merged."""
    run = ("sound", "--chunk-size", "2", "--output", "shards")
    calls = {
        "first": (*run, "--shard", "1/3"),
        "third": (*run, "--shard", "3/3"),
        "status of two": ("status", "shards", "--json"),
        "merge of two": ("merge", "shards"),
        "second": run,
        "status of three": ("status", "shards", "--json"),
        "verify of three": ("verify", "shards"),
        "merge of three": ("merge", "shards"),
        "verify of all": ("verify", "shards", "--inputs"),
        "status of all": ("status", "shards", "--json"),
        "whole": (*run[:-1], "whole"),
    }
    # Kubernetes sets these.
    facts, words = _calls(tree, calls, second={"JOB_COMPLETION_INDEX": "1", "JOB_COMPLETION_COUNT": "3"})
    facts["left"] = left(tree, "shards")
    del facts["left"]["parts"]
    bytes_of = {output: [part.read_bytes() for part in parts_of(tree, output)] for output in ("shards", "whole")}
    facts["same bytes"] = bytes_of["shards"] == bytes_of["whole"] != []
    return facts, words


def stops(tree: Tree) -> tuple[Facts, Facts]:
    """Return facts and words of a run that stops at a limit, is resumed, checked, retried and damaged."""
    run = ("awkward", *_JSON_LINES, "--chunk-size", "6", "--output", "stops")
    calls = {
        "limited": (*run, "--max-failures", "2", "--decode-threads", "1"),
        "status of limited": ("status", "stops", "--json"),
        "verify of limited": ("verify", "stops"),
        "other options": (*run, "--top-k", "1"),
        "resumed": (*run, "--metrics-file", "batch.prom"),
        "again": run,
        "retried": (*run, "--retry-failed"),
        "status": ("status", "stops", "--json"),
        "status for people": ("status", "stops"),
        "verify": ("verify", "stops", "--inputs"),
        "report": ("report", "stops", "--no-images"),
        "report elsewhere": ("report", "stops", "--output", "report.html"),
    }
    facts, words = _calls(tree, calls)
    facts["left"] = left(tree, "stops")
    words["parts"] = facts["left"].pop("parts")
    facts["metrics"] = metric_names((tree.work / "batch.prom").read_text(encoding="utf-8"))
    damaged = tree.work / "stops" / "parts" / "part-00001.jsonl"
    damaged.write_bytes(damaged.read_bytes().replace(b'"ok"', b'"OK"'))
    of_damaged, words_of_damaged = _calls(tree, {"verify of damaged": ("verify", "stops")})
    return facts | of_damaged, words | words_of_damaged


def _calls(tree: Tree, calls: Mapping[str, tuple[str, ...]], **environments: dict[str, str]) -> tuple[Facts, Facts]:
    """Return facts and words of `tandem batch` commands, run in turn. JSON and the fields of log lines are facts."""
    facts: Facts = {}
    words: Facts = {}
    for name, call in calls.items():
        ended = tree.tandem("batch", *call, **environments.get(name, {}))
        facts[name] = {"exit": ended.code, "log": sorted({field for line in ended.log for field in line})}
        words[name] = tree.words(ended) | {"loggers": sorted({line["logger"] for line in ended.log})}
        if "--json" in call:
            facts[name]["json"] = flat(tree.answer(ended))
            del words[name]["stdout"]
    return facts, words
