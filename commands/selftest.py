"""`tandem selftest`: does a model give the scores here that it gave where it was made?"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from classifier.types import to_json
from registry.options import engine_options

if TYPE_CHECKING:
    from classifier.model import Model
    from classifier.selftest import SelfTestReport


@click.command()
@click.argument("model", required=False, metavar="[MODEL]", envvar="TANDEM_MODEL")
@engine_options
@click.option("--all", "every_way", is_flag=True, help="In each way that the model allows and this machine has.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, for programs.")
def selftest(model: str | None, every_way: bool, as_json: bool, **engine_options: Any) -> None:
    r"""Replay a model's golden set: real images in, the scores of the trained network expected.

    Services and bulk runs do the same before they start. Without MODEL, the only one in the registry. The exit code
    is 1 where a score is further away than the model's tolerance allows.

    \b
    Example:
      tandem selftest digits
      tandem selftest digits:3 --device cuda --json
      tandem selftest digits --all
    """
    if every_way:
        sys.exit(_test_every_way(model, as_json=as_json, **engine_options))
    opened, report = _test(model, **engine_options)
    if as_json:
        click.echo(to_json({"model": opened.identity, "digest": opened.digest, "report": report}), nl=False)
    else:
        click.echo(_as_line(opened, report))


def _test(model: str | None, **engine_options: Any) -> tuple[Model, SelfTestReport]:
    from classifier.selftest import self_test  # noqa: PLC0415  # --help answers without numpy
    from registry.opening import open_model  # noqa: PLC0415

    opened = open_model(model, **engine_options)
    return opened, self_test(opened)  # Opening has tested it already; this one is for its numbers.


def _test_every_way(
    model: str | None, *, as_json: bool, engine: str, device: str, precision: str, threads: int | None
) -> int:
    """Print what the self-test says of each way that was asked for; return the exit code."""
    from classifier.engines.selection import choose, describe_way  # noqa: PLC0415
    from classifier.errors import EngineError, SelfTestFailed  # noqa: PLC0415
    from registry.local import LocalRegistry  # noqa: PLC0415

    artifact = LocalRegistry.default().resolve(model)
    choice = choose(artifact.config, engine=engine, device=device, precision=precision)
    tests: list[dict[str, object]] = []
    failed = 0
    for way in choice.ways:
        name = describe_way(way)
        # `cuda` is the kind of what was asked for, which may be `cuda:1`.
        asked = way.device if device == "auto" else device
        try:
            opened, report = _test(
                artifact.identity, engine=way.engine, device=asked, precision=way.precision, threads=threads
            )
        except (SelfTestFailed, EngineError) as error:
            failed += 1
            tests.append({"way": name, "error": str(error)})
            line = f"{click.style('fail', fg='red')}  {error}"
        else:
            tests.append({"way": name, "report": report})
            line = _as_line(opened, report)
        if not as_json:
            click.echo(line)
    refused = {describe_way(way): lack for way, lack in choice.refused.items()}
    if as_json:
        answer = {"model": artifact.identity, "digest": artifact.digest, "tests": tests, "refused": refused}
        click.echo(to_json(answer), nl=False)
    else:
        for name, lack in refused.items():
            click.echo(f"{click.style('not here', fg='yellow')}  {name} {lack}")
    return 1 if failed else 0


def _as_line(model: Model, report: SelfTestReport) -> str:
    from classifier.selftest import describe  # noqa: PLC0415

    return (
        f"{click.style('ok', fg='green')}  {model.identity}: {report.images} golden images, largest difference "
        f"{report.max_difference:.2g} of {report.tolerance:.2g} allowed, on {describe(report.engine)}, "
        f"in {report.elapsed_s:.2f} s"
    )
