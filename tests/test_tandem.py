"""The root command: what `tandem --help` says and how an error ends."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from tandem import COMMANDS
from tests.conftest import ROOT, Tandem

PACKAGES = ["classifier", "registry", "training", "export", "service", "batch", "commands"]


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_come_from_this_tree(package: str) -> None:
    """An editable install puts the project's root last on the path; the tests must not test another `service`."""
    module = importlib.import_module(package)
    assert module.__file__ is not None
    assert Path(module.__file__).is_relative_to(ROOT) or "site-packages" in module.__file__


def test_help_lists_every_command(tandem: Tandem) -> None:
    """`tandem --help` names each command on one line."""
    printed = tandem("--help").stdout
    assert all(f"  {command} " in printed for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_has_an_example(tandem: Tandem, command: str) -> None:
    """A user can copy a working line from the help of each command: it stands on a line of its own."""
    printed = tandem(command, "--help").stdout
    example = printed.partition("\n  Example:\n")[2].splitlines()
    assert any(line.startswith(f"    tandem {command}") for line in example)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_imports_nothing_heavy(command: str) -> None:
    """Help answers at once: no engine, framework or file format is imported to print it."""
    heavy = ["torch", "torchvision", "onnx", "onnxruntime", "bentoml", "pyarrow", "matplotlib", "sklearn", "httpx"]
    script = (
        "import sys, tandem\n"
        f"try: tandem.main({[command, '--help'] if command else ['--help']!r})\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        f"print('HEAVY', [name for name in {heavy!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_an_unknown_command_is_a_usage_error(tandem: Tandem) -> None:
    """A misspelt command ends with exit code 2 and no traceback."""
    done = tandem("trian", check=False)
    assert done.returncode == 2
    assert "No such command 'trian'" in done.stderr
    assert "Traceback" not in done.stderr
