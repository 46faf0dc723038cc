"""Train and export the digits, and classify them in bulk. The results are equal only on equal instruction sets."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.system.released_outputs.bulk import FORMATS
from tests.system.released_outputs.parts import digest_of_rows, left, read_rows
from tests.system.released_outputs.tree import flat, together, without

if TYPE_CHECKING:
    from tests.system.released_outputs.tree import Facts, Tree

_IMAGES = "digits-home/datasets/digits/test"
_CHUNKS = ("--chunk-size", "50", "--top-k", "3")
_RUNS = {
    **{name: ("--format", name) for name in FORMATS},
    "all scores": ("--scores", "all"),
    "fp32": ("--precision", "fp32"),
    "int8": ("--precision", "int8"),
    "chunks": _CHUNKS,
    "shards": (*_CHUNKS, "--shard", "1/2"),
}


def trained(tree: Tree) -> tuple[Facts, Facts]:
    """Return facts and words of the models `digits` and `embedder`.

    `artifacts` and `parts` hold all digests. A reworded model card changes README.md, so the artifact's digest, and so
    the parts, whose rows name the artifact. It changes nothing else.
    """
    models = {name: replace(tree, home=tree.work / f"{name}-home") for name in ("digits", "embedder")}
    facts, words = _make(models)
    runs = together({name: partial(_run, models["digits"], name, *options) for name, options in _RUNS.items()})
    runs["second shard"] = _run(models["digits"], "shards", *_CHUNKS, "--shard", "2/2")
    merged = tree.tandem("batch", "merge", "trained shards")
    runs["merge"] = {"exit": merged.code, **_left(tree, "shards")}
    runs["embeddings"] = _run(models["embedder"], "embeddings", "--embeddings")
    shown = {name: each.answer(each.tandem("models", "show", name, "--json")) for name, each in models.items()}
    listed = {name: each.answer(each.tandem("models", "list", "--json")) for name, each in models.items()}
    artifacts = {
        name: {"digest": each["digest"], "files": {file.pop("file"): file for file in each.pop("files")}}
        for name, each in shown.items()
    }
    parts = {name: run.pop("parts") for name, run in runs.items()}
    selftest = tree.answer(models["digits"].tandem("selftest", "digits", "--json"))
    facts |= without({"show": shown, "list": listed, "selftest": selftest, "runs": runs}, "size_bytes")
    names = {each["digest"]: f"sha256:… of {name}" for name, each in artifacts.items()}
    facts, words = (json.loads(_replaced(json.dumps(each), names)) for each in (facts, words))
    return facts | {"artifacts": artifacts, "parts": parts}, words


def _make(models: dict[str, Tree]) -> tuple[Facts, Facts]:
    """Train and export both models; return the facts of the run folder, and as words the tables and the cards."""
    digits, embedder = models["digits"], models["embedder"]
    ended = {
        "train": digits.tandem("train", "digits", "--run", "run"),
        "export": digits.tandem("export", "run", "--name", "digits"),
        "export with embeddings": embedder.tandem("export", "run", "--name", "embedder", "--embeddings"),
        "evaluate": digits.tandem("evaluate", "digits", _IMAGES),
    }
    facts: Facts = {name: {"exit": each.code} for name, each in ended.items()}
    run = digits.work / "run"
    facts["train"]["run.json"] = [*flat(json.loads((run / "run.json").read_bytes()))]
    facts["train"]["metrics.jsonl"] = [*json.loads((run / "metrics.jsonl").read_bytes().splitlines()[0])]
    # The other files hold times or paths.
    facts["train"]["files"] = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() if path.name in ("best.pt", "labels.json") else "…"
        for path in sorted(run.iterdir())
    }
    for name, of_model in models.items():
        ended[f"show {name}"] = of_model.tandem("models", "show", name)
        ended[f"show {name} --card"] = of_model.tandem("models", "show", name, "--card")
    return facts, {name: digits.words(each) for name, each in ended.items()}


def _run(tree: Tree, name: str, *options: str) -> Facts:
    ended = tree.tandem("batch", _IMAGES, "--output", f"trained {name}", *options)
    return {"exit": ended.code, **_left(tree, name)}


def _left(tree: Tree, name: str) -> dict[str, Any]:
    return left(tree, f"trained {name}") | {"rows": digest_of_rows(read_rows(tree, f"trained {name}"))}


def _replaced(text: str, names: dict[str, str]) -> str:
    for value, name in names.items():
        text = text.replace(value, name)
    return text
