"""Names from files and folders are text on the screen, whatever stands in them."""

from __future__ import annotations

import io
import re

import pytest

from stitching.cli.console import PlainConsole, table_of
from stitching.progress import shown_progress
from stitching.text import printable

NASTY = {  # and how it is shown
    "[b]bold[/b]": "[b]bold[/b]",
    r"\[/red]": r"\[/red]",
    "[/]": "[/]",
    "trailing\\": "trailing\\",
    ":smile:": ":smile:",
    "\x1b[2J\x1b]0;title\x07": r"\x1b[2J\x1b]0;title\x07",
    "a\rb": r"a\rb",
    "\x9b31m": r"\x9b31m",
    "half \ud800": r"half \ud800",
    "\u202egnp.exe": r"\u202egnp.exe",
    "bert–tiny → ü": "bert–tiny → ü",
}


@pytest.fixture
def console():
    return PlainConsole(file=io.StringIO(), force_terminal=True, width=200)


def _text(console: PlainConsole) -> str:
    """What was printed, without the styles that are ours."""
    return re.sub(r"\x1b\[[\d;]*m", "", console.file.getvalue())


@pytest.mark.parametrize(("name", "shown"), NASTY.items())
def test_names_are_text_in_tables_and_messages(console, name, shown):
    console.print(table_of(f"Runs of {name}", ["run", "why"], [[name, f"it says {name}"]]))
    console.print(f"note: {name}", style="bold red", soft_wrap=True)
    lines = [line.rstrip() for line in _text(console).splitlines()]
    assert lines[0] == f"Runs of {shown}"
    assert lines[2] == f"{shown}  it says {shown}"
    assert lines[3] == f"note: {shown}"


def test_a_line_break_in_a_name_is_no_row_but_messages_have_lines(console):
    console.print(table_of("Runs", ["run", "state"], [["a\nb  done", "failed"]]))
    assert _text(console).splitlines()[2].rstrip() == r"a\nb  done  failed"
    console.print("error: one\n  two")
    assert _text(console).endswith("error: one\n  two\n")


def test_names_are_text_beside_a_bar(console):
    with shown_progress(console, "steps") as tell:
        tell(1, 2, "[/] \x1b[2J :smile:")
    assert r"[/] \x1b[2J :smile:" in _text(console)


def test_what_is_kept_stays():
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"
