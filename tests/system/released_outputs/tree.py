"""Run the real `tandem` of a tree, and strip times, paths and versions from its output."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROOT = Path(__file__).resolve().parents[3]

Facts = dict[str, Any]
"""A JSON object."""

MAX_SHOWN = 300
"""Characters of a value in a line of `differences`."""

_Result = TypeVar("_Result")

VARIES = frozenset(
    {
        *("decode_threads", "elapsed_s", "ended", "holder", "id", "images_per_s", "instruction_set", "last_commit"),
        *("left_s", "location", "service", "started", "versions"),
    }
)
"""Fields whose values differ between runs or machines. Only their presence is compared."""

_VARYING_TEXT = (
    (r"\b[\d,]+ images/s\b", "… images/s"),
    (r"\b\d+\.\d+ s\b", "… s"),
    (r"\bcpu \(\w+\)", "cpu (…)"),
    (r"\b(onnxruntime|openvino) \d[\d.]*\d", r"\1 …"),
    (r"\b127\.0\.0\.1:\d+", "127.0.0.1:…"),
    (r"\b\d\d:\d\d:\d\d ([A-Z]+) [\w.]+: ", r"\1 "),  # a logger has the name of its module, which may move
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A command that ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def log(self) -> list[dict[str, Any]]:
        """The log lines that are JSON."""
        return [json.loads(line) for line in self.stderr.splitlines() if line.startswith("{")]

    @property
    def messages(self) -> list[str]:
        """The lines of standard error, with the message alone of each JSON log line."""
        return [json.loads(line)["message"] if line.startswith("{") else line for line in self.stderr.splitlines()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A tree of Tandem, and a work folder in which its commands run.

    Attributes:
        path: the sources; None for the installed ones.
        work: the working directory of all commands, so that relative paths are the same everywhere.
        home: TANDEM_HOME.
    """

    path: Path | None
    work: Path
    home: Path

    @classmethod
    def of(cls, path: Path | None, work: Path) -> Tree:
        """Return the tree at `path` with all of its files in `work`."""
        return cls(path=path, work=work, home=work / "home")

    @property
    def sources(self) -> Path:
        """The folder in which `bentoml serve` finds the service."""
        return self.path or ROOT

    def environment(self, **changes: str) -> dict[str, str]:
        """Return the environment of a command, without the user's own settings of Tandem."""
        hidden = ("TANDEM_", "JOB_COMPLETION")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        fixed = {
            "TANDEM_HOME": str(self.home),
            "BENTOML_HOME": str(self.work / "bentoml"),
            "BENTOML_DO_NOT_TRACK": "true",
            "COLUMNS": "120",
            "LC_ALL": "C.UTF-8",
        }
        # It precedes site-packages, and with it the installed tree.
        path = {"PYTHONPATH": str(self.path)} if self.path else {}
        return kept | fixed | path | changes

    def tandem(self, *arguments: str, **environment: str) -> Ended:
        """Run `tandem` in the work folder."""
        return self.run(str(Path(sys.executable).with_name("tandem")), *arguments, **environment)

    def run(self, *command: str, **environment: str) -> Ended:
        """Run a command in the work folder."""
        ended = subprocess.run(
            command,
            cwd=self.work,
            env=self.environment(**environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="backslashreplace",
            timeout=600,
            check=False,
        )
        return Ended(code=ended.returncode, stdout=ended.stdout, stderr=ended.stderr)

    def plain(self, text: str) -> str:
        """Return text without times, rates, versions and paths of this machine."""
        text = text.replace(str(self.work), "WORK")
        for pattern, replacement in _VARYING_TEXT:
            text = re.sub(pattern, replacement, text)
        return text

    def words(self, ended: Ended) -> Facts:
        """Return the text that a command printed for people."""
        return {"stdout": self.plain(ended.stdout).splitlines(), "stderr": [*map(self.plain, ended.messages)]}

    def steady(self, value: Any) -> Any:
        """Return a JSON value with `…` in place of values that vary."""
        match value:
            case dict():
                # Only an engine has an instruction set. Its version changes with the lock file.
                varies = VARIES | {"version"} if "instruction_set" in value else VARIES
                return {
                    key: "…" if key in varies and item is not None else self.steady(item) for key, item in value.items()
                }
            case list():
                return [self.steady(item) for item in value]
            case str():
                return self.plain(value)
        return value

    def answer(self, ended: Ended) -> Any:
        """Return the JSON that a command printed, made steady; a list if it printed a value on each line."""
        try:
            return self.steady(json.loads(ended.stdout))
        except ValueError:
            return [self.steady(json.loads(line)) for line in ended.stdout.splitlines()]


def together(calls: Mapping[str, Callable[[], _Result]]) -> dict[str, _Result]:
    """Return the results of independent calls, made four at a time."""
    with ThreadPoolExecutor(4) as pool:
        begun = {name: pool.submit(call) for name, call in calls.items()}
        return {name: each.result() for name, each in begun.items()}


def flat(value: Any, where: str = "") -> Facts:
    """Return the leaves of a JSON value by their places, `run › plan › images`. A list of plain values is a leaf."""
    match value:
        case dict() if value:
            items = [(str(key), item) for key, item in value.items()]
        case list() if any(isinstance(item, (dict, list)) for item in value):
            items = [(str(number), item) for number, item in enumerate(value)]
        case _:
            return {where: value}
    return {
        place: leaf for key, item in items for place, leaf in flat(item, f"{where} › {key}" if where else key).items()
    }


def differing(before: Facts, after: Facts) -> Facts:
    """Return the values of `after` that are not those of `before`; `missing` for those that `after` lacks."""
    return {
        place: after.get(place, "missing")
        for place in dict.fromkeys([*before, *after])
        if place not in before or place not in after or before[place] != after[place]
    }


def differences(before: Facts, after: Facts) -> list[str]:
    """Return a line for each place where two flat values differ: `top_k › default: 5 → 2`."""
    return [
        f"{_short(place)}: {_short(before.get(place, 'missing'))} → {_short(value)}"
        for place, value in differing(before, after).items()
    ]


def _short(value: object) -> str:
    text = value.replace("\n", "\\n") if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def without(value: Any, *keys: str) -> Any:
    """Return a JSON value without the fields `keys`, wherever they stand."""
    match value:
        case dict():
            return {key: without(item, *keys) for key, item in value.items() if key not in keys}
        case list():
            return [without(item, *keys) for item in value]
    return value
