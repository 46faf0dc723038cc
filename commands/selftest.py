"""`tandem selftest`: replay the golden set of a model on this machine."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from classifier.errors import EngineError, SelfTestFailed
from classifier.types import to_json
from classifier.wording import one_line
from commands.options import engine_options, json_option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from classifier.selftest import SelfTestReport
    from registry.oci.artifact import Artifact

_EXAMPLE = """\b
Example:
  tandem selftest digits
  tandem selftest digits:3 --device cuda --json
  tandem selftest digits --all
"""


@click.command(epilog=_EXAMPLE)
@click.argument("model", required=False, metavar="[MODEL]", envvar="TANDEM_MODEL")
@engine_options
@click.option(
    "--all",
    "every_way",
    is_flag=True,
    help="Test every engine and precision that the model allows here.",
)
@json_option
def selftest(model: str | None, every_way: bool, as_json: bool, **engine_options: Any) -> None:
    """Replay a model's golden set: classify its real images and compare the scores with the trained network's.

    Services and bulk runs do the same before they start. Without MODEL, the only model in the registry is tested. The
    exit code is 1 if a score differs by more than the model's tolerance.
    """
    from registry import LocalRegistry, fetch_model

    artifact = fetch_model(model, LocalRegistry.default())
    if every_way:
        sys.exit(_print_every_way(artifact, as_json=as_json, **engine_options))
    report = _replay(artifact, **engine_options)
    if as_json:
        click.echo(to_json({"model": artifact.identity, "digest": artifact.digest, "report": report}), nl=False)
    else:
        click.echo(_as_line(artifact, report))


def _print_every_way(artifact: Artifact, *, as_json: bool, **engine_options: Any) -> int:
    """Print a line for each way of running the model, or all as JSON; return the exit code."""
    replays: list[dict[str, object]] = []
    for way, outcome in _replay_every_way(artifact, **engine_options):
        match outcome:
            case str():
                replays.append({"way": way, "lacks": outcome})
                line = f"{click.style('--', fg='yellow')}  {way} {outcome}"
            case SelfTestFailed() | EngineError():
                replays.append({"way": way, "error": str(outcome)})
                line = f"{click.style('fail', fg='red')}  {one_line(str(outcome))}"
            case _:
                replays.append({"way": way, "report": outcome})
                line = _as_line(artifact, outcome)
        if not as_json:
            click.echo(line)
    if as_json:
        click.echo(to_json({"model": artifact.identity, "digest": artifact.digest, "replays": replays}), nl=False)
    return 1 if any("error" in replay for replay in replays) else 0


def _replay_every_way(
    artifact: Artifact, *, engine: str, device: str, precision: str, threads: int | None
) -> Iterator[tuple[str, SelfTestReport | SelfTestFailed | EngineError | str]]:
    """Yield each way of running the model with its report, its error, or the reason why this machine can't."""
    from classifier.engines.selection import choose, describe_way

    choice = choose(artifact.config, engine=engine, device=device, precision=precision)
    for way in choice.ways:
        name = way.device if device == "auto" else device  # the option can be `cuda:1`
        try:
            report = _replay(artifact, engine=way.engine, device=name, precision=way.precision, threads=threads)
        except (SelfTestFailed, EngineError) as error:
            yield describe_way(way), error
        else:
            yield describe_way(way), report
    for way, lack in choice.refused.items():
        yield describe_way(way), lack


def _replay(artifact: Artifact, **engine_options: Any) -> SelfTestReport:
    from classifier.selftest import self_test
    from registry.opening import open_model

    # Opening has already tested the model. This test is for its numbers.
    return self_test(open_model(artifact.identity, **engine_options))


def _as_line(artifact: Artifact, report: SelfTestReport) -> str:

    return (
        f"{click.style('ok', fg='green')}  {artifact.identity}: {report.images} golden images, largest difference "
        f"{report.max_difference:.2g} of {report.tolerance:.2g} allowed, on {report.engine}, "
        f"in {report.elapsed_s:.2f} s"
    )
