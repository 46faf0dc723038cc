"""Results of a benchmark: figures, each with its limit (the bar)."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One figure with the limit that it has to keep.

    If this machine can't measure it, the value is None and the bar does not hold.
    """

    value: float | None
    bar: float
    holds: bool


def at_least(value: float | None, bar: float) -> Bar:
    """Return the bar of a figure that is the better the larger it is."""
    return Bar(value=_rounded(value), bar=bar, holds=value is not None and value >= bar)


def at_most(value: float | None, bar: float) -> Bar:
    """Return the bar of a figure that is the better the smaller it is."""
    return Bar(value=_rounded(value), bar=bar, holds=value is not None and value <= bar)


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.3g}")


def finish(bars: Mapping[str, Bar], figures: Mapping[str, object], target: Path | None) -> NoReturn:
    """Print the bars, write them below the `figures` into `target`, and exit with 1 if one isn't kept."""
    print()
    width = max(map(len, bars))
    for figure, bar in bars.items():
        value = "-" if bar.value is None else f"{bar.value:g}"
        verdict = "holds" if bar.holds else "not measured" if bar.value is None else "MISSED"
        print(f"{figure:{width}}  {value:>8}  bar {bar.bar:>6g}  {verdict}")
    if target is not None:
        contents = {**figures, "bars": {figure: asdict(bar) for figure, bar in bars.items()}}
        target.write_text(json.dumps(contents, indent=2) + "\n")
    sys.exit(0 if all(bar.holds for bar in bars.values()) else 1)
