"""What all commands share: the program they belong to, and how they print."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand

from stitching.text import printable

__all__ = ["LIST_OPTIONS", "AsJson", "ListCommand", "app", "err", "out", "print_table", "table_of"]


# Options that take several values, each with what a further value looks like.
LIST_OPTIONS: dict[str, Callable[[str], bool]] = {"--seeds": lambda word: word.lstrip("-").isdecimal()}


class ListCommand(TyperCommand):
    """A command whose `LIST_OPTIONS` take several values: `--seeds 1 2 3`, `--seeds=1,2`, or both."""

    def make_parser(self, ctx: Any) -> Any:
        parser: Any = super().make_parser(ctx)
        for name in LIST_OPTIONS.keys() & parser._long_opt.keys():
            option = parser._long_opt[name]
            option.process = _process_list(option.process, LIST_OPTIONS[name])
        return parser


def _process_list(process: Callable[[str, Any], None], is_value: Callable[[str], bool]) -> Callable[[str, Any], None]:
    """What the parser calls for an option's value: it takes the words behind it too, as long as they are values."""

    def process_all(value: str, state: Any) -> None:
        words = [value]
        while state.rargs and all(map(is_value, _items(state.rargs[0]))):
            words.append(state.rargs.pop(0))
        for item in (item for word in words for item in _items(word)):
            process(item, state)

    return process_all


def _items(word: str) -> list[str]:
    """`1,2` and `1,` as its values."""
    return [item.strip() for item in word.split(",") if item.strip()] or [word]


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Cut trained networks, stitch them with adapters, and measure what comes back.",
    epilog="Start with `stitching inspect timm/resnet18`, or `stitching train -c config.yml` in a job's folder.",
)


class PlainConsole(Console):
    """Prints text as it is: names from files and folders are no markup, no emoji and no commands to the terminal."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """What all strings go through that are printed, in messages and tables."""
        return super().render_str(printable(text, keep="\n\t"), **options)


out = PlainConsole()
err = PlainConsole(stderr=True)


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def table_of(title: str, columns: list[str], rows: list[list[str]]) -> Table:
    """A table without lines, columns of numbers to the right."""
    numeric = [
        all(row[i].replace(",", "").replace(".", "").strip("-").isdigit() or not row[i] for row in rows)
        for i in range(len(columns))
    ]
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name, right in zip(columns, numeric, strict=True):
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(printable, row))  # a line break would pass for another row
    return table


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    # Out of a terminal a table is as wide as it needs to be: nothing is cut off in a log or a pipe.
    console = out if out.is_terminal else PlainConsole(width=10_000, file=sys.stdout)
    console.print(table_of(title, columns, rows))
