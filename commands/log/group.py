"""`tandem log`: the prediction log that a service keeps."""

from __future__ import annotations

import click

from commands.lazy import Commands, LazyGroup

COMMANDS: Commands = {
    "summary": ("commands.log.summary:summary", "Show counts, labels, scores, and the accuracy by feedback."),
    "export": ("commands.log.export:export", "Write the log as a Parquet file."),
    "delete": ("commands.log.delete:delete", "Erase entries, by time, request or client."),
}


@click.group(
    cls=LazyGroup,
    table=COMMANDS,
    epilog="\b\nExample:\n  export TANDEM_LOG_URL=sqlite:////var/lib/tandem/log.db\n"
    "  tandem log summary --since 2026-01-01\n  tandem log export predictions.parquet",
)
def log() -> None:
    """Read, export and erase the prediction log that a service keeps if TANDEM_LOG_URL is set.

    All three work while services write. Days and times are in UTC.
    """
