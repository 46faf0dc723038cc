"""The shape of `tandem batch`: a run of its own, and a group of commands on what runs left.

`tandem batch FOLDER …` runs; `tandem batch merge OUT` is a command. What stands first decides: the name of a command is
that command, so a folder of that name is written `./merge`.
"""

from __future__ import annotations

import os
from difflib import get_close_matches
from pkgutil import resolve_name
from typing import Any

import click

# command → (where it is, what `tandem batch --help` says of it)
COMMANDS: dict[str, tuple[str, str]] = {
    "status": ("commands.batch.status:status", "Say how a run stands: what is done, what failed, how long yet."),
    "verify": ("commands.batch.verify:verify", "Prove that each image has exactly one row, and nothing has changed."),
    "report": ("commands.batch.report:report", "Write what came out as one HTML page to be looked at."),
    "merge": ("commands.batch.merge:merge", "Join the shards of a run, once all are there."),
}


class BatchGroup(click.Group):
    """A group that runs itself where its first argument names none of its commands."""

    # As in any command, and unlike in a group: INPUT and options in any order.
    allow_interspersed_args = True

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Return the context of the command that `args` begins with; else that of the run itself."""
        command = self.get_command(click.Context(self, parent=parent), args[0]) if args else None
        if command is None:
            return super().make_context(info_name, args, parent, **extra)
        return command.make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse a mistyped command: it would be taken for an INPUT that is missing."""
        if args and not ctx.resilient_parsing and not os.path.exists(args[0]):  # noqa: PTH110 # Path's can raise
            for near in get_close_matches(args[0], COMMANDS, n=1):
                ctx.fail(f"'{args[0]}' is neither a file nor a folder; did you mean '{ctx.command_path} {near}'?")
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which they are used."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Return the command `name`, importing its module."""
        command: click.Command | None = resolve_name(COMMANDS[name][0]) if name in COMMANDS else None
        return command

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Return the usage of the run: that of the commands is their own."""
        return click.Command.collect_usage_pieces(self, ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands without importing any of them."""
        with formatter.section("Commands on what a run left"):
            formatter.write_dl([(name, help_text) for name, (_, help_text) in COMMANDS.items()])
