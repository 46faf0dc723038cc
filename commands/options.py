"""The options that every command which runs a model has: which model, and how it is run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])

model_option = click.option(
    "-m",
    "--model",
    metavar="REF",
    envvar="TANDEM_MODEL",
    show_envvar=True,
    help="The model: 'digits', 'digits:3', 'digits:production' or 'digits@sha256:…'; with a host before it, "
    "'ghcr.io/acme/digits:3', it is fetched once. Without it, the only one in the registry.",
)


class Number(click.FloatRange):
    """A number within limits. NaN is no number: every comparison with a limit lets it through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number that `value` says."""
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is no number.", param, ctx)
        return number


def engine_options(command: _Command) -> _Command:
    """Give `command` the options engine, device, precision and threads, named as `open_model` takes them.

    What can be had is not listed here: the engines know, and say so.
    """
    options = (
        click.option(
            "--engine", metavar="NAME", default="auto", envvar="TANDEM_ENGINE", show_envvar=True, show_default=True,
            help="What runs the model: 'onnxruntime' or 'openvino'. 'auto', here and below, is the fastest that the "
            "model allows and this machine has.",
        ),
        click.option(
            "--device", metavar="NAME", default="auto", envvar="TANDEM_DEVICE", show_envvar=True, show_default=True,
            help="'cpu', 'cuda', 'cuda:1', or 'auto'. One that can't be had is an error, never a quiet run on the CPU.",
        ),
        click.option(
            "--precision", metavar="NAME", default="auto", envvar="TANDEM_PRECISION", show_envvar=True,
            show_default=True,
            help="'fp32', 'bf16', 'fp16' or 'int8'. Only one whose accuracy was measured, and found near enough, is "
            "allowed: 'tandem models show' lists them.",
        ),
        click.option(
            "--threads", type=click.IntRange(min=1), envvar="TANDEM_THREADS", show_envvar=True,
            help="CPU threads of the engine.  [default: as many as this process may keep busy]",
        ),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command
