"""`tandem batch status`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from classifier.wording import counted, duration, one_line
from commands.exit_codes import FAILED_IMAGES, RUNNING, STOPPED
from commands.options import json_option

if TYPE_CHECKING:
    from batch.review.status import FolderStatus, Status

_EXAMPLE = """\b
Example:
  tandem batch status out
  while tandem batch status out --json > status.json; test $? = 5; do sleep 60; done
"""


@click.command(epilog=_EXAMPLE)
@click.argument("output", metavar="OUT", type=click.Path(path_type=Path))
@json_option
@click.pass_context
def status(ctx: click.Context, /, *, output: Path, as_json: bool) -> None:
    """Show progress, failures, rate and time left of the run in OUT, or of its shards.

    It reads a few small files and no image, and does not disturb a running run.

    Exit codes: 0 done, 1 unknown, 2 wrong usage, 3 done with failed images, 5 running, 6 stopped before the end; the
    command that began the run resumes it.
    """
    from batch.review.status import status_of
    from classifier.types import to_json

    found = status_of(output)
    if as_json:
        click.echo(_escaped(to_json(found).decode()), nl=False)
    else:
        for line in describe_status(found):
            click.echo(one_line(line))
    if found.state == "done":
        ctx.exit(FAILED_IMAGES if found.failed else 0)
    ctx.exit(RUNNING if found.state in {"running", "planning"} else STOPPED)


def _escaped(text: str) -> str:
    """Return JSON whose strings have their control and direction characters escaped. It means the same."""
    return "".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text)


def describe_status(status: Status) -> list[str]:
    """Return the status as text, a line for each fact, the state first."""
    from batch.inputs.plan import describe_counts
    from classifier.wording import table_lines

    if status.run is None:
        return [f"planning: {status.holder or 'a process'} is listing the images"]
    share = f" ({status.images / status.total:.1%})" if status.images < status.total else ""
    errors = f" ({describe_counts(status.errors)})" if status.errors else ""
    done = f"{status.images:,} of {counted(status.total, 'image')}{share}"
    lines = [f"{status.state}: {done}, {status.failed:,} failed{errors}"]
    lines += [f"  {line}" for line in _facts(status)]
    lines.append(f"  {status.run.model} on {status.run.engine}")
    if accuracy := status.accuracy:
        so_far = "" if status.state == "done" else " so far"
        lines.append(f"  accuracy against the folder names{so_far}: {accuracy.acc1:.2%}")
    if status.shards:
        columns = ("shard", "state", "images", "of", "failed", "images/s", "left", "attempts")
        lines += ["", *table_lines(columns, [_cells(each) for each in status.shards])]
    return lines


def _facts(status: Status) -> list[str]:
    from batch.review.status import is_elsewhere

    facts = []
    if status.images_per_s:
        facts.append(f"{status.images_per_s:,.0f} images/s")
    if status.left_s is not None:
        facts.append(f"{duration(status.left_s)} left")
    facts.append(counted(status.attempts, "attempt"))
    lines = [", ".join(facts)]
    if status.state == "running" and status.holder:
        lines.append(str(status.holder))
    if status.state in {"interrupted", "killed"}:
        unbegun = [each.name for each in status.shards if each.state == "not begun"]
        lines.append(f"not begun: {counted(len(unbegun), 'shard')}" if unbegun else "the same command resumes it")
    if status.state == "killed" and is_elsewhere(status.holder):
        lines.append(f"unless {status.holder} still runs: its lock may not be visible from this machine")
    if status.state == "done" and status.shards:
        lines.append("'tandem batch merge' joins the shards")
    return lines


def _cells(shard: FolderStatus) -> tuple[str, ...]:
    return (
        shard.name.removeprefix("shard-"),
        shard.state,
        f"{shard.images:,}",
        f"{shard.total:,}",
        f"{shard.failed:,}",
        f"{shard.images_per_s:,.0f}" if shard.images_per_s else "-",
        duration(shard.left_s) if shard.left_s is not None else "-",
        f"{shard.attempts:,}",
    )
