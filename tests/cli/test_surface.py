"""The command line that people and their scripts rely on: no command or option comes, goes or changes its name unnoticed."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from stitching.cli import app

SURFACE = Path(__file__).with_name("surface.txt")  # after a change that is meant: python tests/cli/test_surface.py
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def surface() -> str:
    """A line for each command with its arguments, and below it one for each of its options, in the order of --help."""
    lines = []
    for name, command in COMMANDS.items():
        arguments = [_value(parameter) for parameter in command.params if parameter.param_type_name == "argument"]
        lines.append(" ".join([name, *arguments]))
        for parameter in command.params:
            if parameter.param_type_name == "option":
                value = "" if getattr(parameter, "is_flag", False) else f" {_value(parameter)}"
                required = " (required)" if parameter.required else ""
                lines.append(f"    {', '.join([*parameter.opts, *parameter.secondary_opts])}{value}{required}")
    return "\n".join(lines) + "\n"


def _value(parameter) -> str:
    return parameter.metavar or parameter.name.upper()


def test_commands_and_options_are_what_they_were():
    assert surface() == SURFACE.read_text(), "if it is meant: python tests/cli/test_surface.py"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_does_and_gives_an_example(name):
    command = COMMANDS[name]
    assert "stitching " + name in (command.epilog or ""), "an example"
    assert command.help
    for parameter in command.params:
        assert parameter.help, f"{parameter.name} says nothing of itself"


if __name__ == "__main__":
    SURFACE.write_text(surface())
