"""`tandem serve`: `bentoml serve` on our service, from any folder."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from commands.options import engine_options

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).resolve().parent.parent
"""The folder that holds `service/`: the clone, or site-packages."""

_EXAMPLE = """\b
Example:
  tandem serve
  tandem serve digits:production --port 8080
  tandem serve ghcr.io/acme/digits:3 --host 0.0.0.0 --device cuda
"""


def check_host(_ctx: click.Context, _param: click.Parameter, host: str) -> str:
    """Return `host` if it is an IP address; BentoML takes no names, and says so only once the model is open."""
    import ipaddress

    try:
        ipaddress.ip_address(host)
    except ValueError as error:
        raise click.BadParameter(f"'{host}' is not an IP address; this machine's own is 127.0.0.1.") from error
    return host


@click.command(epilog=_EXAMPLE)
@click.argument("model", required=False, metavar="[REF]", envvar="TANDEM_MODEL")
@click.option(
    "-p",
    "--port",
    type=click.IntRange(1, 65_535),
    default=3000,
    envvar="BENTOML_PORT",
    show_envvar=True,
    show_default=True,
    help="Port to listen on.",
)
@click.option(
    "--host",
    metavar="IP",
    default="127.0.0.1",
    envvar="BENTOML_HOST",
    show_envvar=True,
    show_default=True,
    callback=check_host,
    help="Address to listen on. The default is reached from this machine only; '0.0.0.0' is reached from others, too.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    envvar="BENTOML_API_WORKERS",
    show_envvar=True,
    show_default=True,
    help="Processes that answer. Each opens the model; one already uses all CPUs.",
)
@click.option("--reload", is_flag=True, help="Restart when the service's code changes. Needs a clone of Tandem.")
@engine_options
def serve(
    model: str | None, port: int, host: str, workers: int, reload: bool, **engine_options: str | int | None
) -> None:
    """Answer images over HTTP with the scores of one model.

    REF is 'digits', 'digits:3', 'digits:production' or 'digits@sha256:…'. One on a remote registry,
    'ghcr.io/acme/digits:3', is fetched once. Without REF, the only model in the registry is served.

    This is 'bentoml serve' on Tandem's service. The command and its variables are printed first, so that you can run
    them yourself. Ctrl-C ends the service.
    """
    import importlib.util

    from registry import LocalRegistry, fetch_model

    if importlib.util.find_spec("bentoml") is None:
        raise ModuleNotFoundError(name="bentoml")  # the root group names the extra
    if reload and not (ROOT / "bentofile.yaml").exists():
        # BentoML would watch all of site-packages.
        raise click.UsageError("--reload needs a clone of Tandem: the code of an installed one does not change.")
    fetch_model(model, LocalRegistry.default())  # its errors are one sentence; the service finds the copy
    command = ["serve", "service.service:Classifier", "--working-dir", str(ROOT), "--host", host, "--port", str(port)]
    command += ["--api-workers", str(workers)] if workers > 1 or os.environ.get("BENTOML_API_WORKERS") else []
    command += ["--reload"] if reload else []
    become_bentoml(command, variables_of(model, **engine_options))


def variables_of(model: str | None, **engine_options: str | int | None) -> dict[str, str]:
    """Return the environment variables that tell the service what the options say."""
    variables = {} if model is None else {"TANDEM_MODEL": model}
    for option, value in engine_options.items():
        name = f"TANDEM_{option.upper()}"
        # An 'auto' on the command line overrides a variable.
        if value not in (None, "auto") or os.environ.get(name):
            variables[name] = str(value)
    return variables


def become_bentoml(arguments: list[str], variables: Mapping[str, str]) -> NoReturn:
    """Print `bentoml ARGUMENTS` with its variables, and replace this process by it."""
    # -P: a file of the user's folder must not stand in for a package.
    python = [sys.executable, "-P", "-m", "bentoml"]
    found = shutil.which("bentoml")
    is_ours = found is not None and Path(found).parent == Path(sys.executable).parent
    shown = shlex.join([*(["bentoml"] if is_ours else python), *arguments])
    click.echo(" ".join([*(f"{name}={shlex.quote(value)}" for name, value in variables.items()), shown]), err=True)
    sys.stderr.flush()
    os.execve(python[0], [*python, *arguments], os.environ | variables)  # noqa: S606 # no shell is needed
