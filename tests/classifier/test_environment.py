from __future__ import annotations

import pytest

from classifier.environment import seconds_in


@pytest.mark.parametrize(("text", "seconds"), [(None, 60.0), ("", 60.0), ("5", 5.0), ("0.5", 0.5)])
def test_seconds(text: str | None, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is not set, or empty, means the default."""
    monkeypatch.delenv("TANDEM_X", raising=False)
    if text is not None:
        monkeypatch.setenv("TANDEM_X", text)
    assert seconds_in("TANDEM_X", 60.0) == seconds


@pytest.mark.parametrize("text", ["soon", "0", "-1", "inf", "nan"])
def test_what_is_no_number_of_seconds(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence names the variable, its value, and a number that would do."""
    monkeypatch.setenv("TANDEM_X", text)
    with pytest.raises(ValueError, match=f"TANDEM_X is '{text}', which is not a number of seconds: .* such as 60"):
        seconds_in("TANDEM_X", 60.0)
