"""Figures that are grids of cells with words in them: their numbers, and how matplotlib and plotly draw them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from stitching.analysis.plots.chart import Chart, text_lines
from stitching.analysis.plots.style import PAGE_WIDTH, finish, new_panels, styled, wrapped
from stitching.config.errors import UserError
from stitching.text import escape

__all__ = ["CellPanel", "Cells", "tint"]

_MAP = "cividis"  # which people with any colour vision read alike, and which prints in grey


@dataclass
class CellPanel:
    """One grid.

    Attributes:
        title: of the panel.
        values: (rows, columns); NaN is a blank cell. Of categories their numbers.
        texts: what stands in each cell.
        words: what the report says of a cell to the reader who points at it.
    """

    title: str
    values: np.ndarray
    texts: list[list[str]]
    words: list[list[str | None]]


@dataclass
class Cells:
    """A figure of grids with the same rows and columns.

    Attributes:
        columns, rows: their names.
        scale: what the colours mean, where they are of numbers.
        categories: labels and colours, where the values are numbers of categories.
    """

    panels: list[CellPanel]
    columns: list[str]
    rows: list[str]
    x_label: str
    y_label: str
    caption: str
    scale: str = ""
    categories: Sequence[tuple[str, str]] = ()

    @styled
    def matplotlib(self) -> Figure:
        """The figure on paper."""
        if not self.panels:
            raise UserError("there is nothing to draw in these runs")
        words = max(map(len, self.rows), default=1) * 0.058 + (0.25 if self.y_label else 0.1)  # inches
        longest = max((len(text) for panel in self.panels for row in panel.texts for text in row), default=1)
        title = max((len(word) for panel in self.panels for word in panel.title.split()), default=1)
        width = max(len(self.columns) * max(0.3, 0.065 * longest), 0.075 * title, 1.6)
        beside = max(1, min(len(self.panels), int((PAGE_WIDTH - words - 0.5) // (width + 0.15))))
        rows = -(-len(self.panels) // beside)
        beside = -(-len(self.panels) // rows)
        titles = [wrapped(panel.title, width) for panel in self.panels]
        height = max(0.185 * len(self.rows), 0.4) + 0.35 + 0.14 * max(title.count("\n") + 1 for title in titles)
        figure, axes = new_panels(rows, beside, width + words / beside + 0.2, height)
        low, high = self._range()
        image = None
        for number, (axis, panel) in enumerate(zip(axes.flat, self.panels, strict=False)):
            if self.categories:
                colours = ListedColormap([colour for _, colour in self.categories])
                axis.imshow(panel.values, cmap=colours, vmin=-0.5, vmax=len(self.categories) - 0.5, aspect="auto")
            else:
                image = axis.imshow(panel.values, cmap=_MAP, vmin=low, vmax=high, aspect="auto")
            self._write(axis, panel, low, high)
            axis.set_title(titles[number])
            self._name(axis, is_first=number % beside == 0, is_last=number + beside >= len(self.panels))
        for axis in axes.flat[len(self.panels) :]:
            axis.set_visible(False)
        if image is not None:
            bar = figure.colorbar(image, ax=axes, shrink=0.8 if rows < 3 else 0.3, aspect=20, pad=0.02)
            bar.set_label(self.scale)
            bar.outline.set_visible(False)  # type: ignore[operator]
        return finish(figure, self.caption, [Patch(color=colour, label=label) for label, colour in self.categories])

    def _range(self) -> tuple[float, float]:
        every = np.concatenate([panel.values[np.isfinite(panel.values)] for panel in self.panels])
        return (float(every.min()), float(every.max())) if every.size else (0.0, 1.0)

    def _write(self, axis: Axes, panel: CellPanel, low: float, high: float) -> None:
        for (row, column), value in np.ndenumerate(panel.values):
            if np.isfinite(value):
                is_dark = not self.categories and (value - low) < 0.55 * (high - low)
                text = panel.texts[row][column]
                axis.text(
                    column, row, text, ha="center", va="center", fontsize=6.8, color="white" if is_dark else "black"
                )

    def _name(self, axis: Axes, *, is_first: bool, is_last: bool) -> None:
        axis.grid(False)
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
        # White lines between the cells.
        axis.set_xticks(np.arange(len(self.columns) - 1) + 0.5, minor=True)
        axis.set_yticks(np.arange(len(self.rows) - 1) + 0.5, minor=True)
        axis.grid(which="minor", color="white", lw=1)
        axis.tick_params(which="minor", length=0)
        axis.set_axisbelow(False)
        axis.set_xticks(range(len(self.columns)), self.columns)
        axis.set_yticks(range(len(self.rows)), self.rows if is_first else [""] * len(self.rows))
        if len(self.columns) > 10:
            axis.tick_params("x", rotation=90)
        if is_last:
            axis.set_xlabel(self.x_label)
        if is_first and self.y_label:
            axis.set_ylabel(self.y_label)

    def plotly(self) -> Chart:
        """The figure in the report."""
        low, high = (-0.5, len(self.categories) - 0.5) if self.categories else self._range()
        scale: Any = "Cividis"
        if self.categories:
            count = len(self.categories)
            scale = [[end / count, to_hex(self.categories[n][1])] for n in range(count) for end in (n, n + 1)]
        longest = max(map(len, self.rows), default=1)
        width, height = max(340, 40 * len(self.columns) + 40), 110 + 25 * len(self.rows)
        chart = Chart(self.caption, width=width, height=height)
        chart.left = round(6.6 * longest) + (50 if self.y_label else 25)
        chart.width += chart.left
        names = {"tickmode": "array", "showgrid": False, "zeroline": False}
        x = {**names, "tickvals": [*range(len(self.columns))], "ticktext": [*map(escape, self.columns)],
             "title": {"text": escape(self.x_label)}, "range": [-0.5, len(self.columns) - 0.5]}  # fmt: skip
        y = {**names, "tickvals": [*range(len(self.rows))], "ticktext": [*map(escape, self.rows)],
             "title": {"text": escape(self.y_label)}, "range": [len(self.rows) - 0.5, -0.5]}  # fmt: skip
        for panel in self.panels:
            trace = {
                "type": "heatmap", "x": x["tickvals"], "y": y["tickvals"], "z": panel.values.tolist(), "zmin": low,
                "zmax": high, "colorscale": scale, "showscale": False, "texttemplate": "%{text}", "xgap": 1,
                "ygap": 1, "text": [[escape(text) for text in row] for row in panel.texts], "hoverongaps": False,
                "hovertext": [[text_lines(words) for words in row] for row in panel.words],
            }  # fmt: skip
            chart.add(panel.title, [trace], x, y)
        chart.legend = [
            {"x": [None], "y": [None], "mode": "markers", "name": escape(label), "showlegend": True,
             "marker": {"symbol": "square", "size": 11, "color": to_hex(colour)}, "hoverinfo": "skip"}
            for label, colour in self.categories
        ]  # fmt: skip
        return chart


def tint(colour: str, share: float = 0.45) -> str:
    """A colour mixed with white, so that black words can be read on it."""
    red, green, blue = (1 - share * (1 - part) for part in to_rgb(colour))
    return to_hex((red, green, blue))
