"""The document of all that is recorded.

versions   of the libraries on which bytes depend
facts      the same on every machine: what programs read, and exit codes
words      sentences for people, and the hashes of parts in which such a sentence stands
trained    facts that need a trained network, and hold for one instruction set
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
"""Characters of a line in the document: a row of a bulk run has one."""


def options(tree: Tree) -> tuple[Facts, Facts]:
    """Return what each command takes, and its help."""
    script = Path(__file__).with_name("options.py")
    # -P: the folder of the script would stand before the tree.
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
"""What is recorded, each in a work folder that `prepare` has filled."""


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
    """Return a value as it is read back from JSON."""
    return json.loads(json.dumps(value))


def versions() -> dict[str, str]:
    """Return the versions of the libraries on which bytes depend."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def dump(value: Any, indent: str = "") -> str:
    """Return JSON, sorted by keys, in which whatever fits into a line has one."""
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
