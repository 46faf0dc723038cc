"""A click group that imports a command only when it is called, so that `--help` answers at once."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

Commands = dict[str, tuple[str, str]]
"""Name → where the command is, as `package.module:command`, and its line in the group's help."""


class LazyGroup(click.Group):
    """A group of the commands in a table.

    Args:
        table: the commands, in the order of the help.
        section: the heading of the commands in the help.
    """

    def __init__(self, *args: Any, table: Mapping[str, tuple[str, str]], section: str = "Commands", **attrs: Any):
        super().__init__(*args, **attrs)
        self.table = table
        self.section = section

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands, in the order of the table."""
        return list(self.table)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Return the command `name`, importing its module; None if there is none."""
        command: click.Command | None = resolve_name(self.table[name][0]) if name in self.table else None
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands with their lines from the table, importing none of them."""
        with formatter.section(self.section):
            formatter.write_dl([(name, line) for name, (_, line) in self.table.items()])
