"""Renders pages as self-contained HTML files: no script, no external font, no external image."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifier.extras import installed_version
from classifier.wording import counted, duration, escaped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batch.rows.columns import Score

SHARED = Path(__file__).parent
"""Holds `layout.html.jinja` and `parts.html.jinja`, which every page is made of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """An image with its answers on a contact sheet.

    Attributes:
        place: the path with the input that it is below.
        picture: a data URI, or None.
        guesses: labels with their scores; the first is in bold.
        truth: the label that the image has; None to leave it out.
    """

    path: str
    place: str
    picture: str | None
    guesses: Sequence[Score]
    truth: str | None


def render(template: Path, **values: Any) -> str:
    """Return the page of a template, every value escaped."""
    import jinja2  # noqa: PLC0415 # no other command needs it

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, SHARED]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    numbers = {"number": lambda n: f"{n:,}", "counted": counted, "percent": _percent, "size": _size}
    environment.filters |= {**numbers, "duration": duration}
    version = installed_version("tandem") or "from its sources"
    return environment.get_template(template.name).render(version=version, now=datetime.now(UTC), **values)


def _visible(value: object) -> object:
    return value if type(value) is not str or value.isprintable() else escaped(value)


def _percent(share: float, digits: int = 1) -> str:
    return f"{share:.{digits}%}"


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
