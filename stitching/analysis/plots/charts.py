"""What the report's figures are made of: plotly's traces and layouts, how series and controls look, and their words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from stitching.analysis.plots.references import CONTROLS
from stitching.analysis.plots.style import GREY, adapter_style
from stitching.analysis.selection import Series
from stitching.runs.step_log import ACCURACY
from stitching.text import escape  # of ticks, which plotly reads as HTML of a kind

__all__ = [
    "Chart", "Entry", "Panel", "control_entry", "control_kinds", "heatmap_chart", "is_drawn", "layout_of", "line_trace",
    "marker_of", "mean_words", "rows_of", "run_traces", "series_entry", "share_y",
]  # fmt: skip

_SYMBOLS = {
    "o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "P": "cross", "X": "x",
    "*": "star",
}  # fmt: skip
_DASHES = {"-": "solid", "--": "dash", ":": "dot", "-.": "dashdot"}
_CONTROL_LOOKS = {
    "random_source": ("x-thin", "dash"),
    "random_dest": ("cross-thin", "dot"),
    "adapter_only": ("y-up", "dashdot"),
}
_CONTROL_COLOUR = "#777777"
_FONT = {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif", "size": 12}


@dataclass(frozen=True)
class Entry:
    """A line of a legend: `group` names the traces that a click on it hides, in all panels."""

    group: str
    label: str
    colour: str = GREY
    symbol: str | None = None
    inside: str = GREY
    dash: str | None = None


@dataclass(frozen=True)
class Panel:
    """One plot: plotly's traces and layout, and its title."""

    title: str
    traces: list[dict[str, Any]]
    layout: dict[str, Any]


@dataclass
class Chart:
    """A figure: panels beside each other, each at least `width` pixels wide where the screen is; one legend."""

    panels: list[Panel]
    caption: str
    legend: list[Entry] = field(default_factory=list)
    width: int = 400
    wide: int = 0  # pixels that a panel cannot do without: on a smaller screen it scrolls
    scale: tuple[float, float, str] | None = None  # of the colours of a heatmap: from, to, unit


# ------------------------------------------------------------------------ looks


def series_entry(one: Series, number: int) -> Entry:
    """How a series looks, as `adapter_style` has it."""
    colour, marker, inside = adapter_style(one.adapter)
    return Entry(f"series-{number}", one.label, colour, _SYMBOLS[marker], inside, _DASHES[one.line])


def control_entry(kind: str) -> Entry:
    """How a control looks: thin, and in a colour that no adapter has."""
    symbol, dash = _CONTROL_LOOKS[kind]
    return Entry(f"control-{kind}", f"control: {CONTROLS[kind]}", _CONTROL_COLOUR, symbol, _CONTROL_COLOUR, dash)


def control_kinds(controls: pd.DataFrame) -> list[str]:
    there = list(controls["control"].dropna().unique())
    return [kind for kind in _CONTROL_LOOKS if kind in there]


def marker_of(look: Entry, size: float) -> dict[str, Any]:
    symbol = f"{look.symbol}-open" if look.group.startswith("control") else look.symbol
    return {
        "symbol": symbol, "size": size, "color": look.colour if "open" in str(symbol) else look.inside,
        "line": {"color": look.colour, "width": 1.3},
    }  # fmt: skip


# ------------------------------------------------------------------------ traces


def run_traces(
    look: Entry, x: pd.Series, runs: pd.DataFrame, mean_x: pd.Series, means: pd.DataFrame,
    breaks: Sequence[str] | None, size: float = 8, width: float = 1.3,
) -> list[dict[str, Any]]:  # fmt: skip
    """Dots for runs, and a line through their means with bars, broken where `breaks` change (None: no line)."""
    several = bool((means["n"] > 1).any())
    dots = {
        "x": [*x], "y": [*runs[ACCURACY]], "mode": "markers", "marker": marker_of(look, size - 3 if several else size),
        "opacity": 0.5 if several else 1, "customdata": [int(place) for place in runs["place"]],
        "legendgroup": look.group,
    }  # fmt: skip
    if breaks is None:
        if not several:
            return [dots]
        return [line_trace(look, mean_x, means["mean"], _words_of(look, means), means, None, size), dots]
    at = _broken(means, breaks)
    mean_x, means = mean_x.reset_index(drop=True).reindex(at), means.reset_index(drop=True).reindex(at)
    line = line_trace(look, mean_x, means["mean"], _words_of(look, means), means, width, size if several else 0)
    return [line, dots]


def _broken(means: pd.DataFrame, breaks: Sequence[str]) -> list[int]:
    """The places of the rows, with -1 (no row) where one of the columns changes."""
    keys = list(means[list(breaks)].itertuples(index=False, name=None))
    places: list[int] = []
    for place, key in enumerate(keys):
        places += [-1, place] if place and key != keys[place - 1] else [place]
    return places


def line_trace(
    look: Entry, x: Any, y: pd.Series, words: Sequence[str | None], bars: pd.DataFrame | None = None,
    width: float | None = 1.3, size: float = 7,
) -> dict[str, Any]:  # fmt: skip
    mode = "+".join(name for name, wanted in (("lines", width), ("markers", size)) if wanted)
    trace: dict[str, Any] = {
        "x": [*x], "y": [*y], "mode": mode, "line": {"color": look.colour, "dash": look.dash, "width": width or 0},
        "marker": marker_of(look, size), "customdata": [*words], "legendgroup": look.group,
        **({} if size else {"hoverinfo": "skip"}),
    }  # fmt: skip
    if bars is not None and bars["low"].notna().any():
        trace["error_y"] = {
            "type": "data", "symmetric": False, "array": [*(bars["high"] - bars["mean"])],
            "arrayminus": [*(bars["mean"] - bars["low"])], "thickness": 1, "width": 3,
            "color": look.colour,
        }  # fmt: skip
    return trace


def heatmap_chart(
    grids: Sequence[tuple[str, np.ndarray]], x: list[str], y: list[str], x_title: str, y_title: str | None, form: str,
    unit: str, width: int = 400,
) -> Chart:  # fmt: skip
    """Panels of cells with numbers, all with one scale of colours."""
    every = np.concatenate([grid[np.isfinite(grid)] for _, grid in grids])
    low, high = float(every.min()), float(every.max())
    longest = max(map(len, y))
    height = max(90 + 26 * len(y), 230 if y_title else 0)  # pixels, with room for the axis's title
    panels = []
    for title, grid in grids:
        words = [
            [f"{a}, {b}: {grid[j, i]:{form}} {unit}" if np.isfinite(grid[j, i]) else None for i, b in enumerate(x)]
            for j, a in enumerate(y)
        ]
        trace = {
            "type": "heatmap", "x": list(range(len(x))), "y": list(range(len(y))), "z": grid.tolist(), "zmin": low,
            "zmax": high, "colorscale": "Cividis", "showscale": False, "texttemplate": f"%{{z:{form}}}", "xgap": 1,
            "ygap": 1, "customdata": words, "hoverongaps": False,
        }  # fmt: skip
        across, down = (
            {"tickvals": list(range(len(names))), "ticktext": [*map(escape, names)], "showgrid": False, "title": label}
            for names, label in ((x, x_title), (y, y_title))
        )
        panels.append(Panel(title, [trace], layout_of(across, down | {"autorange": "reversed"}, height)))
    return Chart(panels, "", width=width, wide=round(7 * longest) + 60 + 36 * len(x), scale=(low, high, unit))


def is_drawn(panels: Sequence[Panel], group: str) -> bool:
    return any(trace.get("legendgroup") == group and len(trace["x"]) for panel in panels for trace in panel.traces)


# ------------------------------------------------------------------------ layout and words


def layout_of(x: dict[str, Any], y: dict[str, Any], height: int = 320) -> dict[str, Any]:
    axis = {"gridcolor": "#ececec", "zeroline": False, "linecolor": "#bbb", "automargin": True}
    x, y = ({**axis, **one, "title": {"text": one.get("title") or "", "standoff": 8}} for one in (x, y))
    return {
        "height": height, "margin": {"l": 10, "r": 12, "t": 8, "b": 10}, "font": _FONT, "hovermode": "closest",
        "showlegend": False, "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "xaxis": x, "yaxis": y,
    }  # fmt: skip


def share_y(panels: Sequence[Panel]) -> None:
    """Give all panels one range of accuracies, the bars in it."""
    ends: list[float] = []
    for panel in panels:
        for trace in panel.traces:
            y, bars = np.array(trace["y"], dtype=float), trace.get("error_y")
            if bars:
                ends += [*(y + np.nan_to_num(bars["array"])), *(y - np.nan_to_num(bars["arrayminus"]))]
            ends += [*y]
    low, high = np.nanmin(ends), np.nanmax(ends)
    room = max(0.04 * (high - low), 0.005)
    for panel in panels:
        panel.layout["yaxis"]["range"] = [low - room, high + room]


def _words_of(look: Entry, means: pd.DataFrame) -> list[str | None]:
    return [f"{look.label}\n{mean_words(row)}" if row.n > 0 else None for row in rows_of(means)]


def rows_of(frame: pd.DataFrame) -> Iterable[Any]:
    return frame.itertuples()


def mean_words(row: Any) -> str:
    missing = f"\nnot in it: {int(row.missing)} without a number (NaN)" if row.missing > 0 else ""
    if row.n < 2:
        return f"test accuracy {row.mean:.4f} (one seed){missing}"
    interval = f"95% interval over seeds {row.low:.4f} to {row.high:.4f}"
    return f"test accuracy {row.mean:.4f}, mean of {int(row.n)} seeds\n{interval}{missing}"
