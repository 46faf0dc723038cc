"""Record the outputs of a tree that users rely on, and compare two records.

Run it in the project's root, with the Python of `nox -s tests`:

    python -m tests.system.released_outputs record before.json --tree CLONE --train
    python -m tests.system.released_outputs record after.json --train
    python -m tests.system.released_outputs compare before.json after.json

`compare` prints each difference. It exits with 1 if facts differ, and with 0 if only sentences for people do. Record
both on one machine: a trained network's scores depend on the CPU's instruction set.

    python -m tests.system.released_outputs store

`store` writes `released_outputs.json`, the facts that `test_released_outputs.py` expects. Run it after a deliberate
change of an output, and review the diff.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.system.released_outputs.document import STORED, dump, record
from tests.system.released_outputs.tree import Tree, differences, flat

if TYPE_CHECKING:
    from tests.system.released_outputs.tree import Facts


def main() -> int:
    """Run the command that the arguments name; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.system.released_outputs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record")
    recording.add_argument("file", type=Path)
    recording.add_argument("--train", action="store_true", help="also train and export the digits; needs torch")
    comparing = commands.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    storing = commands.add_parser("store")
    for each in (recording, storing):
        each.add_argument("--tree", type=Path, help="sources to run, in place of the installed ones")
    given = parser.parse_args()
    if given.command == "compare":
        return compare(json.loads(given.before.read_bytes()), json.loads(given.after.read_bytes()))
    if given.command == "record":
        given.file.write_text(dump(_record(given.tree, train=given.train)) + "\n", encoding="utf-8")
    else:
        document = _record(given.tree, train=False)
        STORED.write_text(dump({name: document[name] for name in ("versions", "facts")}) + "\n", encoding="utf-8")
    return 0


def _record(path: Path | None, *, train: bool) -> Facts:
    with tempfile.TemporaryDirectory() as work:
        return record(Tree.of(path and path.resolve(), Path(work)), train=train)


def compare(before: Facts, after: Facts) -> int:
    """Print the differences, section by section; return 1 if there are any but in words."""
    code = 0
    for section in sorted(before.keys() | after.keys()):
        was, now = flat(before.get(section)), flat(after.get(section))
        found = differences(was, now)
        print(f"{section}: {len(found)} of {len(was)} values differ")
        for line in found:
            print(f"  {line}")
        if found and section != "words":
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
