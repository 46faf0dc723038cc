from __future__ import annotations

import pytest

from classifier.images.names import reason_to_skip_name


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (".hidden.png", "hidden"),
        ("._cat.png", "hidden"),
        ("@eaDir", "system folder"),
        ("@EADIR", "system folder"),
        ("__MACOSX", "system folder"),
        ("$RECYCLE.BIN", "system folder"),
        ("cat.png", None),
        ("@home", None),
    ],
)
def test_reason_to_skip_name(name: str, reason: str | None) -> None:
    """Hidden entries and folders of other systems hold no image of the user."""
    assert reason_to_skip_name(name) == reason
