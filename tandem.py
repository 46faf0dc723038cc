"""The `tandem` command: a table of sub-commands, each imported only when it is called."""

from __future__ import annotations

import io
import logging
import sys
from pkgutil import resolve_name
from typing import Any

import click

from classifier.errors import TandemError
from classifier.extras import install_extra

# command → (where it is, what `tandem --help` says of it)
COMMANDS = {
    "train": ("commands.train:train", "Train an image classifier on folders of images."),
    "export": ("commands.export:export", "Export a trained run as a model artifact into the registry."),
    "evaluate": ("commands.evaluate:evaluate", "Measure a model in precisions that its export could not run."),
    "models": ("commands.models.group:models", "List, show, tag, push, pull, sign, verify and remove models."),
    "classify": ("commands.classify:classify", "Classify a few images and print the top labels."),
    "batch": ("commands.batch.run:batch", "Classify every image of a folder into Parquet, CSV or JSON Lines."),
    "parity": ("commands.parity:parity", "Prove that a service and a bulk run give the same scores."),
    "package": ("commands.package.command:package", "Build, label and push an image that holds one model."),
    "selftest": ("commands.selftest:selftest", "Replay a model's golden set on this machine."),
    "doctor": ("commands.doctor.command:doctor", "Say what this machine can run, and what to do about the rest."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, so that `--help` answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of the road that a model takes."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Return the command `name`, importing its module."""
        command: click.Command | None = resolve_name(COMMANDS[name][0]) if name in COMMANDS else None
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
        except ModuleNotFoundError as error:
            # Commands import what they need when they run; importlib.metadata says it, too, of a version it can't find.
            package = (error.name or "").partition(".")[0]
            if package in ("", *_OWN):
                raise
            extra = EXTRAS.get(ctx.invoked_subcommand or "", "cpu")
            raise click.ClickException(f"the package '{package}' is not installed: {install_extra(extra)}") from error


EXTRAS = {"train": "train", "export": "train", "batch": "batch", "parity": "batch", "package": "service"}
"""What brings the packages of a command, beside an engine."""

_OWN = ("tandem", "classifier", "registry", "training", "export", "service", "batch", "parity", "commands")
"""One of these that can't be found is a defect of ours."""

# An epilog, as in every command: in a docstring, click's \b wants to be the character itself, not a backslash and a b.
_EXAMPLE = """\b
Example, from nothing to a proof:
  tandem train digits --run runs/digits
  tandem export runs/digits --name digits
  tandem batch ~/.tandem/datasets/digits/test --model digits --output out
  bentoml serve
  tandem parity digits ~/.tandem/datasets/digits/test --service http://localhost:3000
"""


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EXAMPLE)
@click.version_option(package_name="tandem", prog_name="tandem")
@click.option("-v", "--verbose", is_flag=True, help="Log more, to standard error.")
def main(verbose: bool) -> None:
    """Train an image classifier once; let the same artifact answer online and in bulk, with the same answers."""
    # A path or a label that the terminal's encoding lacks is printed escaped, not a traceback.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
    )
    for noisy in ("PIL", "matplotlib", "onnxscript", "onnx_ir", "httpx", "httpcore", "torch", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


if __name__ == "__main__":
    main()
