"""Every command with its arguments and options. A script, run by the Python and in the environment of a tree.

It asks click, through the entry point that is installed, and imports nothing of the project by name.
"""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from typing import Any

import click

_FIELDS = ("opts", "secondary_opts", "nargs", "required", "multiple", "default", "envvar", "is_flag", "count", "hidden")


def describe(command: click.Command, context: click.Context, name: str) -> dict[str, Any]:
    """Return what the command `name` takes, and its help; then those of its sub-commands, by their names."""
    takes = {str(each.name): _parameter(each, context) for each in command.get_params(context)}
    found = {name: {"takes": takes, "help": command.get_help(context).splitlines()}}
    if isinstance(command, click.Group):
        for word in command.list_commands(context):
            below = command.get_command(context, word)
            assert below is not None
            found |= describe(below, click.Context(below, info_name=word, parent=context), f"{name} {word}")
    return found


def _parameter(parameter: click.Parameter, context: click.Context) -> dict[str, Any]:
    described = parameter.to_info_dict()
    # The class of a type may be renamed; its name, which messages show, may not.
    of_type = {key: value for key, value in described["type"].items() if key != "param_type"}
    fields = {key: described.get(key) for key in _FIELDS} | {
        "kind": parameter.param_type_name,
        "metavar": parameter.make_metavar(context),
        "show_default": getattr(parameter, "show_default", None),
        "type": {key: value for key, value in of_type.items() if value not in (None, False)},
    }
    return {key: value for key, value in fields.items() if value not in (None, False, [])}


def main() -> None:
    """Print them as JSON."""
    [tandem] = entry_points(group="console_scripts", name="tandem")
    command = tandem.load()
    print(json.dumps(describe(command, click.Context(command, info_name="tandem"), "tandem"), default=str))


if __name__ == "__main__":
    main()
