"""The errors: the tree in the docstring is the tree of the classes."""

from __future__ import annotations

import re

from classifier import errors
from classifier.errors import TandemError


def test_the_docstring_draws_the_tree_of_the_classes() -> None:
    """Every class stands in the docstring, once and under its base."""
    drawn, branch = [], ["Exception"]
    for line in (errors.__doc__ or "").splitlines():
        if entry := re.match(r"((?:[├└│]?[─ ]{2,3} ?)*)([A-Z]\w+)  +\S", line):
            depth = len(entry[1]) // 4
            branch[depth + 1 :] = [entry[2]]
            drawn.append((entry[2], branch[depth]))
    defined = [
        (value.__name__, value.__bases__[0].__name__)
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, TandemError)
    ]
    assert drawn == defined
