"""Options, exit codes, rows, part files, JSON and HTTP answers are those of the released version, commit 42d9b67.

`released_outputs.json` stores them, without sentences for people. After a deliberate change of an output,
`python -m tests.system.released_outputs store` writes the new values; review the diff.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.system.released_outputs.document import SECTIONS, STORED, plain, prepare, versions
from tests.system.released_outputs.tree import Tree, differences, flat

if TYPE_CHECKING:
    from pathlib import Path

WRITERS = ("onnxruntime", "pyarrow")
"""Each Parquet part names their versions, so its bytes are compared only if the versions are the stored ones."""


@pytest.mark.parametrize("section", SECTIONS)
def test_gives_what_the_released_version_gave(section: str, tmp_path: Path) -> None:
    """Each output equals the stored one, and none is missing or new."""
    stored = json.loads(STORED.read_bytes())
    tree = Tree.of(None, tmp_path)
    prepare(tree)
    facts, _ = SECTIONS[section](tree)
    expected, found = flat(stored["facts"][section]), flat(plain(facts))
    other = [f"{name} {versions()[name]}" for name in WRITERS if versions()[name] != stored["versions"][name]]
    in_parquet = {place for place in expected if other and place.endswith(".parquet")}
    assert differences(without(expected, in_parquet), without(found, in_parquet)) == []
    if in_parquet:
        pytest.skip(f"the bytes of Parquet are not compared: they depend on {' and '.join(other)}; the rest agrees")


def without(values: dict[str, object], places: set[str]) -> dict[str, object]:
    return {place: value for place, value in values.items() if place not in places}
