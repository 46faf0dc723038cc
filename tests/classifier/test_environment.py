from __future__ import annotations

import pytest

from classifier.environment import bytes_in, number_in, part_in, seconds_in


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


def test_no_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none is a time, too, 0 is taken."""
    monkeypatch.setenv("TANDEM_X", "0")
    assert seconds_in("TANDEM_X", 60.0, or_none=True) == 0


def test_bytes_within_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on bytes is lowered with the same units; none and more are refused."""
    for text in ("1KiB", "1024"):
        monkeypatch.setenv("TANDEM_X", text)
        assert bytes_in("TANDEM_X", 7, at_most=1024) == 1024
    for text in ("0", "1025", "1MiB"):
        monkeypatch.setenv("TANDEM_X", text)
        with pytest.raises(ValueError, match="from 1 to the built-in limit of 1,024"):
            bytes_in("TANDEM_X", 7, at_most=1024)


@pytest.mark.parametrize(
    ("text", "size"),
    [(None, 7), ("", 7), ("0", 0), ("12", 12), ("12B", 12), ("3 kB", 3000), ("2MiB", 2 << 20), ("1gb", 10**9)],
)
def test_bytes(text: str | None, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of 1,000 and of 1,024, in any case; no unit means bytes."""
    monkeypatch.delenv("TANDEM_X", raising=False)
    if text is not None:
        monkeypatch.setenv("TANDEM_X", text)
    assert bytes_in("TANDEM_X", 7) == size


@pytest.mark.parametrize("text", ["much", "-1", "1.5GB", "1 MiB MiB", "MiB", "1e9", "1TB", "9" * 5000])
def test_what_is_no_number_of_bytes(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence names the variable, its value, and a number that would do."""
    monkeypatch.setenv("TANDEM_X", text)
    with pytest.raises(ValueError, match=r"TANDEM_X is .*, which is not a number of bytes: .* such as 128MiB"):
        bytes_in("TANDEM_X", 7)


@pytest.mark.parametrize(("text", "number"), [("", 9), ("1", 1), ("9", 9), ("007", 7)])
def test_number(monkeypatch: pytest.MonkeyPatch, text: str, number: int) -> None:
    """A limit is lowered by a whole number; without one it stays."""
    monkeypatch.setenv("TANDEM_X", text)
    assert number_in("TANDEM_X", at_most=9) == number


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "10", "many", "1e3", "²", "9" * 5000])
def test_no_number(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """What is not a number, or over the limit, ends in a sentence that names the variable and the limit."""
    monkeypatch.setenv("TANDEM_X", text)
    with pytest.raises(ValueError, match=r"TANDEM_X is .*\b9\b"):
        number_in("TANDEM_X", at_most=9)


def test_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part is over 0 and at most 1."""
    for text, part in (("", 0.5), ("1", 1.0), ("0.25", 0.25)):
        monkeypatch.setenv("TANDEM_X", text)
        assert part_in("TANDEM_X", 0.5) == part
    for text in ("0", "1.1", "-0.5", "nan", "50%"):
        monkeypatch.setenv("TANDEM_X", text)
        with pytest.raises(ValueError, match=f"TANDEM_X is '{text}'"):
            part_in("TANDEM_X", 0.5)
