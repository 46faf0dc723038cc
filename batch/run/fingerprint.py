"""The fingerprint: everything that shapes the bytes of a run's output. A run resumes only under an equal one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, UnsetType

from batch.inputs.plan import Plan  # noqa: TC001 # msgspec reads the annotations, here and below
from batch.inputs.shards import Shard  # noqa: TC001
from batch.rows.columns import SCHEMA_VERSION
from batch.rows.formats import Columns, Format, library_of  # msgspec reads the annotations
from classifier.shaping import library_versions
from classifier.types import EngineInfo  # noqa: TC001

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """Everything that shapes the bytes of the output.

    Attributes:
        shard: the run's share of the plan's chunks; None for all.
        model: `digits@sha256:…`.
        labels: the model's, in the order of `scores`.
        versions: versions of the libraries that shape pixels or bytes.
        escape_formulas: whether CSV fields that a spreadsheet would run are escaped. Unset, not False, if not, so that
            the JSON of runs without the option stays as it was.
    """

    schema_version: int
    plan: Plan
    shard: Shard | None
    format: Format
    top_k: int
    all_scores: bool
    image_timeout_s: float
    model: str
    labels: tuple[str, ...]
    engine: EngineInfo
    versions: dict[str, str]
    embeddings: bool = False
    escape_formulas: bool | UnsetType = UNSET

    @classmethod
    def of(
        cls,
        plan: Plan,
        columns: Columns,
        *,
        model: str,
        labels: tuple[str, ...],
        engine: EngineInfo,
        shard: Shard | None = None,
        image_timeout_s: float,
    ) -> Fingerprint:
        """Return the fingerprint of a run of `plan`, or of one shard of it, with the libraries of this machine."""
        return cls(
            schema_version=SCHEMA_VERSION,
            plan=plan,
            shard=shard,
            format=columns.format,
            top_k=columns.top_k,
            all_scores=columns.all_scores,
            image_timeout_s=image_timeout_s,
            model=model,
            labels=labels,
            engine=engine,
            versions=versions(columns.format),
            embeddings=columns.embeddings,
            escape_formulas=columns.escape_formulas or UNSET,
        )

    @property
    def columns(self) -> Columns:
        """How the run's rows are written."""
        return Columns(
            format=self.format,
            top_k=self.top_k,
            all_scores=self.all_scores,
            embeddings=self.embeddings,
            escape_formulas=self.escape_formulas is True,
        )

    @property
    def chunks(self) -> range:
        """The chunks of this run."""
        return range(self.plan.chunks) if self.shard is None else self.shard.of(self.plan.chunks)

    @property
    def images(self) -> int:
        """Number of images in these chunks."""
        # Only the plan's last chunk can be smaller.
        whole = len(self.chunks) * self.plan.chunk_size
        last = self.plan.chunks - 1
        return whole - (self.plan.chunk_size - self.plan.rows(last) if last in self.chunks else 0)

    def of_shard(self, shard: Shard) -> Fingerprint:
        """Return the fingerprint of one shard of this run."""
        return replace(self, shard=shard)

    def part(self, chunk: int) -> str:
        """Return the name of a chunk's part."""
        width = max(5, len(str(self.plan.chunks - 1)))
        return f"part-{chunk:0{width}}.{self.format}"

    def differences(self, now: Fingerprint) -> list[str]:
        """Return each difference as `engine.version was '1.31.1' and is '1.32.0'`."""
        before, after = (dict(_flatten(msgspec.to_builtins(each))) for each in (self, now))
        return [
            f"{name} was {_shorten(before.get(name))} and is {_shorten(after.get(name))}"
            for name in dict.fromkeys([*before, *after])
            if before.get(name) != after.get(name)
        ]


def versions(format: Format) -> dict[str, str]:
    """Return the versions of the libraries that shape pixels or a format's bytes."""
    return library_versions(library_of(format))


def _flatten(value: Any, name: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flatten(item, f"{name}.{key}" if name else key)
    else:
        yield name, value


def _name(item: object) -> str:
    if not isinstance(item, dict) or "path" not in item:
        return str(item)
    # Paths of a list are relative to the folder in which the run began.
    return f"in {item['location']}: {item['path']}" if item["kind"] == "list" else str(item["path"])


def _shorten(value: object) -> str:
    if isinstance(value, (list, tuple)):
        value = ", ".join(map(_name, value))
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:99]}…"
