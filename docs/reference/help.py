"""Prints the help of commands for the pages of this folder. `nox -s reference` runs it by way of cog."""

from __future__ import annotations

import click
from click.testing import CliRunner

from tandem import main

WIDTH = 100


def print_help(*words: str) -> None:
    """Print the help of a command, `print_help("models", "push")`, and of its sub-commands, as Markdown."""
    command: click.Command | None = main
    for word in words:
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), word)
    done = CliRunner().invoke(
        main, [*words, "--help"], prog_name="tandem", terminal_width=WIDTH, max_content_width=WIDTH
    )
    assert done.exit_code == 0, done.output
    print(f"```console\n$ tandem {' '.join(words)} --help\n{done.output.rstrip()}\n```")
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            print(f"\n## tandem {' '.join(words)} {name}\n")
            print_help(*words, name)


def print_table() -> None:
    """Print a table of all commands, each with a link to its page."""
    print("| command | what it does |\n|---|---|")
    for name, (_, line) in main.table.items():
        print(f"| [`tandem {name}`]({name}.md) | {line} |")
