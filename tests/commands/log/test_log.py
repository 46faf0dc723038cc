"""`tandem log summary`, `export` and `delete`, as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from service.log import PredictionLog
from tests.conftest import ROOT
from tests.service.log.entries import closing_log, count, entry, rows, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Tandem


@pytest.fixture
def log_url(url: str, filled: Callable[[str], None]) -> str:
    filled(url)
    return url


@pytest.fixture
def sqlite_log(sqlite_url: str, filled: Callable[[str], None]) -> str:
    filled(sqlite_url)
    return sqlite_url


class TestSummary:
    def test_text(self, tandem: Tandem, log_url: str) -> None:
        """Counts, distributions, and the accuracy with its interval."""
        printed = tandem("log", "summary", env={"TANDEM_LOG_URL": log_url}).stdout
        assert printed.startswith("4 images, accuracy 50.00% of 2 (9.45% to 90.55%)\n")
        assert "2026-01-31  digits@3f953f953f95  2       1        0       0.903       100.00% of 1" in printed
        assert "415     not_an_image  1\n" in printed
        assert "0.9–1.0  3       ████" in printed

    def test_json(self, tandem: Tandem, log_url: str) -> None:
        """The same for programs, of the selected days."""
        selection = ("--since", "2026-02-01", "--until", "2026-03-02T00:00:00+01:00", "--digest", "3f95")
        found = json.loads(tandem("log", "summary", "--url", log_url, *selection, "--json").stdout)
        assert found["images"] == 2
        assert [day["day"] for day in found["days"]] == ["2026-03-01"]
        assert (found["accuracy"]["images"], found["accuracy"]["correct"]) == (1, 0)

    def test_names_in_a_terminal(self, tandem: Tandem, sqlite_url: str) -> None:
        """No control character of a reason or model reaches the terminal."""
        log = PredictionLog.open(sqlite_url)
        log.record(entry("a", model="\x1b[2Jdigits", reason="\x1b[31m"))
        log.close(10)
        assert "\x1b" not in tandem("log", "summary", "--url", sqlite_url).stdout

    def test_an_empty_log(self, tandem: Tandem, sqlite_url: str) -> None:
        """It says that there is nothing."""
        PredictionLog.open(sqlite_url).close(10)
        assert tandem("log", "summary", "--url", sqlite_url).stdout == "no entries\n"


class TestExport:
    def test_file(self, tandem: Tandem, log_url: str, tmp_path: Path) -> None:
        """A row for each entry; an existing file is overwritten only with --force."""
        path = tmp_path / "log.parquet"
        printed = tandem("log", "export", path, "--url", log_url).stdout
        assert printed == f"4 images written to {path}\n"
        assert pq.read_table(path)["feedback_label"].to_pylist().count(None) == 2
        refused = tandem("log", "export", path, "--url", log_url, check=False)
        assert refused.returncode == 1
        assert refused.stderr == f"Error: '{path}' exists; name another file, or overwrite it with --force\n"
        tandem("log", "export", path, "--url", log_url, "--since", "2026-02-01", "--force")
        assert pq.read_table(path).num_rows == 2

    def test_a_folder_that_is_missing(self, tandem: Tandem, sqlite_log: str, tmp_path: Path) -> None:
        """The error names the file and the reason."""
        refused = tandem("log", "export", tmp_path / "no" / "log.parquet", "--url", sqlite_log, check=False)
        assert refused.returncode == 1
        assert "log.parquet' can't be written: No such file or directory" in refused.stderr

    def test_while_a_service_writes(self, tandem: Tandem, url: str, tmp_path: Path) -> None:
        """Readers don't disturb a service that writes, nor it them; they see whole batches."""
        with closing_log(url) as log:
            for number in range(9000):
                log.record(entry(f"r{number}"))
            wait_until(lambda: log.written > 0)
            printed = tandem("log", "export", tmp_path / "log.parquet", "--url", url).stdout
            assert "images written to" in printed
            tandem("log", "summary", "--url", url)
            wait_until(lambda: log.written == 9000)
            assert log.dropped == 0


class TestDelete:
    @pytest.mark.parametrize(
        ("options", "left", "feedback"),
        [
            (["--before", "2026-02-01"], {"march-1", "march-2"}, {"march-1", "nobody"}),
            (["--request-id", "march-1"], {"january-1", "january-2", "march-2"}, {"january-1", "nobody"}),
            (["--client", "shop"], {"january-2", "march-2"}, {"nobody"}),
            (
                ["--client", "shop", "--before", "2026-02-01"],
                {"january-2", "march-1", "march-2"},
                {"march-1", "nobody"},
            ),
            (["--request-id", "nobody"], {"january-1", "january-2", "march-1", "march-2"}, {"january-1", "march-1"}),
        ],
    )
    def test_conditions(
        self, tandem: Tandem, log_url: str, options: list[str], left: set[str], feedback: set[str]
    ) -> None:
        """Entries that fulfil all conditions go, and the feedback on them; all others stay."""
        printed = tandem("log", "delete", *options, "--url", log_url, "--yes").stdout
        erased = 4 - len(left)
        assert printed == f"{erased} image{'s' * (erased != 1)} erased\n"
        assert {row["request_id"] for row in rows(log_url)} == left
        assert {row["request_id"] for row in rows(log_url, "SELECT request_id FROM tandem_feedback")} == feedback

    def test_feedback_without_a_prediction(self, tandem: Tandem, log_url: str) -> None:
        """A time alone erases feedback of that time, also on requests that the log lacks."""
        tandem("log", "delete", "--before", "2100-01-01", "--url", log_url, "--yes")
        assert (count(log_url), count(log_url, "tandem_feedback")) == (0, 0)

    def test_asks(self, sqlite_log: str) -> None:
        """Nothing is erased before the user has seen how much it is, and has agreed."""
        command = [sys.executable, "-m", "tandem", "log", "delete", "--before", "2026-02-01", "--url", sqlite_log]
        for answer, left in (("n\n", 4), ("", 4), ("y\n", 2)):
            done = subprocess.run(command, cwd=ROOT, input=answer, capture_output=True, text=True, check=False)
            assert "Erase 2 images from the prediction log, " in done.stdout
            assert done.returncode == (0 if left == 2 else 1)
            assert count(sqlite_log) == left

    def test_needs_a_condition(self, tandem: Tandem, sqlite_log: str) -> None:
        """A slip can't empty the log."""
        for options in ([], ["--client", ""], ["--request-id", ""]):
            refused = tandem("log", "delete", *options, "--url", sqlite_log, "--yes", check=False)
            assert refused.returncode == 2
            assert "give --before, --request-id or --client" in refused.stderr
        assert count(sqlite_log) == 4

    def test_nothing_is_left_in_the_files(self, tandem: Tandem, sqlite_log: str, tmp_path: Path) -> None:
        """SQLite's files no longer hold what was erased, even while a service has them open."""
        with closing_log(sqlite_log) as log:
            log.record(entry("another"))
            wait_until(lambda: log.written == 1)
            assert any(b"january-1" in file.read_bytes() for file in tmp_path.glob("log.db*"))
            tandem("log", "delete", "--request-id", "january-1", "--url", sqlite_log, "--yes")
            assert not any(b"january-1" in file.read_bytes() for file in tmp_path.glob("log.db*"))
            assert any(b"january-2" in file.read_bytes() for file in tmp_path.glob("log.db*"))

    def test_in_steps(self, tandem: Tandem, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A service writes between the steps of a long deletion, and loses nothing."""
        script = (
            "import sys; from service.log import deleting; deleting._AT_ONCE = 500\n"
            "from tandem import main; main(['log', 'delete', '--before', '2100-01-01', '--yes', '--url', sys.argv[1]])"
        )
        with closing_log(url) as log:
            for number in range(6000):
                log.record(entry(f"r{number}"))
            wait_until(lambda: log.written >= 3000)
            done = subprocess.run(
                [sys.executable, "-c", script, url], cwd=ROOT, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            wait_until(lambda: log.written == 6000)
            assert log.dropped == 0
        erased = int(done.stdout.partition(" ")[0].replace(",", ""))
        assert erased + count(url) == 6000


class TestErrors:
    @pytest.mark.parametrize("command", [["summary"], ["export", "x.parquet"], ["delete", "--client", "a"]])
    def test_no_log_named(self, tandem: Tandem, command: list[str]) -> None:
        """The error names the option and the variable."""
        refused = tandem("log", *command, check=False)
        assert refused.returncode == 2
        assert "--url or TANDEM_LOG_URL" in refused.stderr

    @pytest.mark.parametrize("command", [["summary"], ["export", "x.parquet"], ["delete", "--client", "a", "--yes"]])
    def test_a_server_that_is_down(self, tandem: Tandem, command: list[str]) -> None:
        """One sentence with the reason, and without the password."""
        url = "postgresql+psycopg://tandem:hunter2@127.0.0.1:1/log"
        refused = tandem("log", *command, "--url", url, check=False)
        assert refused.returncode == 1
        [sentence] = refused.stderr.splitlines()
        assert sentence.startswith("Error: the prediction log, database 'log' at 127.0.0.1:1, can't be used: ")
        assert "Connection refused" in sentence
        assert "hunter2" not in sentence

    def test_a_file_that_is_missing(self, tandem: Tandem, tmp_path: Path) -> None:
        """No command makes a log."""
        for command in (["summary"], ["delete", "--client", "a", "--yes"]):
            refused = tandem("log", *command, "--url", f"sqlite:///{tmp_path}/log.db", check=False)
            assert refused.returncode == 1
            assert f"the prediction log, '{tmp_path}/log.db', can't be used" in refused.stderr
        assert not (tmp_path / "log.db").exists()

    @pytest.mark.parametrize("date", ["yesterday", "31.01.2026", "2026-13-01", "0001-01-01T00:00+14:00"])
    def test_a_date_that_is_none(self, tandem: Tandem, date: str) -> None:
        """The error shows how to write one."""
        refused = tandem("log", "summary", "--url", "sqlite:///log.db", "--since", date, check=False)
        assert refused.returncode == 2
        assert "2026-01-31" in refused.stderr

    def test_pyarrow_is_missing(self, sqlite_log: str, tmp_path: Path) -> None:
        """The export names the extra that brings it."""
        script = (
            "import sys\n"
            "class Absent:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            "        if name == 'pyarrow': raise ModuleNotFoundError(name, name=name)\n"
            "sys.meta_path.insert(0, Absent())\n"
            "from tandem import main; main(['log', 'export', sys.argv[1], '--url', sys.argv[2]])"
        )
        command = [sys.executable, "-c", script, str(tmp_path / "x.parquet"), sqlite_log]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "pip install -e '.[batch]'" in done.stderr


def test_memory(sqlite_url: str, tmp_path: Path) -> None:
    """Summary and export of a log six times as large take no more memory: the database counts, and rows stream."""
    import sqlite3

    PredictionLog.open(sqlite_url).close(10)
    script = (
        "import sys, resource; from tandem import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    )
    columns = (
        "id, time_utc, request_id, image_index, status, label, score, top_k, model, digest, engine, device, "
        "instruction_set, precision, cached"
    )
    insert = (
        f"INSERT INTO tandem_predictions ({columns}) WITH RECURSIVE n(i) AS (SELECT ? UNION ALL SELECT i + 1 FROM n "
        "WHERE i < ?) SELECT printf('%032x', i), datetime(i, 'unixepoch') || '.000000', 'r' || i, 0, 200, i % 10, "
        "(i % 1000) / 1000.0, '[{\"label\":\"3\",\"score\":0.5}]', 'm', 'd', 'e', 'cpu', 'avx2', 'fp32', 0 FROM n"
    )
    peaks: list[list[int]] = []
    for begin, end in ((0, 19_999), (20_000, 119_999)):
        with closing(sqlite3.connect(tmp_path / "log.db")) as connection, connection:
            connection.execute(insert, (begin, end))
        peaks.append([])
        for command in (["summary"], ["export", str(tmp_path / "x.parquet"), "--force"]):
            done = subprocess.run(
                [sys.executable, "-c", script, "log", *command, "--url", sqlite_url],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=True,
            )
            peaks[-1].append(int(done.stdout.splitlines()[-1]))
    assert pq.read_metadata(tmp_path / "x.parquet").num_rows == 120_000
    (small_summary, small_export), (large_summary, large_export) = peaks
    assert large_summary < small_summary + 20
    assert large_export < small_export + 60
