"""The fingerprint: all on which the bytes of a run's output depend. A run is only resumed under an equal one."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from PIL import features

from batch.output import SCHEMA_VERSION, Format
from batch.plan import Plan  # noqa: TC001 # msgspec reads the annotations, here and below
from classifier.types import EngineInfo  # noqa: TC001

if TYPE_CHECKING:
    from collections.abc import Iterator

    from classifier.model import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """All on which the bytes of the output depend.

    Attributes:
        model: `digits@sha256:…`.
        versions: of the libraries that shape pixels or bytes.
    """

    schema_version: int
    plan: Plan
    format: Format
    top_k: int
    all_scores: bool
    model: str
    engine: EngineInfo
    versions: dict[str, str]

    @classmethod
    def of(cls, plan: Plan, model: Model, *, format: Format, top_k: int, all_scores: bool) -> Fingerprint:
        """Return the fingerprint of a run of `plan` with `model` on this machine."""
        return cls(
            schema_version=SCHEMA_VERSION,
            plan=plan,
            format=format,
            top_k=top_k,
            all_scores=all_scores,
            model=model.identity,
            engine=model.engine.info,
            versions=_versions(format),
        )

    def differences(self, now: Fingerprint) -> list[str]:
        """Return what differs, each as `engine.version was '1.31.1' and is '1.32.0'`."""
        before, after = (dict(_flatten(msgspec.to_builtins(each))) for each in (self, now))
        return [
            f"{name} was {_shorten(before.get(name))} and is {_shorten(after.get(name))}"
            for name in dict.fromkeys([*before, *after])
            if before.get(name) != after.get(name)
        ]


_WRITERS: dict[Format, str] = {"parquet": "pyarrow", "csv": "msgspec", "jsonl": "msgspec"}
"""The library that writes each format's bytes."""


def _versions(format: Format) -> dict[str, str]:
    versions = {name: _version(name) for name in ("tandem", "pillow", _WRITERS[format])}
    # A Pillow that was built from source decodes with the libraries of its machine.
    for codec in ("libjpeg_turbo", "zlib", "webp"):
        versions[codec] = str(features.version(codec))
    return versions


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"  # Tandem itself, where it runs from its sources


def _flatten(value: Any, name: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flatten(item, f"{name}.{key}" if name else key)
    else:
        yield name, value


def _shorten(value: object) -> str:
    if isinstance(value, (list, tuple)):
        value = ", ".join(str(item.get("path", item)) if isinstance(item, dict) else str(item) for item in value)
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:99]}…"
