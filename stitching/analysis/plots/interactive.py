"""The figures of the report as data for plotly.js, which draws them in the reader's browser.

The numbers, colours and markers are those of the figures on paper. A figure is several small plots (a panel for each
pair of networks, mostly) with one legend, so that it finds room on any screen; `page/report.js` puts them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from stitching.analysis.checks import missing_note
from stitching.analysis.plots.charts import (
    Chart,
    Entry,
    Panel,
    control_entry,
    control_kinds,
    heatmap_chart,
    is_drawn,
    layout_of,
    line_trace,
    marker_of,
    mean_words,
    rows_of,
    run_traces,
    series_entry,
    share_y,
)  # fmt: skip
from stitching.analysis.plots.curves import MOST_GAPS, setting_values
from stitching.analysis.plots.grids import depth_grids, penalty_grids
from stitching.analysis.plots.style import GREY, INTERVALS
from stitching.analysis.selection import Series, gaps_in, pairs_in, series_in, short_names, worded
from stitching.analysis.statistics import last_epoch, placed, stitched, summarize, varied_settings
from stitching.analysis.tables import add_measures, base_networks
from stitching.config.errors import UserError
from stitching.runs.step_log import ACCURACY
from stitching.text import escape  # of ticks, which plotly reads as HTML of a kind

__all__ = [
    "Study", "accuracy_by_depth", "accuracy_by_size", "by_setting", "depth_heatmap", "learning_curves",
    "penalty_heatmap",
]  # fmt: skip

_PAIR = ["source", "destination"]
_GAP = ["first_deleted_block", "last_deleted_block"]
_INTERVALS = f"means of finished runs over seeds; bars, where there are several seeds: {INTERVALS}"


class Study:
    """What all figures are drawn from.

    Attributes:
        results: all rows by epoch.
        tested: a row for each finished and tested run (or cell), with its measures; `place` is its row in the table of
            runs of the report.
        ordinary: the rows by epoch of networks that have a place in figures, without the controls.
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
        self.ordinary = placed(measured[measured["control"].isna()])
        # A self-stitch is a check, which `failed_checks` makes, and not to be compared with.
        compared = self.tested["control"].notna() & (self.tested["control"] != "self")
        self.controls = placed(self.tested[compared])

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
        return placed(stitched(self.tested[self.tested["control"].isna()]))

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
        for kind in control_kinds(controls):
            ours, lines = (
                _of(frame[frame["control"] == kind], pair) if len(frame) else frame
                for frame in (controls, control_means)
            )
            if len(ours):
                look = control_entry(kind)
                traces += run_traces(
                    look, ours[depth], ours, lines[depth], lines, ["adapter", first], size=7, width=0.8
                )
        for number, one in enumerate(study.series):
            ours, lines = one.rows(_of(study.dots, pair)), one.rows(_of(means, pair))
            shift = step * (number - (len(study.series) - 1) / 2)
            traces += run_traces(
                series_entry(one, number), ours[depth] + shift, ours, lines[depth] + shift, lines, [first]
            )
        x = {"title": "destination depth (fraction of it that is left out)", "range": ends}
        panels.append(Panel(study.title(pair), traces, layout_of(x, {"title": "test accuracy"})))
    share_y(panels)
    caption = f"Each dot is a run, at the fraction of the destination's stages that is left out. Lines: {_INTERVALS}; "
    caption += "they join gaps that begin at the same block of the source. Dots of equal depth stand side by side."
    legend = _legend(study, panels) + [
        control_entry(kind) for kind in control_kinds(controls) if is_drawn(panels, f"control-{kind}")
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
            traces += run_traces(look, ours[column] / unit, ours, lines[column] / unit, lines, None)
        traces += [
            {
                "x": [study.bases[column][title] / unit], "y": [study.bases["accuracy"][title]], "mode": "markers",
                "marker": marker_of(entry, 15), "customdata": [_base_words(study, title)], "legendgroup": entry.group,
            }
            for title, entry in _bases_of(study, pair, symbol="star")
        ]  # fmt: skip
        panels.append(Panel(study.title(pair), traces, layout_of({"title": label}, {"title": "test accuracy"})))
    share_y(panels)
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
            words = [f"{one.label}\nepoch {int(row.Epoch)}: {mean_words(row)}" for row in rows_of(found)]
            if (found["n"] > 1).any():
                band = found.dropna(subset="low")
                edges = [*band["high"], *band["low"][::-1]]
                traces.append({
                    "x": [*band["Epoch"], *band["Epoch"][::-1]], "y": edges, "mode": "lines", "fill": "toself",
                    "fillcolor": look.colour, "opacity": 0.13, "line": {"width": 0}, "hoverinfo": "skip",
                    "legendgroup": look.group,
                })  # fmt: skip
            traces.append(line_trace(look, found["Epoch"], found["mean"], words, size=5))
        x = {"title": "epoch", "tickformat": "d", "nticks": 6}
        panels.append(Panel(title, traces, layout_of(x, {"title": "test accuracy"}, height=250)))
    share_y(panels)
    caption = (
        f"Means over seeds{_over(by)}, unfinished runs as far as they are. Shaded, where there are several seeds: "
    )
    return Chart(panels, caption + f"{INTERVALS}.", _legend(study, panels, None), width=270)


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
                f"{one.label}\n{word}={worded(row.Index)}: {mean_words(row)}" if row.n > 0 else None
                for row in rows_of(found)
            ]
            x = values if numeric else [escape(str(value)) for value in values]
            traces.append(line_trace(series_entry(one, number), x, found["mean"], words, found))
        axis: dict[str, Any] = {"title": key.removeprefix("train_config."), "type": "log" if log else "-"}
        if numeric:
            axis |= {"tickvals": values, "ticktext": [worded(value) for value in values]}
        else:
            axis |= {"type": "category"}
        panels.append(Panel(title, traces, layout_of(axis, {"title": "test accuracy"}, height=250)))
    share_y(panels)
    legend = [series_entry(one, number) for number, one in enumerate(series) if is_drawn(panels, f"series-{number}")]
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
    chart = heatmap_chart(found, gaps, labels, "blocks dropped (first–last)", None, ".1f", "points")
    chart.caption = caption + "over seeds. Below 0 the stitched network is the better one." + _missing(study)
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
    chart = heatmap_chart(found, x, y, "destination depth (left out)", "source depth (used)", ".0f", "%", width=270)
    chart.caption = "Test accuracy in percent by fractions of the networks' stages; means of finished runs over seeds."
    chart.caption += _missing(study)
    return chart


def _missing(study: Study) -> str:
    note = missing_note(stitched(study.ordinary))
    return f" {note}." if note else ""


# ------------------------------------------------------------------------ base networks, legends, words


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
    return [entry for entry in [*entries, *found.values()] if is_drawn(panels, entry.group)]


def _of(frame: pd.DataFrame, place: Sequence[Any], by: Sequence[str] = _PAIR) -> pd.DataFrame:
    """The rows whose columns `by` have the values `place`."""
    ours = np.ones(len(frame), dtype=bool)
    for name, value in zip(by, place, strict=True):
        ours &= (frame[name] == value).fillna(False).to_numpy(dtype=bool)
    return frame[ours]


def _base_words(study: Study, title: str) -> str:
    row = study.bases.loc[title]
    sizes = [
        f"{row[name] / unit:.4g} {word}"
        for name, unit, word in (("parameters", 1e6, "M parameters"), ("macs", 1e9, "G multiply-adds"))
        if pd.notna(row[name])
    ]
    return "\n".join([f"{title} alone", f"test accuracy {row['accuracy']:.4f}", *sizes])
