"""The base of the images: one pin, which `nox -s base` updates."""

from __future__ import annotations

import runpy
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from registry.oci.manifest import INDEX_TYPE
from registry.remote.repository import RemoteRepository
from tests.conftest import ROOT

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = ROOT / "requirements" / "base.py"
_script = runpy.run_path(str(SCRIPT))
PIN, pinning, update = _script["PIN"], _script["pinning"], _script["update"]

OLD = f"python:3.11.9-slim-bookworm@sha256:{'0' * 64}"
INDEX = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}'


def test_all_files_pin_the_same_base() -> None:
    """By its patch version and its digest."""
    pins = {pin[0] for file in pinning(ROOT) for pin in PIN.finditer(file.read_text())}
    assert len(pins) == 1


def test_no_dockerfile_names_an_unpinned_python() -> None:
    """A tag moves."""
    listed = subprocess.run(["git", "ls-files", "*Dockerfile*"], cwd=ROOT, capture_output=True, text=True, check=True)
    for file in listed.stdout.split():
        assert "python:" not in PIN.sub("", (ROOT / file).read_text()), file


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a folder with three files that name the base, and one that has another base."""
    (tmp_path / "deploy").mkdir()
    (tmp_path / "Dockerfile.batch").write_text(f"ARG TANDEM_BASE_IMAGE\nFROM ${{TANDEM_BASE_IMAGE:-{OLD}}} AS base\n")
    (tmp_path / "deploy" / "Dockerfile").write_text(f"ARG TANDEM_BASE_IMAGE={OLD}\nARG ENGINE=cpu\n")
    (tmp_path / "image.py").write_text(f'BASE = "{OLD}"\n')
    (tmp_path / "deploy" / "Dockerfile.db").write_text("FROM postgres:17\n")
    return tmp_path


def test_newest_patch_is_written_into_each(clone: Path, remote_host: str) -> None:
    """Of the same series and variant: 3.11.10 is newer than 3.11.9, and 3.12 is another Python."""
    repository = RemoteRepository(remote_host, "mirror/python")
    for tag in ("3.11.9-slim-bookworm", "3.11.10-slim-bookworm", "3.11.11-slim-trixie", "3.12.1-slim-bookworm"):
        repository.put_manifest(tag, INDEX + b" " * len(tag), INDEX_TYPE)
    found = repository.find_manifest("3.11.10-slim-bookworm")
    assert found is not None
    expected = f"python:3.11.10-slim-bookworm@{found[0].digest}"
    assert update(clone, f"{remote_host}/mirror/python") == expected
    assert (
        clone / "Dockerfile.batch"
    ).read_text() == f"ARG TANDEM_BASE_IMAGE\nFROM ${{TANDEM_BASE_IMAGE:-{expected}}} AS base\n"
    assert (clone / "deploy" / "Dockerfile").read_text() == f"ARG TANDEM_BASE_IMAGE={expected}\nARG ENGINE=cpu\n"
    assert (clone / "image.py").read_text() == f'BASE = "{expected}"\n'
    assert (clone / "deploy" / "Dockerfile.db").read_text() == "FROM postgres:17\n"


def test_repository_without_the_image(remote_host: str) -> None:
    """The command ends with one sentence, and changes nothing."""
    command = [sys.executable, "requirements/base.py", "--mirror", f"{remote_host}/no/python"]
    before = [file.read_bytes() for file in pinning(ROOT)]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"Error: {remote_host}/no/python has no image 3.11." in done.stderr
    assert [file.read_bytes() for file in pinning(ROOT)] == before
