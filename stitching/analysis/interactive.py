"""The figures of the report as data for plotly.js, which draws them in the reader's browser.

The numbers, colours and markers are those of the figures on paper. A figure is several small plots (a panel for each
pair of networks, mostly) with one legend, so that it finds room on any screen; `page/report.js` puts them together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape  # of ticks, which plotly reads as HTML of a kind
from typing import Any

import numpy as np
import pandas as pd

from stitching.analysis.curves import MOST_GAPS, setting_values
from stitching.analysis.grids import depth_grids, penalty_grids
from stitching.analysis.references import CONTROLS
from stitching.analysis.statistics import last_epoch, stitched, summarize, varied_settings
from stitching.analysis.style import GREY, Series, adapter_style, gaps_in, pairs_in, series_in, short_names
from stitching.analysis.tables import add_measures, base_networks
from stitching.config.errors import UserError
from stitching.training.results import ACCURACY

__all__ = [
    "Chart", "Entry", "Panel", "Study", "accuracy_by_depth", "accuracy_by_size", "by_setting", "control_entry",
    "depth_heatmap", "learning_curves", "penalty_heatmap", "series_entry",
]  # fmt: skip

_PAIR = ["source", "destination"]
_GAP = ["first_deleted_block", "last_deleted_block"]
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
_INTERVALS = "means of finished runs over seeds; bars, where there are several seeds: 95% intervals (Student's t)"
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


class Study:
    """What all figures are drawn from.

    Attributes:
        results: all rows by epoch.
        tested: a row for each finished and tested run (or cell), with its measures; `place` is its row in the table of
            runs of the report.
        ordinary: the rows by epoch without the controls.
    """

    def __init__(self, results: pd.DataFrame) -> None:
        if ACCURACY not in results:
            results = results.assign(**{ACCURACY: np.nan})
        if "control" not in results:
            results = results.assign(control=None)
        self.results = results
        measured = add_measures(results)
        tested = last_epoch(measured[measured["state"] == "done"])
        self.tested = tested.assign(place=np.arange(len(tested)))
        self.ordinary = measured[measured["control"].isna()]
        # A self-stitch is a check, which `failed_checks` makes, and not to be compared with.
        self.controls = self.tested[self.tested["control"].notna() & (self.tested["control"] != "self")]

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        return pairs_in(self.ordinary)

    @cached_property
    def series(self) -> list[Series]:
        return series_in(self.ordinary)

    @cached_property
    def varied(self) -> list[str]:
        return varied_settings(self.ordinary)

    @cached_property
    def bases(self) -> pd.DataFrame:
        return base_networks(self.ordinary)

    @cached_property
    def dots(self) -> pd.DataFrame:
        """The finished runs of stitched networks, controls apart."""
        return stitched(self.tested[self.tested["control"].isna()])

    @cached_property
    def seeds(self) -> int:
        return int(stitched(self.ordinary)["seed"].nunique()) if "seed" in self.ordinary else 0

    def title(self, pair: tuple[str, str]) -> str:
        names = short_names(self.ordinary)
        return f"{names[pair[0]]} → {names[pair[1]]}"

    def means(self, by: Sequence[str], *, but: str | None = None, rows: pd.DataFrame | None = None) -> pd.DataFrame:
        """`summarize` for each pair, adapter and setting (`but` one), and `by`."""
        settings = [key for key in self.varied if key != but]
        return summarize(self.ordinary if rows is None else rows, [*_PAIR, "adapter", *settings, *by])

    def needs(self, column: str) -> None:
        """Raise `UserError` if no finished run tells `column`."""
        if self.dots.empty:
            raise UserError("no stitched network has been trained to the end and tested yet")
        if column not in self.dots or self.dots[column].isna().all():
            raise UserError(f"these runs do not tell {column!r}: they are of an older version")


# ------------------------------------------------------------------------ accuracy of finished runs


def accuracy_by_depth(study: Study) -> Chart:
    """Test accuracy against the fraction of the destination that is left out, controls as thin lines."""
    depth, first = "destination_depth", "first_deleted_block"
    study.needs(depth)
    means = study.means([first, depth]).dropna(subset=depth).sort_values([first, depth])
    controls = study.controls.dropna(subset=[depth])
    control_means = (
        summarize(controls, [*_PAIR, "control", "adapter", first, depth]).sort_values(["adapter", first, depth])
        if len(controls)
        else pd.DataFrame()
    )
    depths = [*study.dots[depth].dropna(), *controls[depth]]
    ends = [min(depths) - 0.06, max(depths) + 0.06]
    step = 0.05 / len(study.series)  # of the whole depth, so that points of equal depth stand side by side
    panels = []
    for pair in study.pairs:
        traces = _base_lines(study, pair, ends)
        for kind in _kinds(controls):
            ours, lines = (
                _of(frame[frame["control"] == kind], pair) if len(frame) else frame
                for frame in (controls, control_means)
            )
            if len(ours):
                look = control_entry(kind)
                traces += _series(look, ours[depth], ours, lines[depth], lines, ["adapter", first], size=7, width=0.8)
        for number, one in enumerate(study.series):
            ours, lines = one.rows(_of(study.dots, pair)), one.rows(_of(means, pair))
            shift = step * (number - (len(study.series) - 1) / 2)
            traces += _series(
                series_entry(one, number), ours[depth] + shift, ours, lines[depth] + shift, lines, [first]
            )
        x = {"title": "destination depth (fraction of it that is left out)", "range": ends}
        panels.append(Panel(study.title(pair), traces, _layout(x, {"title": "test accuracy"})))
    _share_y(panels)
    caption = f"Each dot is a run, at the fraction of the destination's stages that is left out. Lines: {_INTERVALS}; "
    caption += "they join gaps that begin at the same block of the source. Dots of equal depth stand side by side."
    legend = _legend(study, panels) + [
        control_entry(kind) for kind in _kinds(controls) if _drawn(panels, f"control-{kind}")
    ]
    return Chart(panels, caption, legend)


def accuracy_by_size(study: Study, column: str, unit: float, label: str) -> Chart:
    """Test accuracy against the size of the whole stitched network; stars are base networks."""
    study.needs(column)
    means = study.means([*_GAP, column])
    panels = []
    for pair in study.pairs:
        traces = []
        for number, one in enumerate(study.series):
            ours, lines = one.rows(_of(study.dots, pair)), one.rows(_of(means, pair))
            look = series_entry(one, number)
            traces += _series(look, ours[column] / unit, ours, lines[column] / unit, lines, None)
        traces += [
            {
                "x": [study.bases[column][title] / unit], "y": [study.bases["accuracy"][title]], "mode": "markers",
                "marker": _marker(entry, 15), "customdata": [_base_words(study, title)], "legendgroup": entry.group,
            }
            for title, entry in _bases_of(study, pair, symbol="star")
        ]  # fmt: skip
        panels.append(Panel(study.title(pair), traces, _layout({"title": label}, {"title": "test accuracy"})))
    _share_y(panels)
    caption = f"Each dot is a run, stars are base networks alone. Larger dots with bars: {_INTERVALS}."
    caption = caption if study.seeds > 1 else "Each dot is a run, stars are base networks alone."
    return Chart(panels, caption, _legend(study, panels, "star"))


# ------------------------------------------------------------------------ a panel for each pair and gap


def learning_curves(study: Study) -> Chart:
    """Test accuracy against the epoch, of runs that are still at it, too."""
    study.needs(ACCURACY)
    by, places = _places(study)
    rows = study.ordinary.dropna(subset=ACCURACY)
    means = study.means([*by, "Epoch"], rows=rows).sort_values("Epoch")
    panels = []
    for title, place in places:
        traces = []
        for number, one in enumerate(study.series):
            found = one.rows(_of(means, place, [*_PAIR, *by]))
            look = series_entry(one, number)
            words = [f"{one.label}\nepoch {int(row.Epoch)}: {_mean_words(row)}" for row in _rows(found)]
            if (found["n"] > 1).any():
                band = found.dropna(subset="low")
                edges = [*band["high"].clip(upper=1), *band["low"].clip(lower=0)[::-1]]
                traces.append({
                    "x": [*band["Epoch"], *band["Epoch"][::-1]], "y": edges, "mode": "lines", "fill": "toself",
                    "fillcolor": look.colour, "opacity": 0.13, "line": {"width": 0}, "hoverinfo": "skip",
                    "legendgroup": look.group,
                })  # fmt: skip
            traces.append(_line(look, found["Epoch"], found["mean"], words, size=5))
        x = {"title": "epoch", "tickformat": "d", "nticks": 6}
        panels.append(Panel(title, traces, _layout(x, {"title": "test accuracy"}, height=250)))
    _share_y(panels)
    caption = (
        f"Means over seeds{_over(by)}, unfinished runs as far as they are. Shaded, where there are several seeds: "
    )
    return Chart(panels, caption + "95% intervals (Student's t).", _legend(study, panels, None), width=270)


def by_setting(study: Study, key: str) -> Chart:
    """Test accuracy against a setting that varies."""
    study.needs(key)
    by, places = _places(study)
    values, numeric, log = setting_values(study.ordinary, key)
    means = study.means([*by, key], but=key)
    series = series_in(study.ordinary, but=key)
    word = key.split(".")[-1]
    panels = []
    for title, place in places:
        traces = []
        for number, one in enumerate(series):
            found = one.rows(_of(means, place, [*_PAIR, *by])).set_index(key).reindex(values)
            words = [
                f"{one.label}\n{word}={_worded(row.Index)}: {_mean_words(row)}" if row.n > 0 else None
                for row in _rows(found)
            ]
            x = values if numeric else [escape(str(value)) for value in values]
            traces.append(_line(series_entry(one, number), x, found["mean"], words, found))
        axis: dict[str, Any] = {"title": key.removeprefix("train_config."), "type": "log" if log else "-"}
        if numeric:
            axis |= {"tickvals": values, "ticktext": [_worded(value) for value in values]}
        else:
            axis |= {"type": "category"}
        panels.append(Panel(title, traces, _layout(axis, {"title": "test accuracy"}, height=250)))
    _share_y(panels)
    legend = [series_entry(one, number) for number, one in enumerate(series) if _drawn(panels, f"series-{number}")]
    caption = f"{_INTERVALS[0].upper()}{_INTERVALS[1:]}{_over(by)}. It shows and does not choose: the best of several "
    return Chart(panels, caption + "test accuracies is too good.", legend, width=270)


def _places(study: Study) -> tuple[list[str], list[tuple[str, tuple[Any, ...]]]]:
    """By what the panels differ beside the pair, and their titles and values: one for each pair and gap, if few."""
    gaps = gaps_in(stitched(study.ordinary))
    if len(gaps) > MOST_GAPS:
        return [], [(study.title(pair), pair) for pair in study.pairs]
    pairs = [(f"{study.title(pair)}, blocks {a}–{b} dropped", (*pair, a, b)) for pair in study.pairs for a, b in gaps]
    there = set(stitched(study.ordinary)[[*_PAIR, *_GAP]].itertuples(index=False, name=None))
    return _GAP, [(title, place) for title, place in pairs if place in there]


def _over(by: Sequence[str]) -> str:
    return "" if by else f" and over all gaps (more than {MOST_GAPS} would be too many plots to read)"


# ------------------------------------------------------------------------ heatmaps


def penalty_heatmap(study: Study) -> Chart:
    """The stitching penalty, adapter x gap."""
    study.needs(ACCURACY)
    grids = penalty_grids(study.ordinary)
    gaps = [f"{first}–{last}" for first, last in gaps_in(stitched(study.ordinary))]
    labels = [one.label for one in study.series]
    found = [(study.title(pair), grid) for pair, grid in grids.items()]
    caption = "Base accuracy of the destination minus stitched accuracy, in percentage points; means of finished runs "
    chart = _heat(found, gaps, labels, "blocks dropped (first–last)", None, ".1f", "points")
    chart.caption = caption + "over seeds. Below 0 the stitched network is the better one."
    return chart


def depth_heatmap(study: Study) -> Chart:
    """Test accuracy in percent, source depth x destination depth, where there are several of both."""
    study.needs("destination_depth")
    sources, dests, grids = depth_grids(study.ordinary)
    if min(len(sources), len(dests)) < 2:
        raise UserError("there is only one depth of the source or of the destination")
    found = [
        (f"{study.title(pair)}, {label}", grid) for (pair, label), grid in grids.items() if np.isfinite(grid).any()
    ]
    x, y = ([f"{depth:.2f}" for depth in depths] for depths in (dests, sources))
    chart = _heat(found, x, y, "destination depth (left out)", "source depth (used)", ".0f", "%", width=270)
    chart.caption = "Test accuracy in percent by fractions of the networks' stages; means of finished runs over seeds."
    return chart


def _heat(
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
        panels.append(Panel(title, [trace], _layout(across, down | {"autorange": "reversed"}, height)))
    return Chart(panels, "", width=width, wide=round(7 * longest) + 60 + 36 * len(x), scale=(low, high, unit))


# ------------------------------------------------------------------------ traces


def series_entry(one: Series, number: int) -> Entry:
    """How a series looks, as `adapter_style` has it."""
    colour, marker, inside = adapter_style(one.adapter)
    return Entry(f"series-{number}", one.label, colour, _SYMBOLS[marker], inside, _DASHES[one.line])


def control_entry(kind: str) -> Entry:
    """How a control looks: thin, and in a colour that no adapter has."""
    symbol, dash = _CONTROL_LOOKS[kind]
    return Entry(f"control-{kind}", f"control: {CONTROLS[kind]}", _CONTROL_COLOUR, symbol, _CONTROL_COLOUR, dash)


def _series(
    look: Entry, x: pd.Series, runs: pd.DataFrame, mean_x: pd.Series, means: pd.DataFrame,
    breaks: Sequence[str] | None, size: float = 8, width: float = 1.3,
) -> list[dict[str, Any]]:  # fmt: skip
    """Dots for runs, and a line through their means with bars, broken where `breaks` change (None: no line)."""
    several = bool((means["n"] > 1).any())
    dots = {
        "x": [*x], "y": [*runs[ACCURACY]], "mode": "markers", "marker": _marker(look, size - 3 if several else size),
        "opacity": 0.5 if several else 1, "customdata": [int(place) for place in runs["place"]],
        "legendgroup": look.group,
    }  # fmt: skip
    if breaks is None:
        return (
            [_line(look, mean_x, means["mean"], _words_of(look, means), means, None, size), dots] if several else [dots]
        )
    at = _broken(means, breaks)
    mean_x, means = mean_x.reset_index(drop=True).reindex(at), means.reset_index(drop=True).reindex(at)
    line = _line(look, mean_x, means["mean"], _words_of(look, means), means, width, size if several else 0)
    return [line, dots]


def _broken(means: pd.DataFrame, breaks: Sequence[str]) -> list[int]:
    """The places of the rows, with -1 (no row) where one of the columns changes."""
    keys = list(means[list(breaks)].itertuples(index=False, name=None))
    places: list[int] = []
    for place, key in enumerate(keys):
        places += [-1, place] if place and key != keys[place - 1] else [place]
    return places


def _line(
    look: Entry, x: Any, y: pd.Series, words: Sequence[str | None], bars: pd.DataFrame | None = None,
    width: float | None = 1.3, size: float = 7,
) -> dict[str, Any]:  # fmt: skip
    mode = "+".join(name for name, wanted in (("lines", width), ("markers", size)) if wanted)
    trace: dict[str, Any] = {
        "x": [*x], "y": [*y], "mode": mode, "line": {"color": look.colour, "dash": look.dash, "width": width or 0},
        "marker": _marker(look, size), "customdata": [*words], "legendgroup": look.group,
        **({} if size else {"hoverinfo": "skip"}),
    }  # fmt: skip
    if bars is not None and bars["low"].notna().any():
        trace["error_y"] = {
            "type": "data", "symmetric": False, "array": [*(bars["high"].clip(upper=1) - bars["mean"])],
            "arrayminus": [*(bars["mean"] - bars["low"].clip(lower=0))], "thickness": 1, "width": 3,
            "color": look.colour,
        }  # fmt: skip
    return trace


def _marker(look: Entry, size: float) -> dict[str, Any]:
    symbol = f"{look.symbol}-open" if look.group.startswith("control") else look.symbol
    return {
        "symbol": symbol, "size": size, "color": look.colour if "open" in str(symbol) else look.inside,
        "line": {"color": look.colour, "width": 1.3},
    }  # fmt: skip


def _base_lines(study: Study, pair: tuple[str, str], ends: list[float]) -> list[dict[str, Any]]:
    x = np.linspace(ends[0], ends[1], 41)  # so that the mouse finds the line anywhere
    return [
        {
            "x": x.tolist(), "y": [study.bases["accuracy"][title]] * len(x), "mode": "lines",
            "line": {"color": GREY, "dash": entry.dash, "width": 1.4}, "legendgroup": entry.group,
            "customdata": [_base_words(study, title)] * len(x),
        }
        for title, entry in _bases_of(study, pair)
    ]  # fmt: skip


def _bases_of(study: Study, pair: tuple[str, str], symbol: str | None = None) -> list[tuple[str, Entry]]:
    source, dest = pair
    roles = [(dest, "destination", "dash", GREY), (source, "source", "dot", "white")][: 1 if source == dest else 2]
    return [
        (title, Entry(role, f"{role} alone", GREY, symbol, inside, None if symbol else dash))
        for title, role, dash, inside in roles
        if title in study.bases.index
    ]


def _legend(study: Study, panels: Sequence[Panel], symbol: str | None = None) -> list[Entry]:
    entries = [series_entry(one, number) for number, one in enumerate(study.series)]
    found = {entry.group: entry for pair in study.pairs for _, entry in _bases_of(study, pair, symbol)}
    return [entry for entry in [*entries, *found.values()] if _drawn(panels, entry.group)]


def _drawn(panels: Sequence[Panel], group: str) -> bool:
    return any(trace.get("legendgroup") == group and len(trace["x"]) for panel in panels for trace in panel.traces)


def _kinds(controls: pd.DataFrame) -> list[str]:
    there = list(controls["control"].dropna().unique())
    return [kind for kind in _CONTROL_LOOKS if kind in there]


def _of(frame: pd.DataFrame, place: Sequence[Any], by: Sequence[str] = _PAIR) -> pd.DataFrame:
    """The rows whose columns `by` have the values `place`."""
    ours = np.ones(len(frame), dtype=bool)
    for name, value in zip(by, place, strict=True):
        ours &= (frame[name] == value).fillna(False).to_numpy(dtype=bool)
    return frame[ours]


# ------------------------------------------------------------------------ layout and words


def _layout(x: dict[str, Any], y: dict[str, Any], height: int = 320) -> dict[str, Any]:
    axis = {"gridcolor": "#ececec", "zeroline": False, "linecolor": "#bbb", "automargin": True}
    x, y = ({**axis, **one, "title": {"text": one.get("title") or "", "standoff": 8}} for one in (x, y))
    return {
        "height": height, "margin": {"l": 10, "r": 12, "t": 8, "b": 10}, "font": _FONT, "hovermode": "closest",
        "showlegend": False, "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "xaxis": x, "yaxis": y,
    }  # fmt: skip


def _share_y(panels: Sequence[Panel]) -> None:
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


def _base_words(study: Study, title: str) -> str:
    row = study.bases.loc[title]
    sizes = [
        f"{row[name] / unit:.4g} {word}"
        for name, unit, word in (("parameters", 1e6, "M parameters"), ("macs", 1e9, "G multiply-adds"))
        if pd.notna(row[name])
    ]
    return "\n".join([f"{title} alone", f"test accuracy {row['accuracy']:.4f}", *sizes])


def _words_of(look: Entry, means: pd.DataFrame) -> list[str | None]:
    return [f"{look.label}\n{_mean_words(row)}" if row.n > 0 else None for row in _rows(means)]


def _rows(frame: pd.DataFrame) -> Iterable[Any]:
    return frame.itertuples()


def _mean_words(row: Any) -> str:
    if row.n < 2:
        return f"test accuracy {row.mean:.4f} (one seed)"
    return f"test accuracy {row.mean:.4f}, mean of {int(row.n)} seeds\n95% interval {row.low:.4f} to {row.high:.4f}"


def _worded(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)
