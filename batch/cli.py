"""`tandem batch`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batch.output import FORMATS, Format
from registry.options import engine_options, model_option

if TYPE_CHECKING:
    from batch.record import RunRecord

log = logging.getLogger(__name__)

FAILED_IMAGES = 3
"""Exit code of a run that is done, with a row for each image, some of which say `error`."""


_EXAMPLE = """\b
Example:
  tandem batch photos --model digits:production --output out
  python -c "import pyarrow.parquet as pq; print(pq.read_table('out/parts').slice(0, 3).to_pylist())"
"""


@click.command(short_help="Classify every image of a folder into Parquet, CSV or JSON Lines.", epilog=_EXAMPLE)
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@model_option
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    required=True,
    type=click.Path(path_type=Path),
    help="A new folder, or that of a run to resume.",
)
@click.option("--format", type=click.Choice(FORMATS), default="parquet", show_default=True, help="Of the part files.")
@click.option("--top-k", type=click.IntRange(min=1), default=5, show_default=True, help="Labels listed for each image.")
@click.option(
    "--scores",
    type=click.Choice(["top", "all"]),
    default="top",
    show_default=True,
    help="'all' adds a column with the score of every label.",
)
@click.option(
    "--chunk-size",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="Images of one part file: what a killed run may have to do again.",
)
@click.option("--batch-size", type=click.IntRange(min=1), help="Images that go into the engine at once.")
@click.option(
    "--decode-threads", type=click.IntRange(min=1), help="Threads that read and decode.  [default: one for each CPU]"
)
@engine_options
@click.pass_context
def batch(
    ctx: click.Context,
    /,
    *,
    inputs: tuple[str, ...],
    model: str | None,
    output: Path,
    format: Format,
    top_k: int,
    scores: str,
    chunk_size: int,
    batch_size: int | None,
    decode_threads: int | None,
    **engine: Any,
) -> None:
    """Classify each image of the INPUTs, folders or images, into OUT/parts: exactly one row for each image.

    Folders are searched recursively for files with an image's suffix; hidden entries and symbolic links are
    skipped and counted. An image that can't be classified is a row with its error.

    A run that was killed or interrupted is resumed by the same command, and its files end as those of an
    undisturbed run, byte for byte.

    Exit codes: 0 done, 1 could not run, 2 usage, 3 done with failed images, 130 and 143 interrupted.
    """
    from batch.commit import begun_batch_size, check_output  # noqa: PLC0415 # all of these: so that --help answers at once
    from batch.interrupts import Interrupted, Interrupts  # noqa: PLC0415
    from batch.plan import find_inputs, require_images  # noqa: PLC0415
    from batch.runner import BatchJob, run_batch  # noqa: PLC0415
    from registry import open_model  # noqa: PLC0415

    try:
        with Interrupts() as interrupts:
            job = BatchJob(
                inputs=find_inputs(inputs),
                output=output,
                format=format,
                top_k=top_k,
                all_scores=scores == "all",
                chunk_size=chunk_size,
                batch_size=batch_size,
                threads=decode_threads,
            )
            # Before the model is opened, which takes long: what would stop the run anyway.
            check_output(job.output, job.inputs)
            require_images(job.inputs)
            # A run that is resumed keeps its size: another would give other bits.
            size = batch_size or begun_batch_size(output)
            opened = open_model(model, **engine, batch_size=size, tuning="throughput")
            record = run_batch(job, opened, interrupts)
    except Interrupted as interrupted:
        click.echo(f"Interrupted; the same command resumes the run in '{output}'.", err=True)
        ctx.exit(interrupted.exit_code)
    for line in summarise(record, output):
        click.echo(line)
    ctx.exit(FAILED_IMAGES if record.failed else 0)


def summarise(record: RunRecord, output: Path) -> list[str]:
    """Return what a person wants to know of a run that is done, a line each."""
    from batch.plan import describe_counts, printable  # noqa: PLC0415
    from classifier.selftest import describe  # noqa: PLC0415

    attempt = record.attempts[-1]
    errors = f" ({describe_counts(record.errors)})" if record.errors else ""
    counts = f"{record.images:,} images: {record.ok:,} ok, {record.failed:,} failed{errors}"
    rate = f"{attempt.elapsed_s:.1f} s ({attempt.images_per_s:,.0f} images/s)"
    lines = [f"{counts}, in {rate} → {printable(str(output))}", f"{record.run.model} on {describe(record.run.engine)}"]
    if record.run.plan.skipped:
        lines.append(f"skipped: {describe_counts(record.run.plan.skipped)}")
    if accuracy := record.accuracy:
        lines.append(
            f"accuracy against the folder names: {accuracy.acc1:.2%} ({accuracy.correct:,} of {accuracy.images:,})"
        )
    return lines
