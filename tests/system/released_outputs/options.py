"""Print every command with its arguments and options. `document` runs this script in the environment of a tree.

It loads the installed entry point and asks click, so it names no module of the project.
"""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from typing import Any

import click

_FIELDS = ("nargs", "required", "multiple", "default", "envvar", "is_flag", "count", "hidden", "secondary_opts")


def describe(command: click.Command, name: str, parent: click.Context | None = None) -> dict[str, Any]:
    """Return the parameters and the help of a command and of its sub-commands, by their names."""
    context = click.Context(command, info_name=name.rsplit(maxsplit=1)[-1], parent=parent, **command.context_settings)
    takes = dict(_parameter(each, context) for each in command.get_params(context))
    found = {name: {"takes": takes, "help": command.get_help(context).splitlines()}}
    if isinstance(command, click.Group):
        for word in command.list_commands(context):
            below = command.get_command(context, word)
            assert below is not None
            found |= describe(below, f"{name} {word}", context)
    return found


def _parameter(parameter: click.Parameter, context: click.Context) -> tuple[str, dict[str, Any]]:
    """Return the name of an argument or option, `--output, -o`, and its properties."""
    described = parameter.to_info_dict()
    metavar = parameter.make_metavar(context)
    fields = {key: described.get(key) for key in _FIELDS} | {
        "metavar": metavar,
        "show_default": getattr(parameter, "show_default", None),
        # Messages show the name of a type, so it must stay. Its class may be renamed.
        "type": {key: value for key, value in described["type"].items() if key != "param_type" and _is_set(value)},
    }
    name = metavar if isinstance(parameter, click.Argument) else ", ".join(sorted(parameter.opts))
    return name, {key: value for key, value in fields.items() if _is_set(value)}


def _is_set(value: object) -> bool:
    return value is not None and value is not False and value != []


def main() -> None:
    """Print them as JSON."""
    [tandem] = entry_points(group="console_scripts", name="tandem")
    print(json.dumps(describe(tandem.load(), "tandem"), default=str))


if __name__ == "__main__":
    main()
