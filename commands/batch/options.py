"""The options of `tandem batch`, by what they are about, and what the command line's words become."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from batch.inputs.shards import Shard
from batch.rows.formats import FORMATS
from commands.options import Number

_Command = TypeVar("_Command", bound=Callable[..., Any])


class ShardType(click.ParamType[Shard]):
    """A shard, written as `3/16`."""

    name = "K/N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Shard:
        """Return the shard; a usage error where it is none."""
        try:
            return value if isinstance(value, Shard) else Shard.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _all_of(*options: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


input_options = _all_of(
    click.argument("inputs", metavar="[INPUT]...", nargs=-1),
    click.option(
        "--files-from",
        metavar="FILE",
        help="Also the images that FILE lists, a path or URL a line; '-' reads the list.",
    ),
    click.option("-0", "--null", is_flag=True, help="What FILE lists ends in NUL, as 'find -print0' writes it."),
    click.option(
        "--include",
        metavar="GLOB",
        multiple=True,
        help="Images by name, in place of the usual suffixes; with a slash by path. Repeatable.",
    ),
    click.option(
        "--exclude", metavar="GLOB", multiple=True, help="Images and folders to be left out, likewise. Repeatable."
    ),
    click.option("--follow-symlinks", is_flag=True, help="Follow symbolic links in folders."),
    click.option(
        "--column",
        metavar="NAME",
        default="image",
        show_default=True,
        help="Of Parquet INPUTs, the column of images or of paths.",
    ),
)

output_options = _all_of(
    click.option(
        "-o",
        "--output",
        metavar="OUT",
        required=True,
        type=click.Path(path_type=Path),
        help="A new folder, or that of a run to resume.",
    ),
    click.option(
        "--format", type=click.Choice(FORMATS), default="parquet", show_default=True, help="Of the part files."
    ),
    click.option(
        "--top-k", type=click.IntRange(min=1), default=5, show_default=True, help="Labels listed for each image."
    ),
    click.option(
        "--scores",
        type=click.Choice(["top", "all"]),
        default="top",
        show_default=True,
        help="'all' adds a column with the score of every label.",
    ),
    click.option(
        "--embeddings",
        is_flag=True,
        help="Add a column with each image's embedding; the model must have been exported with --embeddings.",
    ),
    click.option(
        "--chunk-size",
        type=click.IntRange(min=1),
        default=1000,
        show_default=True,
        help="Images of one part file: what a killed run may have to do again.",
    ),
    click.option(
        "--metrics-file",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Keep metrics in FILE, for Prometheus' text collector: it wants the name to end in .prom.",
    ),
)

failure_options = _all_of(
    click.option(
        "--image-timeout",
        metavar="SECONDS",
        type=Number(min=0, min_open=True),
        default=10.0,
        show_default=True,
        help="CPU time that a suspicious image may take to be decoded.",
    ),
    click.option("--max-failures", metavar="N", type=click.IntRange(min=0), help="Stop when more images failed."),
    click.option(
        "--max-failure-rate",
        metavar="RATE",
        type=Number(min=0, max=1),
        help="Stop when a larger share of the images failed, 0 to 1.",
    ),
    click.option("--retry-failed", is_flag=True, help="Make the rows again that say 'error', in the same output."),
)

scale_options = _all_of(
    click.option("--batch-size", type=click.IntRange(min=1), help="Images that go into the engine at once."),
    click.option(
        "--decode-threads",
        type=click.IntRange(min=1),
        help="Threads that read and decode, each with a process of its own.  [default: one for each CPU]",
    ),
    click.option(
        "--shard",
        metavar="K/N",
        type=ShardType(),
        help="Run the K-th of N shares into OUT/shard-K-of-N; 'tandem batch merge' joins them.  "
        "[default: as JOB_COMPLETION_INDEX and JOB_COMPLETION_COUNT say]",
    ),
)

cluster_options = _all_of(
    click.option(
        "--runner",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="What makes the parts: this machine, or a Ray cluster, to the same bytes.",
    ),
    click.option(
        "--address", metavar="ADDRESS", help="Of the Ray cluster.  [default: RAY_ADDRESS, else one on this machine]"
    ),
    click.option(
        "--engines",
        metavar="N",
        type=click.IntRange(min=1),
        help="Engines on the Ray cluster.  [default: as many as there is room for]",
    ),
    click.option(
        "--engine-cpus",
        metavar="N",
        type=click.IntRange(min=1),
        default=2,
        show_default=True,
        help="CPUs of an engine on the Ray cluster; each has a GPU too, where the device is one.",
    ),
)
