"""docs/reference/ holds the help that the commands print."""

from __future__ import annotations

import subprocess
import sys

import pytest

from commands.batch.group import COMMANDS as BATCH
from commands.log.group import COMMANDS as LOG
from commands.models.group import COMMANDS as MODELS
from tandem import COMMANDS
from tests.conftest import ROOT

REFERENCE = ROOT / "docs" / "reference"
COG = ("-P", "-I", ".", "-I", str(ROOT))
PAGES = sorted(page.name for page in REFERENCE.glob("*.md"))


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_what_the_commands_print(page: str) -> None:
    """A page that is stale is written again by `nox -s reference`."""
    command = [sys.executable, "-m", "cogapp", "--check", *COG, page]
    done = subprocess.run(command, cwd=REFERENCE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\nrun 'nox -s reference'"


def test_every_command_has_its_page() -> None:
    """Commands have a page each; the commands of a group have a section."""
    assert {f"{name}.md" for name in COMMANDS} | {"README.md"} == set(PAGES)
    for group, names in (("models", MODELS), ("batch", BATCH), ("log", LOG)):
        text = (REFERENCE / f"{group}.md").read_text()
        assert all(f"## tandem {group} {name}\n" in text for name in names)
