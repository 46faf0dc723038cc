"""API keys. The service holds only their hashes, each with the name of the client that has the key.

A line of a key file is `NAME sha256:<64 hex digits>`. `make_key` draws keys of 256 random bits. Nobody guesses one from
its SHA-256, so a slow hash, which passwords need, would only cost each request its time.
"""

from __future__ import annotations

import hmac
import logging
import re
import secrets
import time
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger("bentoml.tandem")  # BentoML's servers show loggers below its own from INFO on

MIN_KEY_CHARS = 32
"""A shorter key could be guessed from its hash, and is never accepted."""
CHECK_EVERY_S = 1.0
"""How often the key file is looked at."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HASH = re.compile(r"sha256:([0-9a-f]{64})")
_WAY = "make a key and its line with 'tandem keys new NAME'"


def make_key(name: str) -> tuple[str, str]:
    """Return a new random key, and the line that admits it under `name`.

    Raises:
        ValueError: the name is not one for a log; the message is one for users.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"'{name}' is not a client's name; use 1 to 64 letters, digits, dots, dashes or underscores")
    key = f"tandem_{secrets.token_urlsafe(32)}"
    return key, f"{name} sha256:{sha256(key.encode()).hexdigest()}"


def is_file(value: str) -> bool:
    """Return whether the value of TANDEM_API_KEYS is the path of a key file; else it is the lines themselves."""
    return "sha256:" not in value


class ApiKeys:
    """The keys that the value of TANDEM_API_KEYS admits. A file is read again when it changes.

    Raises:
        ValueError: the file can't be read, or a line is malformed; the message is one for users and shows no key.
    """

    def __init__(self, value: str) -> None:
        self._file = Path(value) if is_file(value) else None
        self._stamp = _stamp(self._file)
        self._keys = _read(self._file) if self._file else _parse(re.split(r"[,\n]", value), "TANDEM_API_KEYS")
        self._check_at = time.monotonic() + CHECK_EVERY_S

    def name_of(self, key: bytes) -> str | None:
        """Return the name of the client that has this key; None if it is unknown."""
        if self._file is not None and time.monotonic() >= self._check_at:
            self._reread(self._file)
        found = None
        if len(key) >= MIN_KEY_CHARS:
            digest = sha256(key).digest()
            # All of them, each in constant time: how long it takes says nothing about the hashes.
            for known, name in self._keys:
                if hmac.compare_digest(known, digest):
                    found = name
        return found

    def _reread(self, file: Path) -> None:
        self._check_at = time.monotonic() + CHECK_EVERY_S
        if (stamp := _stamp(file)) == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = _read(file)
        except ValueError as error:
            log.error("The keys stay as they were: %s", error)  # a sentence, no traceback
        else:
            log.info("%s has changed; keys in it: %d", file, len(self._keys))


def _stamp(file: Path | None) -> tuple[int, int, int] | None:
    """Return what changes when a file is written anew or replaced; None if there is no file."""
    try:
        stat = file.stat() if file else None
    except OSError:
        return None
    return stat and (stat.st_ino, stat.st_size, stat.st_mtime_ns)


def _read(file: Path) -> Sequence[tuple[bytes, str]]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        # What names no file is not shown: it may be a key.
        shown = f"the key file {file}, which TANDEM_API_KEYS names," if _stamp(file) else "the file in TANDEM_API_KEYS"
        raise ValueError(
            f"{shown} can't be read ({why}); set the path of a file, or lines 'NAME sha256:<64 hex digits>'; {_WAY}"
        ) from error
    return _parse(lines, str(file))


def _parse(lines: Sequence[str], where: str) -> Sequence[tuple[bytes, str]]:
    keys: dict[bytes, str] = {}
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        # The messages don't show the line: it may hold a key.
        if len(words) != 2 or not (hashed := _HASH.fullmatch(words[1])):
            raise ValueError(f"line {number} of {where} is not 'NAME sha256:<64 hex digits>'; {_WAY}")
        if not _NAME.fullmatch(words[0]):
            raise ValueError(f"the name in line {number} of {where} is not 1 to 64 letters, digits or ._-; {_WAY}")
        digest = bytes.fromhex(hashed[1])
        if keys.setdefault(digest, words[0]) != words[0]:
            raise ValueError(f"line {number} of {where} gives another client's key a second name; {_WAY}")
        if digest == sha256(b"").digest():
            raise ValueError(f"line {number} of {where} is the hash of an empty key; {_WAY}")
    if not keys:
        raise ValueError(f"{where} has no key, so nobody could ask; {_WAY}")
    return list(keys.items())
