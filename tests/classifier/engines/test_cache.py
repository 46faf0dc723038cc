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
from classifier.engines.cache import Entry, find_entry, read_entry, write_entry
from tests.conftest import ROOT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty TANDEM_HOME."""
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def entry_of(*key: str) -> Entry:
    entry = find_entry(*key)
    assert entry is not None
    return entry


def test_what_is_written_is_read(home: Path) -> None:
    """An entry is found by exactly its key; looking for one creates no folder."""
    entry = entry_of("openvino", "2026.4.1")
    assert read_entry(entry) is None
    assert not home.exists()
    write_entry(entry, b"compiled")
    assert read_entry(entry_of("openvino", "2026.4.1")) == b"compiled"
    assert entry.path.is_relative_to(home / "cache")
    for other in (("openvino", "2026.4.2"), ("openvino2026.4.1",), ("openvino", "2026.4.1", "")):
        assert read_entry(entry_of(*other)) is None


@given(position=st.integers(0, 148), value=st.integers(1, 255), end=st.none() | st.integers(0, 148))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_entry_counts_as_missing(home: Path, position: int, value: int, end: int | None) -> None:
    """An entry altered or cut anywhere is ignored, and can be written again."""
    entry = entry_of("damaged")
    write_entry(entry, bytes(100))
    data = bytearray(entry.path.read_bytes())
    assert len(data) == 149
    data[position] ^= value
    entry.path.write_bytes(data[:end])
    assert read_entry(entry) is None
    write_entry(entry, bytes(100))
    assert read_entry(entry) == bytes(100)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="the system has no users")
def test_another_users_entry_is_not_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a shared home, users trust only their own entries, and nobody else can read these."""
    entry = entry_of("mine")
    write_entry(entry, b"compiled")
    assert entry.path.stat().st_mode & 0o077 == 0
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert read_entry(entry) is None
    before = entry.path.read_bytes()
    write_entry(entry, b"of another user")
    assert entry.path.read_bytes() == before


def test_an_entry_under_another_name_is_not_used(home: Path) -> None:
    """What one model compiled to never runs as another, though its digest is right."""
    mine, other = entry_of("openvino", "sha256:1/model.onnx"), entry_of("openvino", "sha256:2/model.onnx")
    write_entry(other, b"compiled from another model")
    mine.path.write_bytes(other.path.read_bytes())
    mine.path.chmod(0o600)
    assert read_entry(mine) is None
    write_entry(mine, b"compiled")
    assert (read_entry(mine), read_entry(other)) == (b"compiled", b"compiled from another model")


@pytest.mark.skipif(os.name != "posix", reason="the system has other permissions")
@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_folder_that_others_may_write_is_not_trusted(home: Path, mode: int) -> None:
    """Its entries are ignored until the next write, which takes the permission away."""
    entry = entry_of("x")
    write_entry(entry, b"compiled")
    entry.path.parent.chmod(mode)
    assert read_entry(entry) is None
    write_entry(entry, b"again")
    assert entry.path.parent.stat().st_mode & 0o022 == 0
    assert read_entry(entry) == b"again"


@pytest.mark.skipif(os.name != "posix", reason="the system has other permissions")
def test_a_file_that_others_may_write_and_a_link_are_not_trusted(home: Path, tmp_path: Path) -> None:
    entry = entry_of("x")
    write_entry(entry, b"compiled")
    entry.path.chmod(0o660)
    assert read_entry(entry) is None
    entry.path.chmod(0o600)
    entry.path.rename(tmp_path / "elsewhere")
    entry.path.symlink_to(tmp_path / "elsewhere")
    assert read_entry(entry) is None


def test_a_folder_made_under_any_umask_is_private(home: Path) -> None:
    before = os.umask(0)
    try:
        write_entry(entry_of("x"), b"compiled")
    finally:
        os.umask(before)
    assert entry_of("x").path.parent.stat().st_mode & 0o077 == 0


def test_a_home_that_can_t_be_written(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If the cache can't be written there is none, and only the debug log says so."""
    home.write_text("a file where the folder should be")
    caplog.set_level(logging.INFO)
    write_entry(entry_of("x"), b"compiled")
    assert read_entry(entry_of("x")) is None
    assert caplog.messages == []


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a home folder, as in some containers, there is no cache."""

    def no_home() -> None:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(cache, "tandem_home", no_home)
    assert find_entry("x") is None


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of the process's files")
def test_a_full_disk(home: Path) -> None:
    """An entry that does not fit on the disk leaves nothing behind."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            (
                "import resource, signal\n"
                "from classifier.engines.cache import find_entry, write_entry\n"
                "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
                "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
                "write_entry(find_entry('x'), bytes(100_000))\n"
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

    write_entry(entry_of("x"), b"compiled")
    monkeypatch.setattr(os, "utime", refuse)
    assert read_entry(entry_of("x")) == b"compiled"


def test_what_was_not_used_for_longest_goes_first(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The least recently used entries are removed over the limit; reading counts as use."""
    monkeypatch.setattr(cache, "LIMIT_BYTES", 3_500)
    for age, name in ((30, "a"), (20, "b"), (10, "c")):
        write_entry(entry_of(name), bytes(1_000))
        stat = entry_of(name).path.stat()
        os.utime(entry_of(name).path, (stat.st_atime, stat.st_mtime - age))
    assert read_entry(entry_of("a")) is not None
    write_entry(entry_of("d"), bytes(1_000))
    kept = {name for name in "abcd" if read_entry(entry_of(name)) is not None}
    assert kept == {"a", "c", "d"}


def _write_and_read(number: int) -> bool:
    entry = entry_of("shared")
    for _ in range(30):
        write_entry(entry, bytes([number]) * 100_000)
        contents = read_entry(entry)
        if contents is None or len(contents) != 100_000 or len(set(contents)) != 1:
            return False
    return True


def test_many_processes(home: Path) -> None:
    """Processes that write one entry at once never read a partial or mixed one."""
    with ProcessPoolExecutor(4) as pool:
        assert all(pool.map(_write_and_read, range(4)))
    assert [path.suffix for path in (home / "cache" / "compiled").iterdir()] == [".blob"]
