from __future__ import annotations

import sys

import pytest
from click.testing import CliRunner

from commands.lazy import LazyGroup

TABLE = {"train": ("commands.train:train", "Train."), "gone": ("commands.gone:gone", "Go.")}


@pytest.fixture
def group() -> LazyGroup:
    """A group of two commands, one of which does not exist."""
    return LazyGroup(
        "tools", table={"train": ("commands.train:train", "Train."), "gone": ("commands.gone:gone", "Go.")}
    )


def test_help_lists_the_table_in_its_order_and_imports_no_command(
    group: LazyGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "commands.train", raising=False)
    lines = [line.split() for line in CliRunner().invoke(group, ["--help"]).output.splitlines()]
    assert [line for line in lines if line[-1:] in (["Train."], ["Go."])] == [["train", "Train."], ["gone", "Go."]]
    assert "commands.train" not in sys.modules


def test_a_command_is_imported_when_it_is_called(group: LazyGroup) -> None:
    result = CliRunner().invoke(group, ["train", "--help"])
    assert result.exit_code == 0
    assert "Train an image classifier" in result.output


def test_a_name_outside_the_table_is_a_usage_error(group: LazyGroup) -> None:
    result = CliRunner().invoke(group, ["tain"])
    assert result.exit_code == 2
    assert "No such command 'tain'" in result.output
