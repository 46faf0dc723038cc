"""The OCI layout on disk: what is written, what every read checks, and how failures end."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from classifier.errors import DamagedArtifact, RegistryError, RegistryUnwritable
from registry.oci.layout import Layout
from registry.oci.manifest import describe
from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOB = b"a graph"
DESCRIPTOR = describe(BLOB, "application/octet-stream")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "registry")
    with layout.writing():
        layout.write_blobs({DESCRIPTOR.digest: BLOB})
    return layout


def test_the_folder_is_an_oci_layout(layout: Layout) -> None:
    """Marker, index and blob are where the OCI specification puts them."""
    assert json.loads((layout.root / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    assert json.loads((layout.root / "index.json").read_bytes())["schemaVersion"] == 2
    assert (layout.root / "blobs" / "sha256" / DESCRIPTOR.digest.removeprefix("sha256:")).read_bytes() == BLOB


def test_files_have_the_modes_that_the_umask_gives(layout: Layout) -> None:
    """A registry that one user writes can be mounted into a container where another user reads it."""
    umask = os.umask(0)
    os.umask(umask)
    for path in layout.root.rglob("*"):
        if path.is_file():
            assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask, path


def test_reading_makes_nothing(tmp_path: Path) -> None:
    """A registry that isn't there is empty, and still isn't there after it was read."""
    layout = Layout(tmp_path / "none" / "registry")
    assert layout.read_index().manifests == ()
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("damage", "fact"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(b"a GRAPH"), "not what its digest says"),
        (lambda path: path.write_bytes(b"a graph and more"), "has 16 bytes instead of 7"),
        (lambda path: path.write_bytes(b""), "has 0 bytes instead of 7"),
    ],
)
def test_a_damaged_blob_is_never_returned(layout: Layout, damage: object, fact: str) -> None:
    """Missing, changed, longer or cut: the error names the file and what is wrong with it."""
    assert callable(damage)
    path = layout.blob_path(DESCRIPTOR.digest)
    damage(path)
    with pytest.raises(DamagedArtifact, match=fact) as error:
        layout.read_blob(DESCRIPTOR)
    assert str(path) in str(error.value)
    with pytest.raises(DamagedArtifact, match=fact):
        layout.check_blob(DESCRIPTOR)


def test_writing_a_damaged_blob_again_repairs_it(layout: Layout) -> None:
    """A write checks the blob on disk before it keeps it."""
    layout.blob_path(DESCRIPTOR.digest).write_bytes(b"a GRAPH")
    with layout.writing():
        layout.write_blobs({DESCRIPTOR.digest: BLOB})
    assert layout.read_blob(DESCRIPTOR) == BLOB


@pytest.mark.parametrize("digest", ["sha256:../../../etc/passwd", "sha512:" + "0" * 128, "", "sha256:" + "A" * 64])
def test_only_a_digest_becomes_a_path(layout: Layout, digest: str) -> None:
    """A tool's manifest can't make a reader open a file outside the layout."""
    with pytest.raises(DamagedArtifact, match="not a sha256 digest"):
        layout.blob_path(digest)


@pytest.mark.parametrize(
    "index", [b"", b"{", b"[]", b"{}", b'{"schemaVersion": 2, "manifests": [{"size": 1}]}', b"\xff"]
)
def test_a_damaged_index_is_named(layout: Layout, index: bytes) -> None:
    """An index that can't be read isn't an empty registry."""
    (layout.root / "index.json").write_bytes(index)
    with pytest.raises(DamagedArtifact, match=r"index\.json is damaged .*restore it"):
        layout.read_index()


def test_a_missing_index_is_named(layout: Layout) -> None:
    """A layout whose index was deleted isn't an empty registry either, and no writer turns it into one."""
    (layout.root / "index.json").unlink()
    with layout.writing(), pytest.raises(DamagedArtifact, match=r"index\.json is missing"):
        layout.read_index()


def test_a_file_in_place_of_the_registry_is_named(tmp_path: Path) -> None:
    """If TANDEM_HOME names a file, readers and writers get one sentence."""
    (tmp_path / "file").touch()
    layout = Layout(tmp_path / "file" / "registry")
    with pytest.raises(RegistryError, match="Not a directory"):
        layout.read_index()
    with pytest.raises(RegistryUnwritable, match="Not a directory"), layout.writing():
        pass


def test_old_leftovers_of_killed_writers_go_with_the_next_write(layout: Layout) -> None:
    """Old temporary files are deleted; a recent one could belong to a writer on another machine."""
    folders = (layout.root, layout.root / "blobs" / "sha256")
    for folder in folders:
        for name in ("old", "young"):
            (folder / f".tandem-{name}.tmp").write_bytes(b"half a file")
        an_hour_and_more_ago = time.time() - 4000
        os.utime(folder / ".tandem-old.tmp", (an_hour_and_more_ago, an_hour_and_more_ago))
    with layout.writing():
        pass
    for folder in folders:
        assert [path.name for path in folder.glob(".tandem-*.tmp")] == [".tandem-young.tmp"]


def test_writers_take_turns(layout: Layout, caplog: pytest.LogCaptureFixture) -> None:
    """A second writer logs that it waits, and continues when the first is done."""
    caplog.set_level("INFO")
    first_is_in, first_may_go = threading.Event(), threading.Event()

    def first() -> None:
        with layout.writing():
            first_is_in.set()
            first_may_go.wait(30)

    thread = threading.Thread(target=first)
    thread.start()
    assert first_is_in.wait(30)
    with pytest.raises(RegistryUnwritable, match=r"another process has been writing .* for 0 s"):
        layout.writing(timeout_s=0.1).__enter__()
    assert "waiting for another process" in caplog.text
    assert layout.read_index().manifests == ()  # a reader doesn't wait
    first_may_go.set()
    with layout.writing():
        thread.join(30)


def run_python(script: str, *args: str | Path) -> str:
    """Return what `script` printed in its own process; Tandem's errors are printed with their class."""
    lines = "".join(f"    {line}\n" for line in script.strip().splitlines())
    program = (
        "import os, resource, sys\nfrom pathlib import Path\n"
        "from classifier.errors import TandemError\nfrom registry.oci.layout import Layout\n"
        f"try:\n{lines}except TandemError as error:\n    print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, args)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout


READ = """
print(len(Layout(Path(sys.argv[1])).read_index().manifests))
"""
WRITE = """
layout = Layout(Path(sys.argv[1]))
with layout.writing():
    layout.write_blobs({"sha256:" + "0" * 64: b"x" * 1_000_000})
"""
# Permissions bind everybody but root.
DROP_ROOT = """
if os.geteuid() == 0:
    os.setgid(65534); os.setuid(65534)
"""


@pytest.fixture
def open_layout(layout: Layout) -> Iterator[Layout]:
    """Return a layout that other users can reach, unlike pytest's folders."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Layout(Path(shutil.copytree(layout.root, Path(folder) / "registry")))


def test_a_folder_without_write_permission_is_one_sentence(open_layout: Layout) -> None:
    """A reader's account can read everything and write nothing; a failed write changes nothing."""
    before = sorted(open_layout.root.rglob("*"))
    for folder in (open_layout.root, open_layout.root / "blobs" / "sha256"):
        folder.chmod(0o555)
    (open_layout.root / ".tandem.lock").chmod(0o444)
    printed = run_python(DROP_ROOT + WRITE, open_layout.root)
    assert printed.startswith("RegistryUnwritable the registry")
    assert "Permission denied" in printed
    assert "set TANDEM_HOME" in printed
    assert run_python(DROP_ROOT + READ, open_layout.root) == "0\n"
    assert sorted(open_layout.root.rglob("*")) == before


def test_a_file_without_read_permission_is_one_sentence(open_layout: Layout) -> None:
    """An index that is closed to the reader isn't a damaged index."""
    (open_layout.root / "index.json").chmod(0)
    printed = run_python(DROP_ROOT + READ, open_layout.root)
    assert printed.startswith("RegistryError")
    assert "can't be read (Permission denied)" in printed


def test_a_write_that_the_disk_cuts_short_leaves_nothing(layout: Layout) -> None:
    """A file that can't grow, as on a full disk, gives one sentence and leaves no partial file."""
    before = sorted(layout.root.rglob("*"))
    printed = run_python("resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))" + WRITE, layout.root)
    assert printed.startswith("RegistryUnwritable the registry")
    assert "File too large" in printed
    assert sorted(layout.root.rglob("*")) == before
