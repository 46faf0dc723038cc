"""`requirements/slim.py`, which removes from an image's packages what it never runs."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return the site-packages of an environment with one package, `msgspec`, and a command of it."""
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    spec = importlib.util.find_spec("msgspec")
    assert spec is not None
    assert spec.origin is not None
    shutil.copytree(Path(spec.origin).parent, site / "msgspec")
    (tmp_path / "bin").mkdir()
    for name in ("python", "python3", "tandem", "pygmentize"):
        (tmp_path / "bin" / name).touch()
    return site


def slim(site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", ROOT / "requirements" / "slim.py", site.parents[2]]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_compiled_modules_work_without_their_symbols(site: Path) -> None:
    """The file becomes smaller, and Python imports it."""
    [module] = site.glob("msgspec/_core.*.so")
    before = module.stat().st_size
    assert slim(site).returncode == 0
    assert module.stat().st_size < before
    script = "import msgspec; assert msgspec.json.decode(b'[1]') == [1]; print(msgspec._core.__file__)"
    command = [sys.executable, "-S", "-c", script]
    done = subprocess.run(command, env={"PYTHONPATH": str(site)}, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(module)


def test_a_stripped_module_stays_as_it_is(site: Path) -> None:
    """A second run finds nothing more to remove."""
    assert slim(site).returncode == 0
    [module] = site.glob("msgspec/_core.*.so")
    before = module.read_bytes()
    assert slim(site).returncode == 0
    assert module.read_bytes() == before


def test_for_compilers_type_checkers_and_tests(site: Path) -> None:
    """Headers, stubs and tests go; code, data and licences stay."""
    for path in ("tests/test_it.py", "include/it.h", "_core.pyi", "it.py", "data.json", "LICENSE"):
        (site / "msgspec" / path).parent.mkdir(exist_ok=True)
        (site / "msgspec" / path).touch()
    assert slim(site).returncode == 0
    assert {"it.py", "data.json", "LICENSE"} < names(site / "msgspec")
    assert not {"tests", "_core.pyi"} & names(site / "msgspec")
    assert not list(site.rglob("*.h"))
    assert names(site.parents[2] / "bin") == {"python", "python3", "tandem"}


def test_a_rule_that_no_longer_fits_ends_the_build(site: Path) -> None:
    """When a package moves its files, the image must not grow again unseen."""
    (site / "securesystemslib").mkdir()
    done = slim(site)
    assert done.returncode == 1
    assert "match nothing any more, change or remove them: securesystemslib/" in done.stderr
