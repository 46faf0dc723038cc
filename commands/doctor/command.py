"""`tandem doctor`: what this machine can run, and what to do about the rest."""

from __future__ import annotations

import sys

import click

from classifier.types import to_json

MARKS = {"ok": "green", "warn": "yellow", "fail": "red"}

_EXAMPLE = """\b
Example:
  tandem doctor
  tandem doctor --json | jq '.[] | select(.status != "ok")'
"""


@click.command(epilog=_EXAMPLE)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON, for programs.")
def doctor(as_json: bool) -> None:
    """Say what this machine can run, and what to do about the rest.

    Looks at versions, the CPU, the NVIDIA driver, whether the engines really run on their devices, the registry, what
    'auto' means for each model, and the disk. The exit code is 1 where something that is installed can't work.
    """
    from commands.doctor.checks import examine  # noqa: PLC0415  # --help answers without numpy

    findings = list(examine())
    if as_json:
        click.echo(to_json(findings), nl=False)
    else:
        width = max(len(finding.subject) for finding in findings)
        for finding in findings:
            mark = click.style(f"{finding.status:<4}", fg=MARKS[finding.status])
            click.echo(f"{mark}  {finding.subject:<{width}}  {finding.fact}")
            if finding.remedy:
                click.echo(f"{'':<{width + 6}}  fix: {finding.remedy}")
    if any(finding.status == "fail" for finding in findings):
        sys.exit(1)
