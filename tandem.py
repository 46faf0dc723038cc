"""The `tandem` command: a table of commands, each imported only when it is called."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import click

from classifier.errors import TandemError
from classifier.extras import IMAGE, install_extra
from commands.lazy import Commands, LazyGroup
from commands.logs import log_to_stderr

COMMANDS: Commands = {
    "train": ("commands.train:train", "Train an image classifier on folders of images."),
    "export": ("commands.export:export", "Export a trained run as a model artifact into the registry."),
    "evaluate": ("commands.evaluate:evaluate", "Measure a model in precisions that its export could not run."),
    "val": ("commands.val:val", "Measure a model on labelled images."),
    "compare": ("commands.compare:compare", "Say which of two models is better, and by how much."),
    "models": ("commands.models.group:models", "List, show, tag, push, pull, sign, verify and remove models."),
    "classify": ("commands.classify:classify", "Classify a few images and print the top labels."),
    "batch": ("commands.batch.run:batch", "Classify every image of a folder into Parquet, CSV or JSON Lines."),
    "serve": ("commands.serve:serve", "Answer images over HTTP with the scores of one model."),
    "parity": ("commands.parity:parity", "Prove that a service and a bulk run give the same scores."),
    "log": ("commands.log.group:log", "Summarise, export and erase a service's prediction log."),
    "keys": ("commands.keys:keys", "Make API keys for the online service."),
    "package": ("commands.package.command:package", "Build, label and push an image that holds one model."),
    "selftest": ("commands.selftest:selftest", "Replay a model's golden set on this machine."),
    "doctor": ("commands.doctor.command:doctor", "Say what this machine can run, and how to fix the rest."),
}

EXTRAS = {
    "train": "train",
    "export": "train",
    "batch": "batch",
    "val": "batch",
    "compare": "batch",
    "parity": "batch",
    "log": "log",
    "serve": "service",
    "package": "service",
}
"""The extra that installs a command's packages, beside an engine."""

_OWN = (
    "tandem",
    "classifier",
    "registry",
    "training",
    "export",
    "service",
    "batch",
    "parity",
    "validation",
    "commands",
)
"""Our own packages: if one is missing, that is our bug."""

# An epilog, as in every command: in a docstring, click's \b must be the character itself, not a backslash and a b.
_EXAMPLE = """\b
Example, from nothing to a proof:
  tandem train digits --run runs/digits
  tandem export runs/digits --name digits
  tandem batch ~/.tandem/datasets/digits/test --model digits --output out
  tandem serve digits
  tandem parity digits ~/.tandem/datasets/digits/test --service http://localhost:3000
"""


class Tandem(LazyGroup):
    """The root group. An error that a user can cause ends as one sentence with exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except TandemError as error:
            raise click.ClickException(_one_line(str(error))) from error
        except ModuleNotFoundError as error:
            # A command imports its packages when it runs. importlib.metadata raises this too, for a missing version.
            package = (error.name or "").partition(".")[0]
            if package in _OWN and os.environ.get(IMAGE):
                raise click.ClickException(
                    f"this image does not hold '{package}', which the command needs: run it in the bulk run's image "
                    "or in a clone"
                ) from error
            if package in ("", *_OWN):
                raise
            extra = EXTRAS.get(ctx.invoked_subcommand or "", "cpu")
            raise click.ClickException(f"the package '{package}' is not installed: {install_extra(extra)}") from error


def _one_line(message: str) -> str:
    """Return a message without control characters, which names in it may hold; bytes that are not UTF-8 stay."""
    return "".join(char if char.isprintable() or "\ud800" <= char <= "\udfff" else " " for char in message)


@click.group(cls=Tandem, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EXAMPLE)
@click.version_option(package_name="tandem", prog_name="tandem")
@click.option("-v", "--verbose", is_flag=True, help="Log more, to standard error.")
def main(verbose: bool) -> None:
    """Train an image classifier once; let the same artifact answer online and in bulk, with the same answers."""
    # A path or a label that the terminal's encoding lacks is printed escaped, not as a traceback.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    log_to_stderr(verbose=verbose)


if __name__ == "__main__":
    main()
