"""Servers that a service writes to, started from Debian's packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from tests.registry.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

USER = "tandem"
PASSWORD = "s3cret/p@ss:w%rd"  # every character that a URL treats in a special way


@dataclass
class Postgres:
    """A cluster of its own, which a test may kill and start again."""

    folder: Path
    bin: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def url(self, database: str, *, password: bool = True) -> str:
        """Return the URL of a database on the server."""
        secret = f":{quote(PASSWORD, safe='')}" if password else ""
        return f"postgresql+psycopg://{USER}{secret}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str = "postgres", **options: Any) -> Any:
        """Return a connection in autocommit mode."""
        import psycopg

        options = {"autocommit": True, **options}
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user=USER, password=PASSWORD, dbname=database, **options
        )

    def create(self, database: str, options: str = "") -> str:
        """Make an empty database, and return its URL."""
        with self.connect() as connection:
            connection.execute(f'CREATE DATABASE "{database}" {options}')
        return self.url(database)

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if self.process is None or self.process.poll() is not None:
                # Again if need be: processes of a killed server may hold its memory for a moment.
                self.process = self._run(
                    "postgres", "-D", self.folder, "-p", self.port, "-h", "127.0.0.1", "-k", self.folder
                )
            if not self._run("pg_isready", "-q", "-h", "127.0.0.1", "-p", self.port).wait():
                return
            time.sleep(0.1)
        pytest.fail(f"PostgreSQL did not start:\n{(self.folder / 'log').read_text()}")

    def kill(self) -> None:
        """End the server at once, as a crash does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def _run(self, program: str, *args: object) -> subprocess.Popen[bytes]:
        user = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [self.bin / program, *map(str, args)],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **user,  # type: ignore[arg-type]
            )


@contextmanager
def run_postgres() -> Iterator[Postgres]:
    """Yield a running server with the superuser `USER`, who needs `PASSWORD`; skip the test if it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    # Not pytest's folder: the server's own user could not enter it.
    folder = Path(tempfile.mkdtemp(prefix="tandem-postgres-"))
    server = Postgres(folder, found[-1].parent)
    try:
        password = folder.with_suffix(".password")
        password.write_text(PASSWORD)
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
            shutil.chown(password, "postgres", "postgres")
        made = server._run(
            "initdb", "-D", folder / "data", "-U", USER, "-A", "scram-sha-256", "--pwfile", password, "--no-sync"
        )
        assert made.wait() == 0, (folder / "log").read_text()
        password.unlink()
        server.folder = folder / "data"
        server.start()
        yield server
    finally:
        if server.process is not None:
            server.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with run_postgres() as server:
        yield server
