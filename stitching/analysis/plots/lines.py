"""Figures of points and lines on axes: their numbers, and how matplotlib and plotly draw them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from stitching.analysis.plots.chart import (
    COLUMN,
    AxisScale,
    Chart,
    area_trace,
    axis_layout,
    column_shape,
    line_shape,
    line_trace,
    runs_trace,
)  # fmt: skip
from stitching.analysis.plots.style import PAGE_WIDTH, Look, finish, legend_entries, new_panels, styled, wrapped
from stitching.config.errors import UserError
from stitching.text import escape

__all__ = ["Line", "LinePanel", "Lines", "Reference"]

_MISSING = Look("a finished run without a number (NaN), in no mean", "#B00020", "x")


@dataclass
class Line:
    """A series in a panel.

    Attributes:
        points: a row for each point: `x`, `mean`, `low` and `high` (the interval; blank for one seed), `n`, `missing`
            (finished runs without a number), `words` (for the reader who points at it), and `part`: a line joins the
            points of one part.
        runs: the single runs, in the report only: `x`, `y`, `result_row` (its number in the report's table).
        is_band: the interval is an area along the line instead of bars.
        is_behind: it is drawn behind the others, and is after them in the legend.
    """

    look: Look
    points: pd.DataFrame
    runs: pd.DataFrame | None = None
    is_band: bool = False
    is_behind: bool = False


@dataclass
class Reference:
    """What the series are compared with.

    A line across the panel, at the only `y` (`x` is None), or a short line at each `y` over a stretch of `x`, with a
    column below it.
    """

    look: Look
    y: list[float]
    words: list[str]
    x: list[tuple[float, float]] | None = None


@dataclass
class LinePanel:
    """One plot: its title, its series, and what they are compared with."""

    title: str
    x: AxisScale
    lines: list[Line]
    references: list[Reference] = field(default_factory=list)
    separators: list[float] = field(default_factory=list)  # where along x one group ends and the next begins


@dataclass
class Lines:
    """A figure of panels that share their axis of numbers.

    Attributes:
        columns: panels beside each other; None: as many as are readable.
        height: of a panel on paper, inches.
    """

    panels: list[LinePanel]
    y_label: str
    caption: str
    columns: int | None = None
    height: float = 2.3
    chart_width: int = 400  # of a panel on the screen, pixels

    @styled
    def matplotlib(self) -> Figure:
        """The figure on paper."""
        if not self.panels:
            raise UserError("there is nothing to draw in these runs")
        columns = self.columns or self._columns()
        rows = -(-len(self.panels) // columns)
        width = PAGE_WIDTH / columns if columns > 1 else PAGE_WIDTH if self._is_crowded() else 4.6
        width = max(width, 1.35)
        figure, axes = new_panels(rows, columns, width, self.height, sharey=True)
        for number, (axis, panel) in enumerate(zip(axes.flat, self.panels, strict=False)):
            axis.set_ylim(*self._y_ends())
            _draw_panel(axis, panel)
            axis.set_title(wrapped(panel.title, width))
            if number + columns >= len(self.panels):
                axis.set_xlabel(panel.x.label)
        for axis in axes.flat[len(self.panels) :]:
            axis.set_visible(False)
        for axis in axes[:, 0]:
            axis.set_ylabel(self.y_label)
        return finish(figure, self.caption, self._legend(figure))

    def _legend(self, figure: Figure) -> list[Artist]:
        """Its entries: of each adapter and of each choice of settings, if these are fewer than the series."""
        entries = legend_entries(figure)
        looks = [line.look for panel in self.panels for line in panel.lines]
        series = {look.label: look for look in looks if look.choice and look.label in entries}
        adapters = {look.adapter: look for look in series.values()}
        choices = {look.choice: look for look in series.values()}
        if len(adapters) + len(choices) >= len(series):
            return [*entries.values()]
        halves = [
            *(replace(look, label=name, marker="s", line="") for name, look in adapters.items()),
            *(replace(look, label=words, colour="#444444", is_filled=True) for words, look in choices.items()),
        ]
        others = [entry for label, entry in entries.items() if label not in series]
        return [*map(_legend_mark, halves), *others]

    def plotly(self) -> Chart:
        """The figure in the report."""
        chart = Chart(self.caption, width=self.chart_width)
        ends = self._y_ends()
        y = {"title": {"text": escape(self.y_label)}, "range": ends}
        for panel in self.panels:
            traces: list[dict[str, Any]] = []
            for line in sorted(panel.lines, key=lambda line: not line.is_behind):
                traces += area_trace(line.look, line.points) if line.is_band else []
                rank = {"legendrank": 1500} if line.is_behind else {}
                traces += [trace | rank for trace in line_trace(line.look, line.points, bars=not line.is_band)]
                traces += [runs_trace(line.look, line.runs)] if line.runs is not None and len(line.runs) else []
            traces = [
                trace for reference in panel.references for trace in _reference_trace(reference, panel.x)
            ] + traces
            shapes = [line_shape(x) for x in panel.separators]
            shapes += [column_shape(start, end, ends[0], top) for (start, end), top in _columns_of(panel).items()]
            chart.add(panel.title, traces, axis_layout(panel.x), y, shapes)
        return chart

    def _y_ends(self) -> tuple[float, float]:
        """Where the axis of all panels begins and ends: everything drawn is in it."""
        numbers: list[float] = [y for panel in self.panels for reference in panel.references for y in reference.y]
        for line in (line for panel in self.panels for line in panel.lines):
            numbers += [*line.points[["mean", "low", "high"]].to_numpy(float).ravel()]
            numbers += [*line.runs["y"]] if line.runs is not None else []
        finite = np.array(numbers, dtype=float)[np.isfinite(np.array(numbers, dtype=float))]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        room = max(0.05 * (high - low), 0.005)
        return low - room, high + room

    def _columns(self) -> int:
        return 1 if len(self.panels) == 1 or self._is_crowded() else 2

    def _is_crowded(self) -> bool:
        """Whether a panel needs the page's width."""
        return any(len(panel.x.ticks or []) * len(panel.lines) > 48 for panel in self.panels)


def _columns_of(panel: LinePanel) -> dict[tuple[float, float], float]:
    """The columns below what the series are compared with: for each stretch of x the highest."""
    tops: dict[tuple[float, float], float] = {}
    for reference in panel.references:
        for stretch, y in zip(reference.x or [], reference.y, strict=False):
            tops[stretch] = max(y, tops.get(stretch, y))
    return tops


# ------------------------------------------------------------------------ matplotlib


def _draw_panel(axis: Axes, panel: LinePanel) -> None:
    for x in panel.separators:
        axis.axvline(x, color="#cccccc", lw=0.6, zorder=0)
    foot = axis.get_ylim()[0]
    for (start, end), top in _columns_of(panel).items():
        axis.add_patch(Rectangle((start, foot), end - start, top - foot, color=COLUMN, lw=0, zorder=0.5))
    for line in panel.lines:
        _draw_line(axis, line)
    for reference in panel.references:
        _draw_reference(axis, reference)
    _draw_scale(axis, panel.x)


def _draw_scale(axis: Axes, scale: AxisScale) -> None:
    if scale.is_log:
        axis.set_xscale("log")
        axis.minorticks_off()
    if scale.ticks is not None:
        labels = scale.tick_labels or [f"{tick:g}" for tick in scale.ticks]
        axis.set_xticks(scale.ticks, labels)
        if len(labels) > 12 or (len(labels) > 3 and max(map(len, labels)) > 6):
            axis.tick_params("x", rotation=90)
    else:
        axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=scale.is_whole))
    if scale.ends:
        axis.set_xlim(*scale.ends)
    elif not scale.is_whole:
        axis.set_xmargin(0.1)


def _draw_reference(axis: Axes, reference: Reference) -> None:
    look = reference.look
    if reference.x is None:
        axis.axhline(reference.y[0], color=look.colour, ls=look.line, lw=1, label=look.label, zorder=1.5)
        return
    starts, ends = zip(*reference.x, strict=True)
    axis.hlines(reference.y, starts, ends, colors=look.colour, ls=look.line, lw=1.2, label=look.label, zorder=2)


def _draw_line(axis: Axes, line: Line) -> None:
    look, points = line.look, line.points
    missing = points[points["missing"] > 0]
    if len(missing):
        axis.plot(
            missing["x"], np.full(len(missing), 0.02), "x", color=_MISSING.colour, ms=5, mew=1.4, ls="", clip_on=False,
            transform=axis.get_xaxis_transform(), label=_MISSING.label,
        )  # fmt: skip
    points = points.dropna(subset="mean")
    if points.empty:  # nothing yet, and no entry in the legend
        return
    parts = [part for _, part in points.groupby("part", sort=False)]
    for number, part in enumerate(parts):
        bars = np.array([part["mean"] - part["low"], part["high"] - part["mean"]], dtype=float)
        drawn = np.isfinite(bars).any() and not line.is_band
        axis.errorbar(
            part["x"].to_numpy(float), part["mean"].to_numpy(float), yerr=bars if drawn else None, color=look.colour,
            marker=look.marker, markersize=look.size, mfc=look.inside, mew=0.8, ls=look.line, lw=1, elinewidth=0.8,
            label=look.label if not number else "_", zorder=2.5 if line.is_behind else 3,
        )  # fmt: skip
        if line.is_band and (part["n"] > 1).any():
            axis.fill_between(part["x"], part["low"], part["high"], color=look.colour, alpha=0.13, lw=0)


def _legend_mark(look: Look) -> Line2D:
    return Line2D(
        [], [], color=look.colour, marker=look.marker, markersize=look.size, mfc=look.inside, mew=0.8,
        ls=look.line or "none", lw=1, label=look.label,
    )  # fmt: skip


# ------------------------------------------------------------------------ plotly


def _reference_trace(reference: Reference, scale: AxisScale) -> list[dict[str, Any]]:
    if reference.x is None:
        ends = scale.ends or (0, 1)
        x = np.linspace(ends[0], ends[1], 31)  # many points, so that a reader finds the line's words anywhere
        points = pd.DataFrame({"x": x, "mean": reference.y[0], "words": reference.words[0], "part": 0})
    else:
        stretches = zip(reference.x, reference.y, reference.words, strict=True)
        points = pd.DataFrame(
            [
                {"x": x, "mean": y, "words": words, "part": number}
                for number, ((start, end), y, words) in enumerate(stretches)
                for x in (start, (start + end) / 2, end)
            ]
        )
    traces = line_trace(replace(reference.look, marker=""), points, bars=False)
    return [{**trace, "legendrank": 2000} for trace in traces]  # after the series
