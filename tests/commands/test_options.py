"""The options that commands share, and the environment variables behind them."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from commands.options import engine_options, model_option


@click.command()
@model_option
@engine_options
def echo(model: str | None, engine: str, device: str, precision: str, threads: int | None) -> None:
    """Print what a command gets."""
    click.echo(f"{model} {engine} {device} {precision} {threads}")


ENVIRONMENT = {
    "TANDEM_MODEL": "digits:3",
    "TANDEM_ENGINE": "onnxruntime",
    "TANDEM_DEVICE": "cpu",
    "TANDEM_PRECISION": "fp32",
    "TANDEM_THREADS": "2",
}


@pytest.mark.parametrize(
    ("args", "env", "expected"),
    [
        ([], {}, "None auto auto auto None"),
        ([], ENVIRONMENT, "digits:3 onnxruntime cpu fp32 2"),
        ([], dict.fromkeys(ENVIRONMENT, ""), "None auto auto auto None"),
        (["-m", "fashion", "--device", "cuda:1", "--threads", "4"], ENVIRONMENT, "fashion onnxruntime cuda:1 fp32 4"),
    ],
)
def test_an_option_wins_over_its_variable(args: list[str], env: dict[str, str], expected: str) -> None:
    """The command line, else the environment, else `auto`; a variable that is empty isn't set."""
    assert CliRunner().invoke(echo, args, env=env).output == f"{expected}\n"


def test_no_thread_is_a_usage_error() -> None:
    """A number of threads that can't be is refused while the command line is read."""
    result = CliRunner().invoke(echo, ["--threads", "0"])
    assert result.exit_code == 2
    assert "--threads" in result.output


def test_help_names_the_variables() -> None:
    """Who reads the help finds what a container sets."""
    printed = CliRunner().invoke(echo, ["--help"]).output
    assert all(variable in printed for variable in ENVIRONMENT)
