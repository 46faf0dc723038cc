"""Garbage collection: unnamed blobs are found, shown and deleted; named ones never are."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from classifier.errors import DamagedArtifact
from registry import LocalRegistry, Reference, fetch_model, push
from registry.oci.garbage import collect, find_garbage
from registry.oci.manifest import describe
from registry.remote.models import RemoteModels
from tests.registry.artifacts import make_files
from tests.registry.processes import start, wait_for
from tests.registry.servers import needs_registry

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Tandem


def make_old(registry: LocalRegistry) -> None:
    """Make every file of the registry two days old."""
    then = time.time() - 2 * 86400
    for path in (registry.root / "blobs" / "sha256").iterdir():
        os.utime(path, (then, then))


def files_of(registry: LocalRegistry) -> set[str]:
    """Return the names of all files among the blobs."""
    return {path.name for path in (registry.root / "blobs" / "sha256").iterdir()}


@needs_registry
def test_what_an_alias_left_behind_is_garbage(
    registry: LocalRegistry, tmp_path: Path, remote: str, tandem: Tandem
) -> None:
    """The copy under the alias's old digest has lost its name: it is shown, and with --yes deleted."""
    there = LocalRegistry(tmp_path / "there" / "registry")
    home = {"TANDEM_HOME": str(tmp_path / "there")}
    models = RemoteModels(Reference.parse(remote))
    for number, graph in enumerate("ab", 1):
        push(registry.add("digits", make_files(graph)).artifact.reference, remote, registry)
        models.tag(Reference.parse(f"{remote}:{number}"), "production")
        fetch_model(f"{remote}:production", there)
    assert find_garbage(there.layout).blobs == ()  # too young
    make_old(there)
    before = files_of(there)
    shown = tandem("models", "gc", env=home)
    assert len(shown.stdout.splitlines()) == 3  # graph, manifest and config blob
    assert files_of(there) == before
    assert tandem("models", "gc", "--yes", env=home).stdout == shown.stdout
    assert len(before - files_of(there)) == 3
    assert there.resolve(f"{remote}:production").verify() == []
    assert find_garbage(there.layout).blobs == ()


def test_old_beginnings_are_garbage_and_new_ones_are_not(registry: LocalRegistry) -> None:
    """A pull that broke off an hour ago may still be continued."""
    registry.add("digits", make_files())
    old, new = ((registry.root / "blobs" / "sha256" / f".tandem-{digit * 64}.part") for digit in "01")
    old.write_bytes(b"old")
    make_old(registry)
    new.write_bytes(b"new")
    assert collect(registry.layout).partials == (old,)
    assert new.exists()


def test_a_damaged_manifest_stops_it(registry: LocalRegistry) -> None:
    """Its blobs are unknown, so nothing is deleted."""
    artifact = registry.add("digits", make_files()).artifact
    registry.layout.blob_path(artifact.digest).write_bytes(b"{}")
    make_old(registry)
    before = files_of(registry)
    with pytest.raises(DamagedArtifact):
        collect(registry.layout)
    assert files_of(registry) == before


@needs_registry
def test_pulls_go_on_beside_it(registry: LocalRegistry, tmp_path: Path, remote: str) -> None:
    """Collecting unnamed blobs at any moment leaves no pulled model without a file."""
    for number in range(6):
        push(registry.add("digits", make_files(f"{number}" * 50_000)).artifact.reference, remote, registry)
    there = LocalRegistry(tmp_path / "there")
    pull = """
from registry import Reference, pull
assert pull(Reference.parse(sys.argv[2]), registry).verify() == []
"""
    collecting = """
from registry.oci import garbage
garbage.BLOB_MIN_AGE_S = 0.05
while True:
    garbage.collect(registry.layout)
"""
    collector = start(collecting, there.root)
    try:
        assert wait_for([start(pull, there.root, f"{remote}:{number}") for number in range(1, 7)]) == [0] * 6
    finally:
        collector.kill()
        collector.wait()
    assert [model.version for model in there.models()] == [1, 2, 3, 4, 5, 6]
    assert all(model.verify() == [] for model in there.models())


def test_kill_9_at_every_deletion(tmp_path: Path) -> None:
    """Every named model is whole, wherever the collection was killed."""
    kill = """
from registry.oci.garbage import collect
changes = 0
def kill(event, args):
    global changes
    changes += event in ("os.rename", "os.remove", "os.mkdir")
    if changes == int(sys.argv[2]) and event != "os.kill":
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(kill)
collect(registry.layout)
"""
    for point in range(1, 30):
        registry = LocalRegistry(tmp_path / str(point))
        for graph in "ab":
            registry.add("digits", make_files(graph))
        for name in "cdef":
            (registry.root / "blobs" / "sha256" / (name * 64)).write_bytes(b"garbage")
        make_old(registry)
        [killed] = wait_for([start(kill, registry.root, str(point))])
        assert [model.verify() for model in registry.models()] == [[], []]
        collect(registry.layout)
        assert not files_of(registry) & {name * 64 for name in "cdef"}
        if killed == 0:
            break
        assert killed == -signal.SIGKILL
    assert point >= 4


def test_a_download_that_is_going_on_is_kept(registry: LocalRegistry) -> None:
    """However old its beginning is: a pull may wait for a slow registry."""
    registry.add("digits", make_files())
    blob = describe(b"graph" * 1000, "")
    with registry.layout.receiving(blob, lambda size: None) as partial:
        assert partial is not None
        make_old(registry)
        assert find_garbage(registry.layout).partials == ()
        assert collect(registry.layout).partials == ()
        partial.write(b"graph" * 1000)
    assert registry.layout.has_blob(blob)


def test_a_pull_that_is_going_on_keeps_its_blobs(registry: LocalRegistry, tandem: Tandem) -> None:
    """However old they are: nothing names them until the last one is there."""
    registry.add("digits", make_files())
    (registry.root / "blobs" / "sha256" / ("a" * 64)).write_bytes(b"pulled")
    make_old(registry)
    with registry.layout.pulling(), registry.layout.pulling():
        assert find_garbage(registry.layout).blobs == ()
        assert collect(registry.layout).blobs == ()
        assert "a pull is running, so files that no model uses are kept" in tandem("models", "gc", "--yes").stderr
    assert [path.name for path in collect(registry.layout).blobs] == ["a" * 64]


def test_files_that_vanish_meanwhile(registry: LocalRegistry) -> None:
    """Pulls that end rename and delete their files while garbage is looked for: no error, ever."""
    registry.add("digits", make_files())
    folder = registry.root / "blobs" / "sha256"
    going = True

    def finish_pulls() -> None:
        while going:
            for number in range(40):
                part = folder / f".tandem-{number:064x}.part"
                part.touch()
                part.replace(folder / f"{number:064x}") if number % 2 else part.unlink()

    with ThreadPoolExecutor() as threads:
        pulls = threads.submit(finish_pulls)
        try:
            for _ in range(300):
                find_garbage(registry.layout)
                collect(registry.layout)
        finally:
            going = False
        pulls.result()
