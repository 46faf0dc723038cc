"""A URL that can't work ends the start with one sentence, which never holds a password."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from classifier.errors import LogError
from service.log import PredictionLog, check_log_url
from service.log.database import reading
from service.log.url import PASSWORD_FILE, parse_log_url
from tests.conftest import ROOT
from tests.service.log.entries import count, entry, wait_until
from tests.service.servers import PASSWORD

if TYPE_CHECKING:
    from pathlib import Path

    from tests.service.servers import Postgres

SECRET = "hunter2"


def why_refused(url: str) -> str:
    with pytest.raises(LogError) as refused:
        check_log_url(url)
    text = str(refused.value)
    assert "\n" not in text
    assert SECRET not in text
    assert SECRET not in str(refused.value.__cause__)
    return text


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "names no database"),
        (f"{SECRET}", "names no database"),
        (f"user:{SECRET}@host/database", "names no database"),
        (f"mysql://user:{SECRET}@host/database", "begins with 'mysql://'"),
        (f"postgresql+psycopg2://user:{SECRET}@host/database", "begins with 'postgresql+psycopg2://'"),
        (f"user {SECRET}://host/database", "names no database"),
        (f"postgresql+psycopg://user:p@{SECRET}@host/database", "%40"),
        (f"postgresql+psycopg://user:p@/{SECRET}@host/database", "%40"),
        (f"postgresql+psycopg://user@host:{SECRET}/database", "malformed"),
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite://host/log.db", "four slashes"),
        ("sqlite:///log.db?timeout=5", "options after '?'"),
        ("sqlite:////dev/null/log.db", "'/dev/null' does not exist"),
        ("sqlite:////tmp", "'/tmp' is a folder"),
    ],
)
def test_malformed(url: str, said: str) -> None:
    """The sentence says what is wrong, and what a URL looks like."""
    assert said in why_refused(url)


def test_a_file_that_is_something_else(tmp_path: Path) -> None:
    """Another file is not overwritten."""
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff" * 100)
    assert "is not an SQLite database" in why_refused(f"sqlite:///{tmp_path}/photo.jpg")


def test_a_folder_that_this_user_may_not_write_to() -> None:
    """SQLite needs the folder, too."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    script = (
        "import os, sqlalchemy, sqlalchemy.dialects.sqlite\n"
        "from service.log import check_log_url\n"
        "from classifier.errors import LogError\n"
        "os.setuid(65534)\n"
        "try: check_log_url('sqlite:////log.db')\n"
        "except LogError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "the prediction log can't be written: this user may not write to '/'\n", done.stderr


def test_the_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's current folder is not the user's."""
    monkeypatch.chdir(tmp_path)
    assert check_log_url("sqlite:///log.db") == f"sqlite:///{tmp_path}/log.db"
    assert not (tmp_path / "log.db").exists()


def test_a_server_that_is_down_is_no_reason() -> None:
    """The service starts without its database."""
    url = f"postgresql+psycopg://user:{SECRET}@127.0.0.1:1/database"
    assert check_log_url(url) == url


@pytest.mark.parametrize(("url", "package"), [("sqlite:///log.db", "sqlalchemy"), ("postgresql://h/d", "psycopg")])
def test_a_package_that_is_missing(url: str, package: str) -> None:
    """The sentence names the package and the extra."""
    script = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] == {package!r}: raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from service.log import PredictionLog\n"
        "from classifier.errors import LogError\n"
        f"try: PredictionLog.open({url!r})\n"
        "except LogError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert f"'{package}'" in done.stdout, done.stderr
    assert "pip install -e '.[log]'" in done.stdout


class TestPassword:
    @pytest.fixture
    def password_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        file = tmp_path / "password"
        file.write_text(f"{PASSWORD}\n")
        monkeypatch.setenv(PASSWORD_FILE, str(file))
        return file

    def without_password(self, postgres: Postgres, url: str) -> str:
        return postgres.url(url.rpartition("/")[2], password=False)

    def test_from_a_file(self, postgres: Postgres, postgres_url: str, password_file: Path) -> None:
        """The password need not be in the environment. A line end behind it is not part of it."""
        url = self.without_password(postgres, postgres_url)
        check_log_url(url)
        log = PredictionLog.open(url)
        log.record(entry("a"))
        log.close(10)
        assert count(postgres_url) == 1

    def test_a_new_one(
        self, postgres: Postgres, postgres_url: str, password_file: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The file is read at each connection, so a password can change without a restart; a wrong one is not told."""
        password_file.write_text(SECRET)
        log = PredictionLog.open(self.without_password(postgres, postgres_url))
        log.record(entry("a"))
        wait_until(lambda: bool(caplog.messages))
        assert "password authentication failed" in caplog.messages[0]
        assert SECRET not in caplog.text
        password_file.write_text(PASSWORD)
        wait_until(lambda: log.written == 1)
        log.close(10)

    def test_a_file_that_is_missing(self, postgres: Postgres, password_file: Path) -> None:
        """The sentence names the variable and the file."""
        password_file.unlink()
        said = why_refused(postgres.url("log", password=False))
        assert PASSWORD_FILE in said
        assert str(password_file) in said

    def test_two_passwords(self, password_file: Path) -> None:
        """Which one was meant is not guessed."""
        assert "remove one" in why_refused(f"postgresql+psycopg://user:{SECRET}@host/log")

    def test_is_in_no_message(self, postgres: Postgres, caplog: pytest.LogCaptureFixture) -> None:
        """Neither warnings nor errors show the password, given as part of the URL or behind it."""
        for url in (
            f"postgresql+psycopg://tandem:{SECRET}@127.0.0.1:{postgres.port}/log",
            f"postgresql+psycopg://tandem@127.0.0.1:{postgres.port}/log?password={SECRET}",
            f"postgresql+psycopg://tandem:{SECRET}@127.0.0.1:1/log",
            f"postgresql+psycopg://tandem:{SECRET}@127.0.0.1:{postgres.port}/log?sslmode={SECRET}",
        ):
            caplog.clear()
            log = PredictionLog.open(url)
            wait_until(lambda: bool(caplog.messages))
            log.close(0)
            log._thread.join(10)
            with pytest.raises(LogError) as failed, reading(parse_log_url(url)):
                pass
            assert SECRET not in caplog.text + str(failed.value) + repr(parse_log_url(url))
