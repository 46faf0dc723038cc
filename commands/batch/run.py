"""`tandem batch`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import click

from batch.inputs.shards import Shard, shard_of_job
from batch.rows.formats import Columns, Format
from classifier.errors import TooManyFailures
from classifier.wording import counted, one_line, utf8_text
from commands.batch.group import COMMANDS, BatchGroup
from commands.batch.options import cluster_options, failure_options, input_options, output_options, scale_options
from commands.exit_codes import FAILED_IMAGES, TOO_MANY_FAILURES
from commands.logs import log_as_json_unless_on_a_terminal
from commands.options import engine_options, model_option

if TYPE_CHECKING:
    from pathlib import Path

    from batch.inputs.named import Input
    from batch.run.record import Attempt, RunRecord
    from batch.run.runner import BatchJob

log = logging.getLogger(__name__)

_EXAMPLE = """\b
Example:
  tandem batch photos --model digits:production --output out
  find photos -newer yesterday -print0 | tandem batch --files-from - -0 --model digits --output new
  python -c "import pyarrow.parquet as pq; print(pq.read_table('out/parts').slice(0, 3).to_pylist())"
"""


@click.group(
    cls=BatchGroup,
    table=COMMANDS,
    section="Commands on the output of a run",
    invoke_without_command=True,
    short_help="Classify every image of a folder into Parquet, CSV or JSON Lines.",
    epilog=_EXAMPLE,
)
@input_options
@model_option
@output_options
@failure_options
@scale_options
@cluster_options
@engine_options
@click.pass_context
def batch(
    ctx: click.Context,
    /,
    *,
    inputs: tuple[str, ...],
    files_from: str | None,
    null: bool,
    column: str,
    model: str | None,
    output: Path,
    shard: Shard | None,
    runner: str,
    batch_size: int | None,
    decode_threads: int | None,
    address: str | None,
    engines: int | None,
    engine_cpus: int,
    **options: Any,
) -> None:
    """Classify every image of the INPUTs into OUT/parts, with exactly one row for each image.

    INPUTs are folders, images, tar files (WebDataset shards), Parquet files, or URLs of these, such as
    s3://bucket/photos. Folders are searched recursively for files with an image's suffix; hidden entries and symbolic
    links are skipped and counted. An image that can't be classified gets a row with its error.

    The same command resumes a run that was killed or interrupted. Its files end up byte-identical to those of an
    undisturbed run.

    Exit codes: 0 done, 1 could not run, 2 wrong usage, 3 done with failed images, 4 stopped by a limit on failed
    images, 130 and 143 interrupted.
    """
    from batch.inputs.named import find_inputs
    from batch.run.folder import begun_batch_size
    from batch.run.local import LocalRunner
    from batch.run.runner import check_job, run_batch
    from batch.run.stopping import Interrupted, Interrupts
    from registry import LocalRegistry, fetch_model, open_model

    if not inputs and files_from is None:
        raise click.UsageError("Missing argument 'INPUT...', or --files-from.")
    engine = {name: options.pop(name) for name in ("engine", "device", "precision", "threads")}
    log_as_json_unless_on_a_terminal()
    try:
        with Interrupts() as interrupts:
            found = find_inputs(inputs, files_from=files_from, nul=null, column=column)
            job = _make_job(found, output, shard or shard_of_job(), **options)
            check_job(job)  # before opening the model, which takes time
            # A resumed run keeps its batch size: another could give other bits.
            size = batch_size or begun_batch_size(job.output, job.shard)
            if runner == "local":
                opened = open_model(model, **engine, batch_size=size, tuning="throughput")
                with LocalRunner(opened, batch_size=batch_size, threads=decode_threads) as local:
                    record = run_batch(job, local, interrupts)
            else:
                from batch.run.ray_runner import Cluster, RayRunner

                gpus = {"auto": None, "cpu": 0}.get(engine["device"], 1)
                cluster = Cluster(address=address, engines=engines, cpus=engine_cpus, gpus=gpus)
                artifact = fetch_model(model, LocalRegistry.default())
                with RayRunner(
                    artifact, cluster, engine=engine, batch_size=size, threads=decode_threads
                ) as engines_of_cluster:
                    record = run_batch(job, engines_of_cluster, interrupts)
    except Interrupted as interrupted:
        click.echo(one_line(f"Interrupted; the same command resumes the run in '{utf8_text(output)}'."), err=True)
        ctx.exit(interrupted.exit_code)
    except TooManyFailures as error:
        click.echo(f"Error: {error}", err=True)
        ctx.exit(TOO_MANY_FAILURES)
    for line in summarise(record, job.output, record.attempts[-1]):
        click.echo(one_line(line))
    ctx.exit(FAILED_IMAGES if record.failed else 0)


def _make_job(
    inputs: tuple[Input, ...],
    output: Path,
    shard: Shard | None,
    *,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    follow_symlinks: bool,
    format: Format,
    top_k: int,
    scores: str,
    embeddings: bool,
    escape_formulas: bool,
    image_timeout: float,
    max_failures: int | None,
    max_failure_rate: float | None,
    **options: Any,
) -> BatchJob:
    from batch.inputs.selection import Selection
    from batch.run.runner import BatchJob
    from batch.run.stopping import FailureLimits

    if escape_formulas and format != "csv":
        raise click.UsageError("--escape-formulas is for spreadsheets, which read CSV: add --format csv.")
    if shard is not None and shard.count == 1:
        shard = None
    return BatchJob(
        inputs=inputs,
        output=output / shard.folder if shard else output,
        selection=Selection(include=include, exclude=exclude, follow_symlinks=follow_symlinks),
        shard=shard,
        columns=Columns(
            format=format,
            top_k=top_k,
            all_scores=scores == "all",
            embeddings=embeddings,
            escape_formulas=escape_formulas,
        ),
        image_timeout_s=image_timeout,
        limits=FailureLimits(failures=max_failures, rate=max_failure_rate),
        **options,
    )


def summarise(record: RunRecord, output: Path, attempt: Attempt | None = None) -> list[str]:
    """Return the summary of a finished run, a line for each fact.

    Args:
        record: of the run.
        output: its folder.
        attempt: the last attempt, to show its rate; None to leave the rate out.
    """
    from batch.inputs.plan import describe_counts

    errors = f" ({describe_counts(record.errors)})" if record.errors else ""
    counts = f"{counted(record.images, 'image')}: {record.ok:,} ok, {record.failed:,} failed{errors}"
    rate = ""
    if attempt is not None:
        # Earlier attempts of a resumed run classified the other images.
        which = "" if attempt.images == record.images else f"{attempt.images:,} of them "
        rate = f", {which}in {attempt.elapsed_s:.1f} s ({attempt.images_per_s:,.0f} images/s)"
    lines = [f"{counts}{rate} → {utf8_text(output)}", f"{record.run.model} on {record.run.engine}"]
    if record.run.plan.skipped:
        lines.append(f"skipped: {describe_counts(record.run.plan.skipped)}")
    if accuracy := record.accuracy:
        lines.append(
            f"accuracy against the folder names: {accuracy.acc1:.2%} ({accuracy.correct:,} of {accuracy.images:,})"
        )
    return lines
