"""The cache of compiled models: entries are whole or missing, whoever writes, and no run depends on them."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from classifier.engines import cache
from classifier.engines.cache import entry_path, read_entry, write_entry
from tests.conftest import ROOT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty TANDEM_HOME."""
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def path_of(*key: str) -> Path:
    path = entry_path(*key)
    assert path is not None
    return path


def test_what_is_written_is_read(home: Path) -> None:
    """An entry is found by exactly its key; looking for one creates no folder."""
    path = path_of("openvino", "2026.4.1")
    assert read_entry(path) is None
    assert not home.exists()
    write_entry(path, b"compiled")
    assert read_entry(path_of("openvino", "2026.4.1")) == b"compiled"
    assert path.is_relative_to(home / "cache")
    for other in (("openvino", "2026.4.2"), ("openvino2026.4.1",), ("openvino", "2026.4.1", "")):
        assert read_entry(path_of(*other)) is None


@given(position=st.integers(0, 131), value=st.integers(1, 255), end=st.none() | st.integers(0, 131))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_entry_counts_as_missing(home: Path, position: int, value: int, end: int | None) -> None:
    """An entry altered or cut anywhere is ignored, and can be written again."""
    path = path_of("damaged")
    write_entry(path, bytes(100))
    data = bytearray(path.read_bytes())
    data[position] ^= value
    path.write_bytes(data[:end])
    assert read_entry(path) is None
    write_entry(path, bytes(100))
    assert read_entry(path) == bytes(100)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="the system has no users")
def test_another_users_entry_is_not_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a shared home, users trust only their own entries, and nobody else can read these."""
    path = path_of("mine")
    write_entry(path, b"compiled")
    assert path.stat().st_mode & 0o077 == 0
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert read_entry(path) is None


def test_a_home_that_can_t_be_written(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If the cache can't be written there is none, and only the debug log says so."""
    home.write_text("a file where the folder should be")
    caplog.set_level(logging.INFO)
    write_entry(path_of("x"), b"compiled")
    assert read_entry(path_of("x")) is None
    assert caplog.messages == []


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a home folder, as in some containers, there is no cache."""

    def no_home() -> None:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(cache, "tandem_home", no_home)
    assert entry_path("x") is None


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of the process's files")
def test_a_full_disk(home: Path) -> None:
    """An entry that does not fit on the disk leaves nothing behind."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            (
                "import resource, signal\n"
                "from classifier.engines.cache import entry_path, write_entry\n"
                "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
                "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
                "write_entry(entry_path('x'), bytes(100_000))\n"
            ),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert list((home / "cache" / "compiled").iterdir()) == []


def test_a_cache_that_can_only_be_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries of a read-only cache, as in a container, are still used."""

    def refuse(*args: object) -> None:
        raise PermissionError(30, "Read-only file system")

    write_entry(path_of("x"), b"compiled")
    monkeypatch.setattr(os, "utime", refuse)
    assert read_entry(path_of("x")) == b"compiled"


def test_what_was_not_used_for_longest_goes_first(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The least recently used entries are removed over the limit; reading counts as use."""
    monkeypatch.setattr(cache, "LIMIT_BYTES", 3_500)
    for age, name in ((30, "a"), (20, "b"), (10, "c")):
        write_entry(path_of(name), bytes(1_000))
        stat = path_of(name).stat()
        os.utime(path_of(name), (stat.st_atime, stat.st_mtime - age))
    assert read_entry(path_of("a")) is not None
    write_entry(path_of("d"), bytes(1_000))
    kept = {name for name in "abcd" if read_entry(path_of(name)) is not None}
    assert kept == {"a", "c", "d"}


def _write_and_read(number: int) -> bool:
    path = path_of("shared")
    for _ in range(30):
        write_entry(path, bytes([number]) * 100_000)
        contents = read_entry(path)
        if contents is None or len(contents) != 100_000 or len(set(contents)) != 1:
            return False
    return True


def test_many_processes(home: Path) -> None:
    """Processes that write one entry at once never read a partial or mixed one."""
    with ProcessPoolExecutor(4) as pool:
        assert all(pool.map(_write_and_read, range(4)))
    assert [path.suffix for path in (home / "cache" / "compiled").iterdir()] == [".blob"]
