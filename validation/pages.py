"""The pages of `tandem val` and `tandem compare`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from batch.review.page import MATRIX_CLASSES, SHOWN_CLASSES, SHOWN_PAIRS
from batch.review.templates import Figure, render
from batch.review.thumbnails import thumbnails
from batch.rows.columns import Score

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from batch.inputs.plan import ImageFile
    from validation.comparing import Answer, Comparison, Difference
    from validation.measuring import Mistake, Validation
    from validation.scoring import ScoredFiles

VALIDATION = Path(__file__).with_name("validation.html.jinja")
COMPARISON = Path(__file__).with_name("comparison.html.jinja")

SHOWN_DIFFERENCES = 48
"""Most images on one contact sheet of a comparison; the JSON file lists all."""

SHOWN_FAILED = 25

_SHEETS: dict[str, Callable[[Difference], bool]] = {
    "Only A is right": lambda each: each.a.label == each.label,
    "Only B is right": lambda each: each.b.label == each.label,
    "Both are wrong, each in its own way": lambda each: each.label not in {each.a.label, each.b.label},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """An image to make a thumbnail of."""

    position: int
    file: ImageFile
    sha256: str | None


def validation_page(result: Validation, scored: ScoredFiles) -> str:
    """Return the page of a validation; `scored` says where the images are."""
    pairs = Counter({(label, given): n for label, row in result.confusion.items() for given, n in row.items()})
    classes = [each for each in result.per_class if each.support or each.precision is not None]
    labels = [each.label for each in classes]
    if len(labels) > MATRIX_CLASSES:
        classes.sort(key=lambda each: 2.0 if each.recall is None else each.recall)
    mistakes = Counter({pair: count for pair, count in pairs.items() if pair[0] != pair[1]})
    pictures = _pictures((each.position for each in result.worst), scored)
    return render(
        VALIDATION,
        result=result,
        engine=str(result.engine),
        classes=classes[:SHOWN_CLASSES],
        all_classes=len(classes),
        matrix=labels if len(labels) <= MATRIX_CLASSES else None,
        pairs=pairs,
        images_of={each.label: each.support for each in classes},
        mistakes=mistakes.most_common(SHOWN_PAIRS),
        worst=[_mistake(each, result.data.folder, pictures.get(each.position)) for each in result.worst],
        shown_failed=SHOWN_FAILED,
    )


def comparison_page(result: Comparison, scored: ScoredFiles) -> str:
    """Return the page of a comparison; `scored` says where the images are."""
    sorted_out = {title: [each for each in result.differences if takes(each)] for title, takes in _SHEETS.items()}
    shown = {title: found[:SHOWN_DIFFERENCES] for title, found in sorted_out.items()}
    pictures = _pictures((each.position for found in shown.values() for each in found), scored)
    return render(
        COMPARISON,
        result=result,
        classes=sorted(result.per_class, key=lambda each: each.b_recall - each.a_recall)[:SHOWN_CLASSES],
        sheets=[
            (
                title,
                len(sorted_out[title]),
                [_difference(each, result.data.folder, pictures.get(each.position)) for each in found],
            )
            for title, found in shown.items()
            if found
        ],
        shown_failed=SHOWN_FAILED,
    )


def _pictures(positions: Iterable[int], scored: ScoredFiles) -> dict[int, str]:
    return thumbnails(_Shown(position=each, file=scored.files[each], sha256=scored.sha256[each]) for each in positions)


def _mistake(mistake: Mistake, folder: str, picture: str | None) -> Figure:
    guesses = (
        Score(label=mistake.given, score=mistake.score),
        Score(label=mistake.label, score=mistake.label_score),
    )
    return _figure(mistake.path, folder, picture, guesses, mistake.label)


def _difference(difference: Difference, folder: str, picture: str | None) -> Figure:
    guesses = (_guess("A", difference.a), _guess("B", difference.b))
    return _figure(difference.path, folder, picture, guesses, difference.label)


def _guess(model: str, answer: Answer) -> Score:
    return Score(label=f"{model}: {'no scores' if answer.label is None else answer.label}", score=answer.score or 0.0)


def _figure(path: str, folder: str, picture: str | None, guesses: Sequence[Score], truth: str) -> Figure:
    return Figure(path=path, place=f"{folder}/{path}", picture=picture, guesses=guesses, truth=truth)
