"""The report's figures as data for plotly.js, which draws them in the reader's browser.

Legend and hover boxes are plotly's own. `page/report.js` puts the panels of a chart beside each other, as many as the
screen has room for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from stitching.analysis.plots.style import Look
from stitching.text import escape  # of names, which plotly reads as HTML of a kind

__all__ = [
    "COLUMN", "AxisScale", "Chart", "area_trace", "axis_layout", "column_shape", "line_shape", "line_trace",
    "mean_words", "runs_trace", "text_lines",
]  # fmt: skip

_SYMBOLS = {
    "o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "P": "cross", "X": "x",
    "*": "star", "d": "diamond-tall",
}  # fmt: skip
COLUMN = "#ebebeb"
_DASHES = {"-": "solid", "--": "dash", ":": "dot", "-.": "dashdot"}


@dataclass
class AxisScale:
    """An axis: its words, and where its ticks are."""

    label: str
    ticks: list[float] | None = None  # None: where the library likes them
    tick_labels: list[str] | None = None
    ends: tuple[float, float] | None = None
    is_log: bool = False
    is_whole: bool = False  # whole numbers only


@dataclass
class Chart:
    """A figure of panels with one axis of numbers and one legend.

    Attributes:
        panels: each with its `title`, `traces` and `xaxis` and `yaxis` (plotly's names and values; `shapes` too).
        width, height: of a panel, pixels; a screen with less room has fewer panels beside each other.
        left: pixels for the words at the left of a panel.
    """

    caption: str
    panels: list[dict[str, Any]] = field(default_factory=list)
    width: int = 400
    height: int = 320
    left: int = 62
    bottom: int = 62
    legend: list[dict[str, Any]] = field(default_factory=list)  # traces that only stand in the legend

    def add(
        self, title: str, traces: list[dict[str, Any]], x: dict[str, Any], y: dict[str, Any],
        shapes: Sequence[dict[str, Any]] = (),
    ) -> None:  # fmt: skip
        """Add a panel."""
        title = "<br>".join(escape(line) for line in title.splitlines())
        self.panels.append({"title": title, "traces": traces, "xaxis": x, "yaxis": y, "shapes": [*shapes]})

    def as_data(self) -> dict[str, Any]:
        """What the page's script draws."""
        return {
            "panels": self.panels, "width": self.width, "height": self.height, "left": self.left, "bottom": self.bottom,
            "legend": self.legend,
        }  # fmt: skip


def axis_layout(scale: AxisScale) -> dict[str, Any]:
    """An axis as plotly has it."""
    layout: dict[str, Any] = {"title": {"text": escape(scale.label)}}
    if scale.is_log:
        layout["type"] = "log"
    if scale.ticks is not None:
        labels = scale.tick_labels or [f"{tick:g}" for tick in scale.ticks]
        layout |= {"tickvals": scale.ticks, "ticktext": [escape(label) for label in labels]}
    elif scale.is_whole:
        layout |= {"tickformat": "d", "nticks": 6}
    if scale.ends:
        ends = np.log10(scale.ends) if scale.is_log else scale.ends
        layout["range"] = [float(end) for end in ends]
    return layout


def column_shape(start: float, end: float, foot: float, top: float) -> dict[str, Any]:
    """A column behind everything else."""
    corners = {"x0": start, "x1": end, "y0": foot, "y1": top}
    return {"type": "rect", **corners, "fillcolor": COLUMN, "line": {"width": 0}, "layer": "below"}


def line_shape(x: float) -> dict[str, Any]:
    """A thin line between groups."""
    return {
        "type": "line", "x0": x, "x1": x, "yref": "domain", "y0": 0, "y1": 1, "line": {"color": "#ccc", "width": 1},
        "layer": "below",
    }  # fmt: skip


# ------------------------------------------------------------------------ traces


def line_trace(look: Look, points: pd.DataFrame, *, bars: bool) -> list[dict[str, Any]]:
    """Means, joined within each `part`, with bars if there are several seeds; nothing where no point has a number."""
    points = points.dropna(subset="mean")
    if points.empty:
        return []
    # A row of blanks ends a line.
    numbers = points["part"].ne(points["part"].shift()).cumsum() - 1
    points = points.assign(at=np.arange(len(points)) + numbers).set_index("at")
    points = points.reindex(range(int(points.index.max()) + 1))
    mode = "+".join(name for name, has in (("lines", look.line), ("markers", look.marker)) if has)
    trace: dict[str, Any] = {
        "x": [*points["x"]], "y": [*points["mean"]], "mode": mode, "name": escape(look.label),
        "legendgroup": escape(look.label), "text": [text_lines(words) for words in points["words"]],
        "marker": _marker(look, 1.7 * look.size), "line": {"color": look.colour, "width": 1.3},
    }  # fmt: skip
    if look.line:
        trace["line"]["dash"] = _DASHES[look.line]
    if bars and points["low"].notna().any():
        trace["error_y"] = {
            "type": "data", "symmetric": False, "array": [*(points["high"] - points["mean"])],
            "arrayminus": [*(points["mean"] - points["low"])], "thickness": 1, "width": 3, "color": look.colour,
        }  # fmt: skip
    return [trace]


def area_trace(look: Look, points: pd.DataFrame) -> list[dict[str, Any]]:
    """The interval along a line; nothing where there is one seed."""
    band = points.dropna(subset="low")
    if band.empty:
        return []
    return [
        {
            "x": [*band["x"], *band["x"][::-1]], "y": [*band["high"], *band["low"][::-1]], "mode": "lines",
            "fill": "toself", "fillcolor": f"{look.colour}22", "line": {"width": 0}, "hoverinfo": "skip",
            "legendgroup": escape(look.label), "showlegend": False,
        }
    ]  # fmt: skip


def runs_trace(look: Look, runs: pd.DataFrame) -> dict[str, Any]:
    """Small dots for single runs, which tell their details: the script takes these from the table of runs."""
    return {
        "x": [*runs["x"]], "y": [*runs["y"]], "mode": "markers", "marker": _marker(look, look.size + 0.5),
        "opacity": 0.45, "customdata": [int(row) for row in runs["result_row"]], "legendgroup": escape(look.label),
        "name": escape(look.label), "showlegend": False,
    }  # fmt: skip


def _marker(look: Look, size: float) -> dict[str, Any]:
    return {
        "symbol": _SYMBOLS.get(look.marker, "circle"), "size": size, "color": look.inside,
        "line": {"color": look.colour, "width": 1.3},
    }  # fmt: skip


def text_lines(words: Any) -> str | None:
    """Words with line breaks as plotly shows them."""
    return escape(words).replace("\n", "<br>") if isinstance(words, str) else None


def mean_words(row: Any, value: str = "test accuracy") -> str:
    """A mean with its interval, from a row of `summarize`."""
    missing = f"\nnot in it: {int(row.missing)} without a number (NaN)" if row.missing > 0 else ""
    if row.n < 2:
        return f"{value} {row.mean:.4f} (one seed){missing}"
    interval = f"95% interval over seeds {row.low:.4f} to {row.high:.4f}"
    return f"{value} {row.mean:.4f}, mean of {int(row.n)} seeds\n{interval}{missing}"
