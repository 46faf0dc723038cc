"""Put together the document that is recorded and compared.

- `versions`: of the libraries that shape bytes.
- `facts`: exit codes, and output for programs. Equal on every machine.
- `words`: sentences for people, and the digests of parts that hold such sentences.
- `trained`: facts of a trained network. Equal only on equal instruction sets.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.system.released_outputs import bulk, colours, refusals, serving, training

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.released_outputs.tree import Facts, Tree

STORED = Path(__file__).parent.with_suffix(".json")
LIBRARIES = ("bentoml", "click", "msgspec", "numpy", "onnxruntime", "pillow", "pyarrow")
WIDTH = 400
"""Longest line in the document: room for a row of a bulk run."""


def options(tree: Tree) -> tuple[Facts, Facts]:
    """Return the parameters of each command as facts, and its help as words."""
    script = Path(__file__).with_name("options.py")
    # -P: else the folder of the script would precede the tree.
    printed = json.loads(tree.run(sys.executable, "-P", script).stdout)
    takes, helps = ({name: each[kind] for name, each in printed.items()} for kind in ("takes", "help"))
    return takes, helps


SECTIONS: dict[str, Callable[[Tree], tuple[Facts, Facts]]] = {
    "options": options,
    "refusals": refusals.refusals,
    "answers": refusals.answers,
    "sound runs": bulk.sound_runs,
    "awkward runs": bulk.awkward_runs,
    "shards": bulk.shards,
    "stops": bulk.stops,
    "service": serving.service,
}
"""Functions that return facts and words. Each needs a work folder that `prepare` has filled."""


def prepare(tree: Tree) -> None:
    """Write the model and the inputs that every section needs."""
    colours.write_registry(tree.home)
    bulk.write_inputs(tree.work)


def record(tree: Tree, *, train: bool) -> Facts:
    """Return the whole document of a tree."""
    prepare(tree)
    found = {name: section(tree) for name, section in SECTIONS.items()}
    document = {
        "versions": versions(),
        "facts": {name: facts for name, (facts, _) in found.items()},
        "words": {name: words for name, (_, words) in found.items()},
    }
    if train:
        document["trained"], document["words"]["trained"] = training.trained(tree)
    return plain(document)


def plain(value: Any) -> Any:
    """Return a value as JSON gives it back: tuples become lists."""
    return json.loads(json.dumps(value))


def versions() -> dict[str, str]:
    """Return the versions of the libraries that shape bytes."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def dump(value: Any, indent: str = "") -> str:
    """Return JSON with sorted keys, and on one line each value that fits."""
    line = json.dumps(value, sort_keys=True, ensure_ascii=False)
    if not isinstance(value, (dict, list)) or len(indent) + len(line) < WIDTH:
        return line
    below = indent + " "
    if isinstance(value, dict):
        items = [f"{json.dumps(key, ensure_ascii=False)}: {dump(item, below)}" for key, item in sorted(value.items())]
    else:
        items = [dump(item, below) for item in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}\n{below}" + f",\n{below}".join(items) + f"\n{indent}{closing}"
