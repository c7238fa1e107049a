"""The registry of figures: what the command `plot`, Python, the notebooks and the report draw."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import update_wrapper
from typing import Any, Protocol

import pandas as pd
from matplotlib.figure import Figure

from stitching.analysis.load import Folders, list_runs, load_results
from stitching.analysis.plots.chart import Chart
from stitching.config.errors import UserError
from stitching.config.registries import Registry

__all__ = ["FIGURES", "Drawing", "RegisteredFigure", "draw", "figure"]


class Drawing(Protocol):
    """The numbers of a figure, which know how they are drawn. `Lines` and `Cells` do."""

    def matplotlib(self) -> Figure:
        """The figure on paper."""

    def plotly(self) -> Chart:
        """The figure in the report."""


class RegisteredFigure:
    """A figure by its name. Called with a table it gives matplotlib's figure.

    Attributes:
        name: for the command line and the report.
        title: a heading for it.
        of_runs: it takes the table of `list_runs`, else that of `load_results`.
        variants: which options the report draws it with, given the table: one heading's words and the options for each.
    """

    def __init__(
        self, numbers: Callable[..., Drawing], name: str, title: str, *, of_runs: bool,
        variants: Callable[[pd.DataFrame], list[tuple[str, dict[str, Any]]]] | None,
    ) -> None:  # fmt: skip
        self.numbers = numbers
        self.name, self.title, self.of_runs = name, title, of_runs
        self.variants = variants or (lambda _: [(title, {})])
        update_wrapper(self, numbers)

    def __call__(self, table: pd.DataFrame, *args: Any, **options: Any) -> Figure:
        return self.numbers(table, *args, **options).matplotlib()

    @property
    def about(self) -> str:
        """What the figure shows, in one line."""
        return (inspect.getdoc(self.numbers) or "").partition("\n")[0]

    @property
    def options(self) -> list[str]:
        """The names of what it takes beside the table."""
        return list(inspect.signature(self.numbers).parameters)[1:]


FIGURES: Registry[RegisteredFigure] = Registry("figure")


def figure(
    name: str, title: str, *, of_runs: bool = False,
    variants: Callable[[pd.DataFrame], list[tuple[str, dict[str, Any]]]] | None = None,
) -> Callable[[Callable[..., Drawing]], RegisteredFigure]:  # fmt: skip
    """A decorator that registers a figure: a function from the table to the numbers drawn.

    The first line of the function's docstring says what the figure shows. The function raises `UserError` where the
    table lacks what it needs.

    Args:
        name: for the command line; no other figure has it.
        title: a heading for it in the report.
        of_runs: it takes the table of `list_runs`, else that of `load_results`.
        variants: for a figure with options: which headings and options the report draws it with, given the table.
    """

    def register(numbers: Callable[..., Drawing]) -> RegisteredFigure:
        registered = RegisteredFigure(numbers, name, title, of_runs=of_runs, variants=variants)
        return FIGURES.register(name)(registered)

    return register


def draw(name: str, folders: Folders, **options: Any) -> Figure:
    """The figure of that name, of the runs below one folder or several.

    Raises:
        UserError: there is no such figure, it takes no such option, or it cannot be drawn of these runs.
    """
    registered = FIGURES[name]
    options = {option: value for option, value in options.items() if value is not None}
    for option in options:
        if option not in registered.options:
            takers = [other for other, each in FIGURES.items() if option in each.options]
            raise UserError(f"the figure {name!r} takes no --{option}", allowed=", ".join(takers))
    return registered(list_runs(folders) if registered.of_runs else load_results(folders), **options)
