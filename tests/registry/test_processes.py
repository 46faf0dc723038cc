"""Several processes at one registry, and processes that are killed during a write."""

from __future__ import annotations

import contextlib
import signal
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from classifier.artifact import MODEL
from classifier.errors import ModelNotFound
from registry import LocalRegistry, Reference, pull, push
from registry.remote.models import RemoteModels
from tests.registry.artifacts import make_files
from tests.registry.processes import KILL, start, wait_for
from tests.registry.servers import needs_registry, needs_skopeo, skopeo

if TYPE_CHECKING:
    from pathlib import Path

PROCESSES = 8


def test_eight_processes_add_at_once(registry: LocalRegistry) -> None:
    """No version is lost or stored twice, and the numbers have no gap."""
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
    """Every read sees a whole registry: a readable index, and the model."""
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


# As `processes.KILL`, without the network, which `registry` alone doesn't import.
KILL_LOCAL = """
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
    """Return the graph and the aliases of each version; fail if one is damaged."""
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
    """Afterwards the registry is as before the operation or after it, and the operation can be repeated."""
    for point in range(1, 100):
        registry = LocalRegistry(tmp_path / f"{point}" / "registry")
        for graph in before:
            registry.add("digits", make_files(graph))
        state_before = state(registry)
        [killed] = wait_for([start(KILL_LOCAL + operation, registry.root, str(point))])
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


@needs_registry
@needs_skopeo
@pytest.mark.parametrize("operation", ["pull", "push", "tag"])
def test_kill_9_at_every_change_of_a_transfer(
    registry: LocalRegistry, tmp_path: Path, remote: str, operation: str
) -> None:
    """Both registries name only whole models, skopeo reads the local one, and the operation can be repeated."""
    digest = registry.add("digits", make_files()).artifact.digest
    script = {
        "pull": "pull(Reference.parse(sys.argv[2]), registry)",
        "push": "push('digits:1', sys.argv[2], registry)",
        "tag": "RemoteModels(Reference.parse(sys.argv[2])).tag(Reference.parse(sys.argv[2]), 'production')",
    }[operation]
    push("digits:1", f"{remote}:1", registry)
    for point in range(1, 200):
        home = LocalRegistry(tmp_path / str(point)) if operation == "pull" else registry
        reference = f"{remote}-{point}:1" if operation == "push" else f"{remote}:1"
        [killed] = wait_for([start(KILL + script, home.root, reference, str(point))])
        for model in home.models():
            assert model.verify() == []
            assert skopeo("inspect", "--raw", f"oci:{home.root}:{model.reference}")
        if operation == "pull":
            pull(Reference.parse(reference), home)
        elif operation == "push":
            push("digits:1", reference, registry)
        assert RemoteModels(Reference.parse(reference)).resolve(Reference.parse(reference)).digest == digest
        if killed == 0:
            break
        assert killed == -signal.SIGKILL
    assert point > 3
