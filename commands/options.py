"""Options and arguments that several commands share, as decorators."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])


class Number(click.FloatRange):
    """A number within limits. It refuses NaN, which passes every comparison with a limit."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number that `value` spells."""
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


def all_of(*options: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    """Return one decorator that adds all `options`, in the order in which the help lists them."""

    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


reference_argument = click.argument("reference", metavar="REF")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")

yes_option = click.option("-y", "--yes", is_flag=True, help="Don't ask.")

model_option = click.option(
    "-m",
    "--model",
    metavar="REF",
    envvar="TANDEM_MODEL",
    show_envvar=True,
    help="The model: 'digits', 'digits:3', 'digits:production' or 'digits@sha256:…'. One on a remote registry, "
    "'ghcr.io/acme/digits:3', is fetched once. Without this option: the only model in the registry.",
)

measured_options = all_of(
    click.option(
        "--json",
        "json_file",
        metavar="FILE",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Write the result as JSON.",
    ),
    click.option(
        "--report",
        metavar="FILE",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Write the result as one HTML page, with pictures.",
    ),
    click.option(
        "--batch-size",
        type=click.IntRange(min=1),
        help="Images per execution of the engine.  [default: the engine's own choice, as in a bulk run]",
    ),
)
"""Options json_file, report and batch_size of the commands that measure models on class folders."""

engine_options = all_of(
    click.option(
        "--engine",
        metavar="NAME",
        default="auto",
        envvar="TANDEM_ENGINE",
        show_envvar=True,
        show_default=True,
        help="The engine that runs the model: 'onnxruntime' or 'openvino'. 'auto', here and below, takes the fastest "
        "that the model allows and this machine has.",
    ),
    click.option(
        "--device",
        metavar="NAME",
        default="auto",
        envvar="TANDEM_DEVICE",
        show_envvar=True,
        show_default=True,
        help="'cpu', 'cuda', 'cuda:1' or 'auto'. A "
        "device that can't be used is an error, never a silent fallback to the CPU.",
    ),
    click.option(
        "--precision",
        metavar="NAME",
        default="auto",
        envvar="TANDEM_PRECISION",
        show_envvar=True,
        show_default=True,
        help="'fp32', 'bf16', 'fp16', 'int8' or 'auto'. A model allows only those whose measured accuracy is close "
        "enough: 'tandem models show' lists them.",
    ),
    click.option(
        "--threads",
        type=click.IntRange(min=1),
        envvar="TANDEM_THREADS",
        show_envvar=True,
        help="CPU threads of the engine.  [default: as many as this process may keep busy]",
    ),
)
"""Options engine, device, precision and threads, named as `registry.open_model` takes them."""
