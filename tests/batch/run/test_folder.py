from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest

from batch.inputs.named import find_inputs
from batch.inputs.shards import Shard
from batch.run.folder import begun_batch_size, check_output
from batch.run.lock import open_run_folder
from classifier.errors import OutputError
from tests.batch.conftest import ROOT, read_parts

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.batch.conftest import Run


HOLD = """
import pathlib, sys, time
from batch.run.lock import open_run_folder
with open_run_folder(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_what_a_run_leaves(tmp_path: Path, run: Run) -> None:
    """A run that is done leaves its parts alone in their folder, and nothing half-written."""
    run(tmp_path / "out")
    files = {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert files == {
        *(f"parts/part-0000{number}.parquet" for number in range(5)),
        "run.json",
        "_SUCCESS",
        ".batch/lock",
        ".batch/plan",
        ".batch/sources.json",
        ".batch/fingerprint.json",
        ".batch/commits.jsonl",
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("undisturbed") / "out"


@pytest.fixture
def expected(undisturbed: Path, run: Run) -> dict[str, bytes]:
    """Return the parts of an undisturbed run."""
    run(undisturbed)
    return read_parts(undisturbed)


def test_a_run_is_resumed_with_the_size_that_it_began_with(tmp_path: Path, run: Run) -> None:
    """On a GPU, where the size of a batch decides the bits, a run that is resumed does not look for another."""
    out = tmp_path / "out"
    assert begun_batch_size(out) is None
    run(out)
    assert begun_batch_size(out) is None  # on the CPU any size gives the same bits
    fingerprint = out / ".batch" / "fingerprint.json"
    fingerprint.write_bytes(fingerprint.read_bytes().replace(b'"batch_size": null', b'"batch_size": 64'))
    assert begun_batch_size(out) == 64
    fingerprint.write_bytes(b"{")
    with pytest.raises(OutputError, match="is not a fingerprint that this Tandem can read"):
        begun_batch_size(out)


def test_a_shard_takes_the_size_of_its_run(tmp_path: Path, run: Run) -> None:
    """A shard keeps the size that it began with; one that did not begin takes that of another shard, for `merge`."""
    first, second, other = (Shard(number=number, count=count) for number, count in ((1, 2), (2, 2), (1, 3)))
    out = tmp_path / "out"
    run(out / first.folder, shard=first)
    fingerprint = out / first.folder / ".batch" / "fingerprint.json"
    fingerprint.write_bytes(fingerprint.read_bytes().replace(b'"batch_size": null', b'"batch_size": 64'))
    assert begun_batch_size(out / first.folder, first) == 64
    assert begun_batch_size(out / second.folder, second) == 64
    assert begun_batch_size(out / other.folder, other) is None
    assert begun_batch_size(out) is None


def test_a_half_written_commit_is_cut_off(tmp_path: Path, run: Run, expected: dict[str, bytes]) -> None:
    """Wherever the last line of the commits breaks off, the run ends with the same parts."""
    out = tmp_path / "out"
    run(out)
    commits = out / ".batch" / "commits.jsonl"
    lines = commits.read_bytes()
    last = lines.rstrip().rfind(b"\n") + 1
    for end in (last + 1, (last + len(lines)) // 2, len(lines) - 1):
        commits.write_bytes(lines[:end])
        assert run(out).state == "done"
        assert read_parts(out) == expected
        assert commits.read_bytes() == lines


def change_a_byte(part: Path) -> None:
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)


@pytest.mark.parametrize(
    "damage", [Path.unlink, lambda part: os.truncate(part, 100), change_a_byte], ids=["gone", "cut", "changed"]
)
def test_a_lost_part_is_made_again(
    tmp_path: Path, run: Run, expected: dict[str, bytes], damage: Callable[[Path], None]
) -> None:
    """A part that has gone, lost bytes or changed is made again by the same command, and the others are left alone."""
    out = tmp_path / "out"
    run(out)
    damage(out / "parts" / "part-00002.parquet")
    assert run(out).attempts[-1].images == 9
    assert read_parts(out) == expected
    assert (out / "_SUCCESS").exists()


def test_damaged_commits_are_named(tmp_path: Path, run: Run) -> None:
    """A damaged list of commits is refused, not guessed at."""
    run(tmp_path / "out")
    (tmp_path / "out" / ".batch" / "commits.jsonl").write_bytes(b'{"chunk": "x"}\n')
    with pytest.raises(OutputError, match=r"commits\.jsonl' is damaged"):
        run(tmp_path / "out")


def test_a_damaged_fingerprint_is_named(tmp_path: Path, run: Run) -> None:
    """A fingerprint that can't be read is refused, not overwritten."""
    run(tmp_path / "out")
    (tmp_path / "out" / ".batch" / "fingerprint.json").write_bytes(b"{}")
    with pytest.raises(OutputError, match="not a fingerprint"):
        run(tmp_path / "out")


@pytest.mark.parametrize("name", [".batch/plan", ".batch/commits.jsonl", "parts/part-00000.parquet"])
def test_what_cannot_be_read_is_named(tmp_path: Path, run: Run, name: str) -> None:
    """Where resuming fails to read a file, that file is named, and what failed was reading it."""
    run(tmp_path / "out")
    (tmp_path / "out" / name).unlink()
    (tmp_path / "out" / name).mkdir()
    with pytest.raises(OutputError, match=rf"{name}' can't be read \(Is a directory\); put that right, and give the"):
        run(tmp_path / "out")


@pytest.mark.parametrize("name", ["mine.parquet", "part-00005.parquet", "part-00000.csv"])
def test_a_foreign_part_is_refused(tmp_path: Path, run: Run, name: str) -> None:
    """A file among the parts that this run did not write would be read as rows: it is refused, whatever its name."""
    run(tmp_path / "out")
    (tmp_path / "out" / "parts" / name).touch()
    with pytest.raises(OutputError, match=rf"'.*{name}' is not a part of this run"):
        run(tmp_path / "out")


def test_parts_without_a_fingerprint_are_not_taken_over(tmp_path: Path, run: Run) -> None:
    """Parts whose fingerprint was deleted could be of another model: they are refused, never counted as done."""
    out = tmp_path / "out"
    run(out)
    for file in (out / ".batch" / "fingerprint.json", out / "run.json", out / "_SUCCESS"):
        file.unlink()
    with pytest.raises(OutputError, match="no run to resume"):
        run(out)


def test_a_run_that_does_not_begin_removes_nothing_of_others(tmp_path: Path) -> None:
    """Whatever else lies in the output, under whatever name, survives a run that fails before it begins."""
    others = [tmp_path / ".batch" / "registry" / "index.json", tmp_path / "parts" / "thesis.tex"]
    with open_run_folder(tmp_path):
        for file in others:
            file.parent.mkdir(parents=True)
            file.touch()
    assert all(file.exists() for file in others)
    with pytest.raises(OutputError, match=r"holds '\.batch' and no run"):
        check_output(tmp_path)


def test_an_output_that_holds_something_else(tmp_path: Path) -> None:
    """A folder that holds anything but a run is refused; a new, an empty or an only planned one is not."""
    check_output(tmp_path / "new")
    check_output(tmp_path)
    (tmp_path / ".batch").mkdir()
    (tmp_path / "lost+found").mkdir()  # of a new volume
    check_output(tmp_path)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(OutputError, match=r"holds 'thesis\.tex' and no run"):
        check_output(tmp_path)
    with pytest.raises(OutputError, match=r"can't be used \(Not a directory\)"):
        check_output(tmp_path / "thesis.tex")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError, match=r"can't be used \(Too many levels of symbolic links\)"):
        check_output(tmp_path / "loop", find_inputs([str(Path(__file__).parent)]))


def test_an_output_within_an_input(tmp_path: Path) -> None:
    """An output within an input is refused, also by way of a symbolic link."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "link").symlink_to("photos")
    inputs = find_inputs([str(tmp_path / "photos")])
    for output in (tmp_path / "photos", tmp_path / "photos" / "new" / "out", tmp_path / "link" / "out"):
        with pytest.raises(OutputError, match="is inside the input"):
            check_output(output, inputs)
    check_output(tmp_path / "photos-out", inputs)


@pytest.mark.parametrize("exists", [False, True])
def test_where_no_run_begins_nothing_stays(tmp_path: Path, exists: bool) -> None:
    """A run that can't begin leaves the output as it found it."""
    out = tmp_path / "out"
    if exists:
        out.mkdir()
    with contextlib.suppress(ZeroDivisionError), open_run_folder(out) as folder:
        folder.plan.write_bytes(b"half a plan")
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.rglob("*")] == (["out"] if exists else [])


def test_the_lock_ends_with_its_process(tmp_path: Path) -> None:
    """An output is refused while another process has it, and free when that process was killed."""
    out = tmp_path / "out"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, out], stdout=subprocess.PIPE, cwd=ROOT)
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(OutputError, match="another process is running a batch into"), open_run_folder(out):
            pass
        holder.send_signal(signal.SIGKILL)
    with open_run_folder(out):
        pass


def test_a_lock_that_was_removed_in_the_same_instant_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that did not begin removes its lock: who has opened that before must not run beside who makes the next."""
    real = fcntl.flock

    def lose_the_race(lock: IO[Any], flags: int) -> None:
        (tmp_path / "out" / ".batch" / "lock").unlink()
        real(lock, flags)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", lose_the_race)
        with pytest.raises(OutputError, match="give the same command again"), open_run_folder(tmp_path / "out"):
            pass
    with open_run_folder(tmp_path / "out"):
        pass


@pytest.mark.parametrize("call", ["fsync", "replace", "open", "write"])
def test_every_failing_write_is_resumable(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Whichever open, sync or rename fails, the run says so in a sentence, and the next one ends with the same parts.

    The disk fails at the n-th call, for every n until a run comes through.
    """
    run(tmp_path / "undisturbed", chunk_size=20)
    expected = read_parts(tmp_path / "undisturbed")
    for nth in range(1, 100):
        out = tmp_path / f"{nth}"
        with monkeypatch.context() as patch:
            calls = fail_at(patch, call, nth)
            if not _fails_with(out, run, "Input/output error"):
                break
        assert run(out, chunk_size=20).state == "done"
        assert read_parts(out) == expected
        assert not list(out.rglob("aside"))
    assert nth == len(calls) + 1 >= 6  # each call of a run that came through was failed once


class _File:
    """A file whose writes go through Python, where they can be made to fail."""

    def __init__(self, file: Any) -> None:
        self.file = file

    @staticmethod
    def of(real: Callable[..., Any]) -> Callable[..., Any]:
        """Return `real`, which opens files, so that those to be written are such files."""

        def open_file(*args: Any, **kwargs: Any) -> Any:
            file = real(*args, **kwargs)
            return _File(file) if args[1:2] in {("wb",), ("ab",)} else file

        return open_file

    def write(self, data: bytes) -> None:
        self.file.write(data)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def _fails_with(out: Path, run: Run, sentence: str) -> bool:
    try:
        run(out, chunk_size=20)
    except OutputError as error:
        return sentence in str(error)
    return False


def fail_at(patch: pytest.MonkeyPatch, call: str, nth: int) -> list[tuple[Any, ...]]:
    """Let the n-th call fail, and return the list of calls. `open` is an open of a file that is to be written."""
    calls: list[tuple[Any, ...]] = []
    places: list[tuple[Any, str]] = {
        "write": [(_File, "write")],
        "open": [(Path, "open"), (os, "open")],
    }.get(call, [(os, call)])
    if call == "write":
        for where, name in ((Path, "open"), (os, "fdopen")):
            patch.setattr(where, name, _File.of(getattr(where, name)))

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def fail_at_nth(*args: Any, **kwargs: Any) -> Any:
            how = (*args, *kwargs.values(), None)[1]
            if call != "open" or how in {"wb", "ab", "w"} or (isinstance(how, int) and how & os.O_WRONLY):
                calls.append(args)
                if len(calls) == nth:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(*args, **kwargs)

        return fail_at_nth

    for where, name in places:
        patch.setattr(where, name, failing(getattr(where, name)))
    return calls
