"""`tandem selftest`: does a model give the scores here that it gave where it was made?"""

from __future__ import annotations

from typing import Any

import click

from classifier.types import to_json
from registry.options import engine_options

_EXAMPLE = """\b
Example:
  tandem selftest digits
  tandem selftest digits:3 --device cuda --json
"""


@click.command(epilog=_EXAMPLE)
@click.argument("model", required=False, metavar="[MODEL]", envvar="TANDEM_MODEL")
@engine_options
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, for programs.")
def selftest(model: str | None, as_json: bool, **engine_options: Any) -> None:
    """Replay a model's golden set: real images in, the scores of the trained network expected.

    Services and bulk runs do the same before they start. Without MODEL, the only one in the registry. The exit code
    is 1 where a score is further away than the model's tolerance allows.
    """
    from classifier.selftest import describe, self_test  # noqa: PLC0415  # --help answers without numpy
    from registry.opening import open_model  # noqa: PLC0415

    opened = open_model(model, **engine_options)
    report = self_test(opened)  # Opening has tested it already; this one is for its numbers.
    if as_json:
        click.echo(to_json({"model": opened.identity, "digest": opened.digest, "report": report}), nl=False)
    else:
        click.echo(
            f"{click.style('ok', fg='green')}  {opened.identity}: {report.images} golden images, largest difference "
            f"{report.max_difference:.2g} of {report.tolerance:.2g} allowed, on {describe(report.engine)}, "
            f"in {report.elapsed_s:.2f} s"
        )
