"""Several processes at one registry, and processes that are killed in the middle of a write."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from classifier.artifact import MODEL
from classifier.errors import ModelNotFound
from registry import LocalRegistry
from tests.conftest import ROOT
from tests.registry.artifacts import make_files

if TYPE_CHECKING:
    from pathlib import Path

PROCESSES = 8
IMPORTS = """
import os, signal, sys
from pathlib import Path
from registry import LocalRegistry
from tests.registry.artifacts import make_files
registry = LocalRegistry(Path(sys.argv[1]))
"""


def start(script: str, *args: str | Path) -> subprocess.Popen[bytes]:
    """Return a process that runs `script` with `registry`, the one whose folder is the first of `args`."""
    return subprocess.Popen([sys.executable, "-c", IMPORTS + script, *map(str, args)], cwd=ROOT)


def wait_for(processes: list[subprocess.Popen[bytes]]) -> list[int]:
    """Return the exit codes; none of the processes outlives this."""
    try:
        return [process.wait(120) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_eight_processes_add_at_once(registry: LocalRegistry) -> None:
    """No version is lost, none is there twice, and the numbers have no gap."""
    add = """
for graph in (f"own {sys.argv[2]}", "shared", f"second {sys.argv[2]}", "shared too"):
    registry.add("digits", make_files(graph))
    registry.tag("digits", f"of-{sys.argv[2]}")
"""
    writers = [start(add, registry.root, str(number)) for number in range(PROCESSES)]
    assert wait_for(writers) == [0] * PROCESSES
    models = registry.models()
    graphs = Counter(model.read(MODEL).decode() for model in models)
    own = {f"{which} {number}" for which in ("own", "second") for number in range(PROCESSES)}
    assert graphs == Counter({*own, "shared", "shared too"})
    assert [model.version for model in models] == list(range(1, len(graphs) + 1))
    assert sorted(alias for model in models for alias in model.aliases) == [f"of-{n}" for n in range(PROCESSES)]
    assert all(model.verify() == [] for model in models)


def test_readers_go_on_while_a_writer_writes(registry: LocalRegistry) -> None:
    """Every read sees a whole registry: the model that it asks for, and an index that can be read."""
    registry.add("digits", make_files("first"))
    read = """
while not registry.resolve("digits").read("model.onnx").startswith(b"last"):
    assert registry.resolve("digits:1").verify() == []
"""
    readers = [start(read, registry.root) for _ in range(3)]
    for number in range(30):
        registry.add("digits", make_files(f"graph {number}"))
        registry.tag("digits:1", f"alias-{number}")
    registry.add("digits", make_files("last"))
    assert wait_for(readers) == [0] * 3


# Each change to the folder is announced to audit hooks before it is done: at one of them the process is killed.
KILL = """
changes = 0
def kill(event, args):
    global changes
    writes = event == "open" and isinstance(args[1], str) and args[1][0] in "wax"
    changes += writes or event in ("os.rename", "os.remove", "os.mkdir")
    if changes == int(sys.argv[2]) and event != "os.kill":
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(kill)
"""


def state(registry: LocalRegistry) -> dict[str, tuple[bytes, tuple[str, ...]]]:
    """Return the graph and the aliases of each version, all of which must be whole."""
    assert all(model.verify() == [] for model in registry.models())
    return {model.reference: (model.read(MODEL), model.aliases) for model in registry.models()}


@pytest.mark.parametrize(
    ("before", "operation"),
    [
        ("", 'registry.add("digits", make_files("new"))'),
        ("ab", 'registry.add("digits", make_files("new"))'),
        ("ab", 'registry.tag("digits:1", "production")'),
        ("ab", 'registry.remove("digits:2")'),
    ],
    ids=["first add", "add", "tag", "rm"],
)
def test_kill_9_at_every_change_leaves_a_whole_registry(tmp_path: Path, before: str, operation: str) -> None:
    """What is read afterwards is the registry before the operation or after it, and the operation can be repeated."""
    for point in range(1, 100):
        registry = LocalRegistry(tmp_path / f"{point}" / "registry")
        for graph in before:
            registry.add("digits", make_files(graph))
        state_before = state(registry)
        [killed] = wait_for([start(KILL + operation, registry.root, str(point))])
        state_left = state(registry)
        with contextlib.suppress(ModelNotFound):  # of what the killed process had removed
            exec(operation, {"registry": registry, "make_files": make_files})
        state_after = state(registry)
        assert state_before != state_after
        assert state_left in (state_before, state_after)
        if killed == 0:
            break
        assert killed == -signal.SIGKILL
    assert 3 < point < 99, "the process was killed at hardly any change, or at all of them"
