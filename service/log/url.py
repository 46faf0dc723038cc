"""Where a prediction log is: `sqlite:///log.db` or `postgresql+psycopg://user@host/database`.

No message shows a URL, since it may hold a password, also one that was written so that it is taken for something else.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from classifier.errors import LogError
from classifier.extras import install_extra

if TYPE_CHECKING:
    from sqlalchemy import URL

LOG_URL = "TANDEM_LOG_URL"
"""The environment variable that asks for a prediction log, and says where it is."""

PASSWORD_FILE = "TANDEM_LOG_PASSWORD_FILE"  # noqa: S105 # the name of a variable
"""The environment variable that names a file with the password, which keeps it out of the environment."""

_POSTGRESQL = ("postgresql+psycopg", "postgresql")
_SQLITE_HEAD = b"SQLite format 3\0"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogAddress:
    """A valid URL of a prediction log.

    Attributes:
        url: SQLAlchemy's, with the driver that is installed.
        path: the file of SQLite, absolute; None for PostgreSQL.
        password_file: where PostgreSQL's password is; None if the URL has it, or none is needed.
    """

    url: URL = field(repr=False)
    path: Path | None
    password_file: Path | None

    def __str__(self) -> str:
        """Return what messages call it, without user and password."""
        if self.path is not None:
            return f"'{self.path}'"
        host = self.url.host or self.url.query.get("host") or "the default host"
        port = f":{self.url.port}" if self.url.port else ""
        return f"database '{self.url.database or 'of the user'}' at {host}{port}"

    def password(self) -> str | None:
        """Return the password, read again each time: a new one may have taken the place of the old.

        Raises:
            LogError: the file can't be read.
        """
        if self.password_file is None:
            return self.url.password
        try:
            # Text editors and `kubectl create secret --from-file` leave a line end.
            return self.password_file.read_text().rstrip("\r\n")
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text"
            raise LogError(
                f"{PASSWORD_FILE} names '{self.password_file}', which can't be read ({why}); name a file that holds "
                "the password of the prediction log"
            ) from error


def parse_log_url(url: str) -> LogAddress:
    """Return the address that `url` names, with the password file that the environment names.

    Raises:
        LogError: the URL is malformed or of another database, or a driver is not installed.
    """
    scheme = url.partition("://")[0] if "://" in url else ""
    if scheme not in ("sqlite", *_POSTGRESQL):
        named = f"begins with '{scheme}://'" if scheme.replace("+", "").isalnum() else "names no database"
        raise LogError(
            f"the URL of the prediction log {named}; give 'sqlite:///log.db' or 'postgresql+psycopg://user@host/database'"
        )
    packages = ("sqlalchemy",) if scheme == "sqlite" else ("sqlalchemy", "psycopg")
    for package in packages:
        try:
            import_module(package)
        except ImportError as error:  # psycopg raises it, too, if PostgreSQL's client library is missing
            raise LogError(f"the prediction log needs the package '{package}': {install_extra('log')}") from error
    parsed = _parse(url)
    if scheme == "sqlite":
        return _sqlite(parsed)
    file = os.environ.get(PASSWORD_FILE) or None
    if file is not None and parsed.password is not None:
        raise LogError(f"the URL of the prediction log has a password, and {PASSWORD_FILE} names another: remove one")
    return LogAddress(
        url=parsed.set(drivername=_POSTGRESQL[0]), path=None, password_file=Path(file).expanduser() if file else None
    )


def check_log_url(url: str) -> str:
    """Return `url` with an absolute path, after checking all that can be checked without the database of a server.

    A server that is down is no reason to refuse: the log tries again until it is there.

    Raises:
        LogError: the URL is malformed or of another database, a driver is not installed, the password file can't be
            read, or the file of SQLite can't be written.
    """
    address = parse_log_url(url)
    if address.path is None:
        address.password()
        return url
    _check_file(address.path)
    return f"sqlite:///{address.path}"


def _parse(url: str) -> URL:
    from sqlalchemy import make_url  # noqa: PLC0415 # takes 0.2 s, and most services have no log
    from sqlalchemy.exc import ArgumentError  # noqa: PLC0415

    if url.partition("?")[0].count("@") > 1:
        # Taken for the host, the rest of the password would appear in messages.
        raise LogError("the URL of the prediction log has several '@'; write one in a user name or password as %40")
    try:
        return make_url(url)
    except (ArgumentError, ValueError):
        # Neither text nor cause: both quote parts of the URL.
        raise LogError(
            "the URL of the prediction log is malformed; give 'postgresql+psycopg://user@host:5432/database', with "
            "special characters of a password as %XX"
        ) from None


def _sqlite(url: URL) -> LogAddress:
    if url.host or not url.database or url.database == ":memory:":
        raise LogError(
            "the URL of the prediction log names no file; give 'sqlite:///log.db' or, for an absolute path, four "
            "slashes: 'sqlite:////var/lib/tandem/log.db'"
        )
    if url.query:
        raise LogError("the URL of the prediction log has options after '?'; SQLite takes a path alone")
    return LogAddress(url=url, path=Path(url.database).expanduser().absolute(), password_file=None)


def _check_file(path: Path) -> None:
    folder = path.parent
    if not folder.is_dir():
        raise LogError(f"the prediction log's folder '{folder}' does not exist; create it")
    if path.is_dir():
        raise LogError(f"the prediction log '{path}' is a folder; name a file")
    # SQLite keeps two files beside the log.
    for each in (folder, *([path] if path.exists() else [])):
        if not os.access(each, os.W_OK):
            raise LogError(f"the prediction log can't be written: this user may not write to '{each}'")
    if path.exists() and path.stat().st_size:
        with path.open("rb") as file:
            if file.read(len(_SQLITE_HEAD)) != _SQLITE_HEAD:
                raise LogError(f"'{path}' is not an SQLite database; name another file for the prediction log")
