"""`tandem export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from commands.options import Number
from export.measuring.precisions import MAX_ACCURACY_DROP, PRECISIONS

if TYPE_CHECKING:
    from classifier.types import Precision


_EXAMPLE = """\b
Example:
  tandem export runs/digits --name digits
  tandem export runs/digits --name digits --tag candidate
  tandem export runs/digits --name digits --precisions fp32,int8 --max-accuracy-drop 0.01
  tandem export runs/digits --name digits-search --embeddings"""


def _parse_precisions(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[Precision, ...]:
    names = PRECISIONS if value == "auto" else [name.strip() for name in value.split(",")]
    if unknown := [name for name in names if name not in PRECISIONS]:
        known = ", ".join(PRECISIONS)
        raise click.BadParameter(
            f"unknown precision {unknown[0]!r}; give 'auto', or some of {known}, separated by commas"
        )
    return tuple(precision for precision in PRECISIONS if precision in names)


@click.command(epilog=_EXAMPLE)
@click.argument("run_path", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--data", metavar="FOLDER", type=click.Path(path_type=Path),
    help="Where the data set is now, if it has moved since the run was trained.",
)  # fmt: skip
@click.option("--name", required=True, help="The model's name; the registry numbers its versions.")
@click.option("--tag", "aliases", multiple=True, metavar="ALIAS", help="Put this alias on the version. Repeatable.")
@click.option(
    "--precisions", metavar="LIST", default="auto", show_default=True, callback=_parse_precisions,
    help="Precisions to make and measure beside fp32, which every model has: 'bf16,int8', or 'auto' for all.",
)  # fmt: skip
@click.option(
    "--max-accuracy-drop", metavar="PART", type=Number(0, 1), default=MAX_ACCURACY_DROP, show_default=True,
    help="Allow a precision if its acc1 is at most this much below fp32's: 0.005 is half a point.",
)  # fmt: skip
@click.option(
    "--embeddings", is_flag=True,
    help="Let the graph also give each image's embedding, the input of the last layer, which 'tandem batch "
    "--embeddings' writes.",
)  # fmt: skip
def export(
    run_path: Path,
    data: Path | None,
    name: str,
    aliases: tuple[str, ...],
    precisions: tuple[Precision, ...],
    max_accuracy_drop: float,
    embeddings: bool,
) -> None:
    """Export the best network of RUN as a model artifact into the registry.

    The network becomes an ONNX graph. The graph is compared with torch on every validation image, measured at each
    precision by the engine that will run it, and self-tested before it enters the registry. Exporting the same run
    again makes no second version.

    Precisions that this machine can't run are not allowed until 'tandem evaluate' measures them on a machine that can.
    """
    # torch and onnx take seconds to import.
    from export.exporting import export_run
    from export.reporting import report
    from registry import LocalRegistry
    from training.run import Run

    run = Run.open(run_path)
    added = export_run(
        run if data is None else run.moved(data),
        name=name,
        aliases=aliases,
        registry=LocalRegistry.default(),
        precisions=precisions,
        max_accuracy_drop=max_accuracy_drop,
        embeddings=embeddings,
    )
    click.echo("\n".join(report(added)))
