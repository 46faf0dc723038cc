"""The options of `tandem batch`, grouped by subject."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from batch.inputs.shards import Shard
from batch.rows.formats import FORMATS
from commands.options import Number, all_of


class ShardType(click.ParamType[Shard]):
    """A shard, written as `3/16`."""

    name = "K/N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Shard:
        """Return the shard; a usage error if `value` is not one."""
        try:
            return value if isinstance(value, Shard) else Shard.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


input_options = all_of(
    click.argument("inputs", metavar="[INPUT]...", nargs=-1),
    click.option(
        "--files-from",
        metavar="FILE",
        help="Also classify the images listed in FILE, one path or URL on each line; '-' reads standard input.",
    ),
    click.option("-0", "--null", is_flag=True, help="Entries of FILE end in NUL, as 'find -print0' writes them."),
    click.option(
        "--include",
        metavar="GLOB",
        multiple=True,
        help="Take images whose name matches, whatever their suffix; a GLOB with a slash matches the path. Repeatable.",
    ),
    click.option(
        "--exclude",
        metavar="GLOB",
        multiple=True,
        help="Leave out images and folders that match, likewise. Repeatable.",
    ),
    click.option("--follow-symlinks", is_flag=True, help="Follow symbolic links in folders."),
    click.option(
        "--column",
        metavar="NAME",
        default="image",
        show_default=True,
        help="Column of Parquet INPUTs that holds the images, or their paths.",
    ),
)

output_options = all_of(
    click.option(
        "-o",
        "--output",
        metavar="OUT",
        required=True,
        type=click.Path(path_type=Path),
        help="A new folder, or the folder of a run to resume.",
    ),
    click.option(
        "--format", type=click.Choice(FORMATS), default="parquet", show_default=True, help="Format of the part files."
    ),
    click.option(
        "--top-k",
        type=click.IntRange(min=1),
        default=5,
        show_default=True,
        help="Number of labels listed for each image.",
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
        "--escape-formulas",
        is_flag=True,
        help="Put an apostrophe before CSV fields that a spreadsheet would run, such as names that begin with '='.",
    ),
    click.option(
        "--chunk-size",
        type=click.IntRange(min=1),
        default=1000,
        show_default=True,
        help="Images in one part file, the most that a killed run has to repeat.",
    ),
    click.option(
        "--metrics-file",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Keep metrics in FILE for Prometheus' text collector, which reads names that end in .prom.",
    ),
)

failure_options = all_of(
    click.option(
        "--image-timeout",
        metavar="SECONDS",
        type=Number(min=0, min_open=True),
        default=10.0,
        show_default=True,
        help="CPU time allowed for decoding a suspicious image.",
    ),
    click.option("--max-failures", metavar="N", type=click.IntRange(min=0), help="Stop after more than N failures."),
    click.option(
        "--max-failure-rate",
        metavar="RATE",
        type=Number(min=0, max=1),
        help="Stop when a larger share of the images failed, 0 to 1.",
    ),
    click.option("--retry-failed", is_flag=True, help="Classify the failed images of the run in OUT again."),
)

scale_options = all_of(
    click.option("--batch-size", type=click.IntRange(min=1), help="Images per execution of the engine."),
    click.option(
        "--decode-threads",
        type=click.IntRange(min=1),
        help="Threads that read and decode; each drives its own process.  [default: one for each CPU]",
    ),
    click.option(
        "--shard",
        metavar="K/N",
        type=ShardType(),
        help="Run the K-th of N shares into OUT/shard-K-of-N; 'tandem batch merge' joins them.  "
        "[default: from JOB_COMPLETION_INDEX and JOB_COMPLETION_COUNT]",
    ),
)

cluster_options = all_of(
    click.option(
        "--runner",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Run on this machine or on a Ray cluster; the parts are the same bytes.",
    ),
    click.option(
        "--address",
        metavar="ADDRESS",
        help="The Ray cluster.  [default: RAY_ADDRESS, else one on this machine]",
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
        help="CPUs of each engine on the Ray cluster. On a GPU device, each engine also has a GPU.",
    ),
)
