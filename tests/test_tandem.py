"""The root command: what `tandem --help` says and how an error ends."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tandem import COMMANDS, main
from tests.conftest import ROOT, Tandem

PACKAGES = ["classifier", "registry", "training", "export", "service", "batch", "parity", "validation", "commands"]


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_those_of_tandem(package: str) -> None:
    """An editable install puts the project's root last on the path; the tests must not test another `service`."""
    module = importlib.import_module(package)
    assert module.__file__ is not None
    installed = {Path(str(file.locate())).resolve() for file in importlib.metadata.files("tandem") or ()}
    file = Path(module.__file__).resolve()
    assert file == ROOT / package / "__init__.py" or file in installed


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
    heavy += ["sqlalchemy", "psycopg"]
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


@pytest.mark.parametrize(
    ("package", "command", "extra"),
    [
        ("torch", ["train", "{test_folder}", "--val-fraction", "0.5", "--run", "{tmp}/run"], "train"),
        ("matplotlib", ["train", "{test_folder}", "--val-fraction", "0.5", "--run", "{tmp}/run"], "train"),
        ("onnx", ["export", "{tmp}/run", "--name", "digits"], "train"),
        ("httpx", ["parity", "digits", "{test_folder}", "--service", "http://127.0.0.1:1"], "batch"),
        ("rich", ["models", "list"], "cpu"),
        ("onnxruntime", ["classify", "{test_folder}", "--engine", "onnxruntime", "--precision", "fp32"], "cpu"),
    ],
)
def test_a_package_that_is_missing(
    package: str, command: list[str], extra: str, test_folder: Path, digits_home: Path, tmp_path: Path
) -> None:
    """A command whose extra is not installed ends at once, in a sentence that names the package and the extra."""
    if extra == "train" and importlib.util.find_spec("torch") is None:
        pytest.skip("another package of the extra is missing before this one")
    arguments = [part.format(test_folder=test_folder, tmp=tmp_path) for part in command]
    script = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] == {package!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        f"import tandem; tandem.main({arguments!r})\n"
    )
    environment = {**os.environ, "TANDEM_HOME": str(digits_home)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    [sentence] = done.stderr.splitlines()
    assert sentence.startswith("Error: ")
    assert package in sentence
    assert f"pip install -e '.[{extra}]'" in sentence
    assert not (tmp_path / "run").exists()


def test_a_package_of_ours_that_is_missing_is_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    """No user can put it right, so the traceback is kept."""
    monkeypatch.setitem(COMMANDS, "doctor", ("commands.nowhere:doctor", ""))
    with pytest.raises(ModuleNotFoundError, match=r"commands\.nowhere"):
        main(["doctor"])
