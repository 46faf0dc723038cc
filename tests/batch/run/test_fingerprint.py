from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from batch.inputs.plan import Plan, PlannedInput
from batch.inputs.selection import Selection
from batch.inputs.shards import Shard
from batch.rows.formats import Columns
from batch.run.fingerprint import Fingerprint, versions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from classifier.model import Model

PLAN = Plan(
    inputs=(
        PlannedInput(given="photos", location="/data/photos", path="/data/photos", kind="parquet", column="image"),
    ),
    selection=Selection(include=("*.img",), exclude=("thumbs",)),
    images=10,
    chunk_size=4,
    skipped={"hidden": 1},
    digest="sha256:" + "0" * 64,
)
SHARD = Shard(number=1, count=2)


def of(model: Model) -> Fingerprint:
    engine = model.engine.info
    return Fingerprint.of(
        PLAN,
        Columns(),
        model=model.identity,
        labels=model.config.labels,
        engine=engine,
        shard=SHARD,
        image_timeout_s=5,
    )


@pytest.fixture
def fingerprint(model: Model) -> Fingerprint:
    return of(model)


def test_equal_runs_have_no_differences(fingerprint: Fingerprint, model: Model) -> None:
    """The same run on the same machine has the same fingerprint."""
    again = of(model)
    assert fingerprint.differences(again) == []


def changes(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the name of each field, with a copy of the whole in which that field is another."""
    if isinstance(value, dict):
        for key, item in value.items():
            for below, other in changes(item, f"{name}.{key}".removeprefix(".")):
                yield below, {**value, key: other}
    elif name in ("format", "engine.precision"):
        yield name, {"format": "csv", "engine.precision": "bf16" if value != "bf16" else "fp32"}[name]
    elif isinstance(value, bool):
        yield name, not value
    elif isinstance(value, tuple):
        yield name, value * 2
    elif isinstance(value, str):
        yield name, f"{value}x"
    else:
        yield name, (value or 0) + 1


def test_each_difference_is_named(fingerprint: Fingerprint) -> None:
    """Whatever changes between two runs is what the refusal names, and nothing else is."""
    named = set()
    for name, other in changes(msgspec.to_builtins(fingerprint)):
        [difference] = fingerprint.differences(msgspec.convert(other, Fingerprint))
        assert difference.startswith(f"{name} was ")
        named.add(name)
    assert {
        "plan.inputs", "plan.chunk_size", "plan.digest", "plan.selection.include", "plan.selection.exclude",
        "plan.selection.follow_symlinks", "shard.number", "shard.count",
        "image_timeout_s", "format", "top_k", "all_scores", "embeddings", "model", "labels", "schema_version",
        "engine.name", "engine.version", "engine.device", "engine.precision", "engine.instruction_set",
        "engine.batch_size",
        "versions.tandem", "versions.pillow", "versions.pyarrow",
    } <= named  # fmt: skip


def test_csv_does_not_depend_on_pyarrow() -> None:
    """An update of pyarrow does not stop a run that writes CSV."""
    assert "pyarrow" not in versions("csv")
