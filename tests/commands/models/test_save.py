"""`tandem models save`, as a user types it: a model's files in a folder, all of them or none."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from classifier.artifact import CARD, CONFIG, MODEL, MODEL_INT8
from registry import LocalRegistry, push
from registry.oci.manifest import ARTIFACT_TYPE, FILEPATH, MANIFEST_TYPE, describe
from tests.conftest import TANDEM, Tandem
from tests.registry.artifacts import blob_path, make_files, make_keys, put
from tests.registry.processes import KILL, start, wait_for
from tests.registry.servers import needs_registry

if TYPE_CHECKING:
    from pathlib import Path

FILES = make_files() | {MODEL_INT8: b"x" * 500_000}


@pytest.fixture
def stocked(registry: LocalRegistry) -> LocalRegistry:
    """Return a registry with digits:1, whose last file is a graph of 500 kB."""
    registry.add("digits", FILES)
    return registry


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_file_is_saved_under_its_name(stocked: LocalRegistry, tandem: Tandem, tmp_path: Path) -> None:
    """Byte for byte, in a folder that is made with those above it; printed with sizes and digests, as by `show`."""
    folder = tmp_path / "some" / "new" / "folder"
    done = tandem("models", "save", "digits", folder)
    assert contents(folder) == FILES
    assert done.stderr == f"digits:1 is saved in {folder}\n"
    assert done.stdout.splitlines()[0].split() == ["FILE", "SIZE", "DIGEST"]
    printed = {line.split()[0]: line.split()[-1] for line in done.stdout.splitlines()[1:]}
    assert printed == {name: f"sha256:{hashlib.sha256(data).hexdigest()}" for name, data in FILES.items()}
    assert done.stdout in tandem("models", "show", "digits").stdout


def test_a_second_save_writes_what_is_missing(stocked: LocalRegistry, tandem: Tandem, tmp_path: Path) -> None:
    """An empty folder is filled, whole files stay as they are, and a full folder is done already."""
    folder = tmp_path / "saved"
    folder.mkdir()
    first = tandem("models", "save", "digits:1", folder)
    kept = (folder / MODEL).stat()
    (folder / CARD).unlink()
    again = tandem("models", "save", "digits:1", folder)
    assert again.stdout == tandem("models", "save", "digits:1", folder).stdout == first.stdout
    assert contents(folder) == FILES
    assert ((folder / MODEL).stat().st_ino, (folder / MODEL).stat().st_mtime_ns) == (kept.st_ino, kept.st_mtime_ns)


@needs_registry
def test_a_remote_model_is_fetched_and_saved(
    registry: LocalRegistry, remote: str, tandem: Tandem, tmp_path: Path
) -> None:
    """One command on another machine; the copy that it leaves answers without the registry."""
    registry.add("digits", FILES)
    push("digits:1", remote, registry)
    home = {"TANDEM_HOME": str(tmp_path / "there")}
    assert tandem("models", "save", f"{remote}:1", tmp_path / "saved", env=home).returncode == 0
    assert contents(tmp_path / "saved") == FILES
    assert LocalRegistry(tmp_path / "there" / "registry").resolve(f"{remote}:1").verify() == []


@pytest.mark.parametrize(
    ("file", "data"),
    [("notes.txt", b"mine"), (MODEL, b"grapj"), (MODEL, b"longer graph"), (f"{MODEL}/x", b""), (".tandem-0.tmp", b"")],
    ids=["another file", "another model's", "of another size", "a folder", "left by kill -9"],
)
def test_a_folder_that_holds_something_else_is_left_alone(
    stocked: LocalRegistry, tandem: Tandem, tmp_path: Path, file: str, data: bytes
) -> None:
    """Nothing is overwritten, and nothing is added; the sentence names the file that is in the way."""
    path = tmp_path / "taken" / file
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    done = tandem("models", "save", "digits", tmp_path / "taken", check=False)
    shown = tmp_path / "taken" / file.partition("/")[0]
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"Error: '{shown}' is not a file of 'digits:1': name a new or empty folder\n"
    assert [each for each in (tmp_path / "taken").rglob("*") if each.is_file()] == [path]
    assert path.read_bytes() == data


@pytest.mark.parametrize("below", ["", "/new"])
def test_a_file_in_the_way_is_one_sentence(stocked: LocalRegistry, tandem: Tandem, tmp_path: Path, below: str) -> None:
    """The file stays."""
    (tmp_path / "file").write_bytes(b"mine")
    done = tandem("models", "save", "digits", f"{tmp_path}/file{below}", check=False)
    assert done.returncode == 1
    assert done.stderr == f"Error: '{tmp_path}/file' is not a folder: name a new or empty one\n"
    assert (tmp_path / "file").read_bytes() == b"mine"


@pytest.mark.parametrize("data", [b"y" * 500_000, b"x" * 499_999, None], ids=["a changed byte", "too short", "missing"])
def test_nothing_of_a_damaged_model_is_saved(
    stocked: LocalRegistry, tandem: Tandem, tmp_path: Path, data: bytes | None
) -> None:
    """The files before the damaged one go too, and so do the folders that were made for them."""
    path = blob_path(stocked, stocked.resolve("digits").files[MODEL_INT8].digest)
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    (tmp_path / "kept").mkdir()
    done = tandem("models", "save", "digits", tmp_path / "kept" / "new" / "folder", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: model 'digits:1' is damaged: {MODEL_INT8}: ")
    assert len(done.stderr.splitlines()) == 1
    assert list((tmp_path / "kept").iterdir()) == []


@pytest.mark.parametrize("name", ["../escaped", "/etc/tandem-escaped", "..", "a/b", "", "a\nb"])
def test_no_file_leaves_the_folder(registry: LocalRegistry, tandem: Tandem, tmp_path: Path, name: str) -> None:
    """The names in a manifest come from whoever pushed it."""
    config, graph = FILES[CONFIG], b"evil"
    registry.add("digits", make_files())
    layers = [describe(data, "", annotations={FILEPATH: file}) for file, data in ((CONFIG, config), (name, graph))]
    for layer, data in zip(layers, (config, graph), strict=True):
        blob_path(registry, layer.digest).write_bytes(data)
    manifest = {"schemaVersion": 2, "artifactType": ARTIFACT_TYPE, "config": layers[0], "layers": layers}
    put(registry, "evil:1", manifest, MANIFEST_TYPE)
    done = tandem("models", "save", "evil", tmp_path / "saved", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: model 'evil:1' is damaged: '")
    assert "' is not a file name; " in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("size=400k", "can't be written (No space left on device): free some space, or name another folder"),
        ("ro", "can't be written (Read-only file system): put that right, or name another folder"),
    ],
)
def test_nothing_stays_on_a_disk_that_takes_no_more(
    stocked: LocalRegistry, tmp_path: Path, options: str, sentence: str
) -> None:
    """On a full or read-only disk: one sentence, and the disk is as it was. In a mount namespace of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    namespace = ("unshare", "--map-root-user", "--mount", "sh", "-c")
    if subprocess.run([*namespace, f"mount -t tmpfs tmpfs '{disk}'"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs in a namespace of its own")
    script = f'mount -t tmpfs -o {options} tmpfs "$1"; "$2" models save digits "$1/a/b"; echo $?; ls -A "$1"'
    done = subprocess.run([*namespace, script, "sh", disk, TANDEM], capture_output=True, text=True, check=False)
    assert done.stderr == f"Error: '{disk}/a/b' {sentence}\n"
    assert done.stdout == "1\n"


def test_no_permission_is_one_sentence(stocked: LocalRegistry, tandem: Tandem, tmp_path: Path) -> None:
    """As for anybody in a folder of the system's; /proc takes no new folder, not even from root."""
    done = tandem("models", "save", "digits", "/proc/new/folder", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: '/proc/new/folder' can't be written (")
    assert done.stderr.endswith("): put that right, or name another folder\n")


def test_kill_9_leaves_only_whole_files(stocked: LocalRegistry, tmp_path: Path) -> None:
    """Whenever it strikes, a file under its own name is whole."""
    save = 'from registry import save\nsave("digits", Path(sys.argv[2]), registry)'
    for point in range(1, 100):
        folder = tmp_path / f"{point}"
        [code] = wait_for([start(KILL + save, stocked.root, folder, str(point))])
        left = contents(folder) if folder.exists() else {}
        assert {name: FILES[name] for name in left if not name.startswith(".tandem-")}.items() <= left.items()
        if code == 0:
            assert left == FILES
            assert point > len(FILES)
            return
        assert code == -signal.SIGKILL
    raise AssertionError("the save never ended")


def test_ctrl_c_leaves_nothing(stocked: LocalRegistry, tmp_path: Path) -> None:
    """The folder goes, with the files that were whole already."""
    interrupt = KILL.replace("os.kill(os.getpid(), signal.SIGKILL)", "raise KeyboardInterrupt")
    save = 'from registry import save\nsave("digits", Path(sys.argv[2]), registry)'
    process = start(interrupt + save, stocked.root, tmp_path / "saved", str(2 * len(FILES)))
    assert wait_for([process]) == [-signal.SIGINT]
    assert not (tmp_path / "saved").exists()


def test_a_model_that_the_trusted_key_did_not_sign_is_not_saved(
    stocked: LocalRegistry, tandem: Tandem, tmp_path: Path
) -> None:
    """What leaves the registry is trusted by what reads it, which checks no signature."""
    _, public = make_keys(tmp_path, "ours")
    trusted = {"TANDEM_TRUSTED_KEY": os.fspath(public)}
    done = tandem("models", "save", "digits", tmp_path / "saved", env=trusted, check=False)
    assert done.returncode == 1
    assert "'digits:1' is not signed" in done.stderr
    assert not (tmp_path / "saved").exists()
