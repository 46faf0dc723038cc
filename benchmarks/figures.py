"""What a benchmark ends with: figures, each with the bar that it has to keep."""

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
    """One figure with the limit that it has to keep."""

    value: float
    bar: float
    holds: bool


def at_least(value: float, bar: float) -> Bar:
    """Return the bar of a figure that is the better the larger it is."""
    return Bar(value=round(value, 3), bar=bar, holds=value >= bar)


def at_most(value: float, bar: float) -> Bar:
    """Return the bar of a figure that is the better the smaller it is."""
    return Bar(value=round(value, 3), bar=bar, holds=value <= bar)


def finish(bars: Mapping[str, Bar], figures: Mapping[str, object], target: Path | None) -> NoReturn:
    """Print the bars, write them below the `figures` into `target`, and exit with 1 where one isn't kept."""
    print()
    width = max(map(len, bars))
    for figure, bar in bars.items():
        print(f"{figure:{width}}  {bar.value:>8g}  bar {bar.bar:>5g}  {'holds' if bar.holds else 'MISSED'}")
    if target is not None:
        contents = {**figures, "bars": {figure: asdict(bar) for figure, bar in bars.items()}}
        target.write_text(json.dumps(contents, indent=2) + "\n")
    sys.exit(0 if all(bar.holds for bar in bars.values()) else 1)
