"""`tandem doctor`: what this machine can run, and how to fix the rest."""

from __future__ import annotations

import sys

import click

from classifier.types import to_json
from commands.options import json_option

MARKS = {"ok": "green", "warn": "yellow", "fail": "red"}

_EXAMPLE = """\b
Example:
  tandem doctor
  tandem doctor --json | jq '.[] | select(.status != "ok")'
"""


@click.command(epilog=_EXAMPLE)
@json_option
def doctor(as_json: bool) -> None:
    """Say what this machine can run, and how to fix the rest.

    It checks versions, the CPU, the NVIDIA driver, whether the engines really run on their devices, the registry, what
    'auto' means for each model, and the disk. The exit code is 1 if something installed can't work.
    """
    from commands.doctor.checks import examine

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
