"""The `tandem` command: a table of sub-commands, each imported only when it is called."""

from __future__ import annotations

import importlib
import logging
import sys
from typing import Any

import click

from classifier.errors import TandemError

# command → (where it is, what `tandem --help` says of it)
COMMANDS = {
    "train": ("training.cli:train", "Train an image classifier on folders of images."),
    "export": ("export.cli:export", "Export a trained run as a model artifact into the registry."),
    "evaluate": ("export.evaluate_cli:evaluate", "Measure a model in precisions that its export could not run."),
    "models": ("registry.cli:models", "List, show, tag, verify and remove models of the registry."),
    "classify": ("commands.classify:classify", "Classify a few images and print the top labels."),
    "batch": ("batch.cli:batch", "Classify every image of a folder into Parquet, CSV or JSON Lines."),
    "parity": ("batch.parity_cli:parity", "Prove that a service and a bulk run give the same scores."),
    "selftest": ("commands.selftest:selftest", "Replay a model's golden set on this machine."),
    "doctor": ("commands.doctor:doctor", "Say what this machine can run, and what to do about the rest."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, so that `--help` answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of the road that a model takes."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Return the command `name`, importing its module."""
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name][0].partition(":")
        try:
            command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            raise click.ClickException(_missing_extra(name, error)) from error
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_text) for name, (_, help_text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error that a user can cause ends in its sentence and exit code 1."""
        try:
            return super().invoke(ctx)
        except TandemError as error:
            raise click.ClickException(str(error)) from error


EXTRAS = {"train": "train", "export": "train", "batch": "batch", "parity": "batch"}


def _missing_extra(command: str, error: ModuleNotFoundError) -> str:
    extra = EXTRAS.get(command, "cpu")
    return f"'tandem {command}' needs the package '{error.name}', which is not installed: pip install 'tandem[{extra}]'"


# An epilog, as in every command: in a docstring, click's \b wants to be the character itself, not a backslash and a b.
EXAMPLE = """\b
Example, from nothing to a proof:
  tandem train digits --run runs/digits
  tandem export runs/digits --name digits
  tandem batch ~/.tandem/datasets/digits/test --model digits --output out
  bentoml serve
  tandem parity digits ~/.tandem/datasets/digits/test --service http://localhost:3000
"""


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXAMPLE)
@click.version_option(package_name="tandem", prog_name="tandem")
@click.option("-v", "--verbose", is_flag=True, help="Log more, to standard error.")
def main(verbose: bool) -> None:
    """Train an image classifier once; let the same artifact answer online and in bulk, with the same answers."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
    )
    for noisy in ("PIL", "matplotlib", "onnxscript", "onnx_ir", "httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


if __name__ == "__main__":
    main()
