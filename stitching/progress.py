"""Showing progress: a bar in a terminal, a line every few seconds in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

from stitching.text import printable

__all__ = ["ProgressCallback", "duration", "shown_progress"]

ProgressCallback = Callable[[int, int, str], None]  # `done` of `total`, and the current activity

_SECONDS_BETWEEN_LINES = 5.0


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if days else f"{hours} h {minutes} min"


@contextmanager
def shown_progress(console: Console, unit: str) -> Iterator[ProgressCallback]:
    """Yields a function that shows `done` of `total` and the current activity, on standard error."""
    if not console.is_terminal:
        yield _lines(console, unit)
        return
    columns = (
        SpinnerColumn(),
        BarColumn(24),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda done, total, words: bar.update(
            task, completed=done, total=total or None, description=printable(words)
        )


def _lines(console: Console, unit: str) -> ProgressCallback:
    last = time.monotonic() - _SECONDS_BETWEEN_LINES + 2  # work of less than two seconds needs no line

    def print_line(done: int, total: int, words: str) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            console.print(f"{done}/{total} {unit}  {words}", markup=False, highlight=False, soft_wrap=True)

    return print_line
