"""The pages: they hold with many classes, hostile names and images that are gone."""

from __future__ import annotations

import numpy as np

from batch.review.page import MATRIX_CLASSES
from commands.val import SHOWN_CLASSES, summarise
from tests.validation.scored import scored_files
from validation.comparing import compare_scores
from validation.measuring import validate
from validation.pages import comparison_page, validation_page

HOSTILE = "<script>alert(1)</script>{{ 7 * 7 }}"


def test_many_classes() -> None:
    """With more than 30 classes, page and terminal list the lowest recalls, and the page has no matrix."""
    labels = [f"label {i}" for i in range(100)]
    given = [0 if i % 10 == 9 else i for i in range(100)]
    scored = scored_files(np.eye(100)[given], list(range(100)), labels)
    result = validate(scored)
    page = validation_page(result, scored)
    assert len(labels) > MATRIX_CLASSES
    assert "Confusion matrix" not in page
    assert page.index('<th scope="row">label 9</th>') < page.index('<th scope="row">label 0</th>')
    assert "Without pictures: none of these images could be read again" in page
    lines = summarise(result)
    assert lines[3].startswith("label 9 ")
    assert f"{100 - SHOWN_CLASSES} more classes, with a higher recall" in lines


def test_hostile_names() -> None:
    """Labels and paths are text on both pages, never markup or a template."""
    labels = (HOSTILE, "bee")
    a = scored_files(np.array([[0.9, 0.1], [0.8, 0.2]]), [0, 1], labels)
    b = scored_files(np.array([[0.1, 0.9], [np.nan, np.nan]]), [0, 1], labels)
    for page in (validation_page(validate(a), a), comparison_page(compare_scores(a, b, margin=0.1), a)):
        assert "<script" not in page
        assert "&lt;script&gt;alert(1)&lt;/script&gt;{{ 7 * 7 }}" in page


def test_a_comparison_without_scores_of_one_model() -> None:
    """The sheet says that a model has no scores; an image that both get wrong has a sheet of its own."""
    a = scored_files(np.array([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0]]), [0, 2], ("ant", "bee", "cat"))
    b = scored_files(np.array([[np.nan] * 3, [0.1, 0.9, 0.0]]), [0, 2], ("ant", "bee", "cat"))
    page = comparison_page(compare_scores(a, b, margin=0.5), a)
    assert "B: no scores" in page
    assert "Only A is right" in page
    assert "Both are wrong, each in its own way" in page
    assert "Only B is right" not in page
    assert "not passed" in page
