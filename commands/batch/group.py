"""`tandem batch` is a command and a group: `tandem batch FOLDER …` runs, `tandem batch merge OUT` is a command.

The first argument decides. The name of a command means that command, so a folder of that name is written `./merge`.
"""

from __future__ import annotations

import os
from difflib import get_close_matches
from typing import Any

import click

from commands.lazy import Commands, LazyGroup

COMMANDS: Commands = {
    "status": ("commands.batch.status:status", "Show a run's progress, failures and time left."),
    "verify": ("commands.batch.verify:verify", "Prove that each image has exactly one row, and nothing has changed."),
    "report": ("commands.batch.report:report", "Write the results of a run as one HTML page."),
    "merge": ("commands.batch.merge:merge", "Join the shards of a run once all are done."),
}


class BatchGroup(LazyGroup):
    """A group that runs itself unless its first argument names one of its commands."""

    # Like a command, unlike a group: INPUT and options in any order.
    allow_interspersed_args = True

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Return the context of the command that `args` begins with, or else of the run itself."""
        command = self.get_command(click.Context(self, parent=parent), args[0]) if args else None
        if command is None:
            return super().make_context(info_name, args, parent, **extra)
        return command.make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse a mistyped command, which would otherwise be taken for a missing INPUT."""
        if args and not ctx.resilient_parsing and not os.path.exists(args[0]):  # noqa: PTH110 # Path's can raise
            for near in get_close_matches(args[0], COMMANDS, n=1):
                ctx.fail(f"'{args[0]}' is neither a file nor a folder; did you mean '{ctx.command_path} {near}'?")
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Return the usage of the run. The commands have their own."""
        return click.Command.collect_usage_pieces(self, ctx)
