"""API keys: the lines that admit them, and the file that holds the lines."""

from __future__ import annotations

import os
import re
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from service.access import keys
from service.access.keys import ApiKeys, make_key

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Tandem


def line_of(key: str, name: str = "shop") -> str:
    return f"{name} sha256:{sha256(key.encode()).hexdigest()}"


def test_a_made_key_is_admitted_by_its_line() -> None:
    """Two keys are never alike, and each is known by its client's name."""
    (first, its_line), (second, _) = make_key("shop"), make_key("shop")
    known = ApiKeys(its_line)
    assert first != second
    assert known.name_of(first.encode()) == "shop"
    for other in (second, first[:-1], first + "x", "", first.upper(), f" {first}"):
        assert known.name_of(other.encode()) is None


def test_several_keys(tmp_path: Path) -> None:
    """Each client has its own; one with two, as while a key is replaced, may use both. Comments are left out."""
    made = [make_key(name) for name in ("a", "b", "a")]
    file = tmp_path / "keys"
    file.write_text("# keys\n\n" + "\n".join(f"{line}  # since May" for _, line in made))
    for known in (ApiKeys(str(file)), ApiKeys(",".join(line for _, line in made))):
        assert [known.name_of(key.encode()) for key, _ in made] == ["a", "b", "a"]


@pytest.mark.parametrize(
    ("lines", "fact"),
    [
        ("", "has no key"),
        ("# nothing", "has no key"),
        ("shop tandem_a-secret-key", "line 1 of"),
        (f"shop {'0' * 64}", "is not 'NAME sha256:"),
        ("shop sha256:abc", "line 1 of"),
        (f"{line_of('x' * 32)}\nshop", "line 2 of"),
        (f"two words sha256:{'0' * 64}", "line 1 of"),
        (f"a\x1b[2J sha256:{'0' * 64}", "the name in line 1"),
        (line_of("x" * 32, "x" * 65), "the name in line 1"),
        (f"{line_of('x' * 32, 'a')}\n{line_of('x' * 32, 'b')}", "another client's key"),
        (line_of(""), "empty key"),
    ],
)
def test_malformed_lines(tmp_path: Path, lines: str, fact: str) -> None:
    """The sentence names the line and the remedy, and never shows what stands there: it may be a key."""
    file = tmp_path / "keys"
    file.write_text(lines)
    with pytest.raises(ValueError, match=re.escape(fact)) as raised:
        ApiKeys(str(file))
    assert "tandem keys new NAME" in str(raised.value)
    assert "secret" not in str(raised.value)


def test_no_file(tmp_path: Path) -> None:
    """A missing file, a folder and bytes that are not text end in a sentence."""
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for path in (tmp_path / "none", tmp_path, tmp_path / "bytes"):
        with pytest.raises(ValueError, match="can't be read"):
            ApiKeys(str(path))


def test_a_short_key_is_never_admitted() -> None:
    """Its hash would give it away, so a line with the hash of a password admits nobody."""
    assert ApiKeys(line_of("password123")).name_of(b"password123") is None
    assert ApiKeys(line_of("k" * 32)).name_of(b"k" * 32) == "shop"


def test_the_file_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A key that is added or removed counts without a restart; a malformed or missing file changes nothing."""
    monkeypatch.setattr(keys, "CHECK_EVERY_S", 0.0)
    (first, first_line), (second, second_line) = make_key("first"), make_key("second")
    file = tmp_path / "keys"

    def write(text: str) -> None:
        new = tmp_path / "new"
        new.write_text(text)
        os.replace(new, file)  # noqa: PTH105  # as editors and Kubernetes do

    write(first_line)
    known = ApiKeys(str(file))
    write(f"{first_line}\n{second_line}")
    assert known.name_of(second.encode()) == "second"
    write(f"{first_line}\nmalformed {second}")
    assert known.name_of(second.encode()) == "second"
    assert "line 2 of" in caplog.text
    assert second not in caplog.text
    file.unlink()
    assert known.name_of(first.encode()) == "first"
    write(second_line)
    assert known.name_of(first.encode()) is None


def test_command(tandem: Tandem) -> None:
    """`tandem keys new` prints the line for the file on standard output, and the key, for people, beside it."""
    done = tandem("keys", "new", "shop")
    [line] = done.stdout.splitlines()
    [key] = re.findall(r"tandem_[\w-]{43}", done.stderr)
    assert ApiKeys(line).name_of(key.encode()) == "shop"
    refused = tandem("keys", "new", "my shop", check=False)
    assert refused.returncode == 2
    assert "'my shop' is not a client's name" in refused.stderr
