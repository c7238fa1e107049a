"""Figures of what happens on the way: learning curves, and what a setting does; a panel for each pair and gap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stitching.analysis.plots.style import INTERVALS, adapter_style, finish, mark_missing, new_panels
from stitching.analysis.selection import gaps_in, pairs_in, series_in, short_names, worded
from stitching.analysis.statistics import stitched, summarize, varied_settings
from stitching.config.errors import UserError
from stitching.runs.step_log import ACCURACY

__all__ = ["MOST_GAPS", "plot_learning_curves", "plot_setting", "setting_values"]

MOST_GAPS = 16  # beside each other


def plot_learning_curves(results: pd.DataFrame, value: str = ACCURACY) -> Figure:
    """A logged number against the epoch, of runs that are still at it, too: means over seeds with 95% intervals.

    Args:
        results: as `load_results` gives them.
        value: its column.
    """
    series = series_in(results)

    def draw(axis: Axes, ours: pd.DataFrame) -> None:
        for one in series:
            found = summarize(one.rows(ours), ["Epoch"], value=value).sort_values("Epoch")
            colour, marker, inside = adapter_style(one.adapter)
            axis.plot(
                found["Epoch"], found["mean"], color=colour, ls=one.line, lw=1.2, marker=marker, mfc=inside, ms=3.5,
                label=one.label,
            )  # fmt: skip
            if (found["n"] > 1).any():
                axis.fill_between(found["Epoch"], found["low"], found["high"], color=colour, alpha=0.12, lw=0)
            mark_missing(axis, found["Epoch"], found)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))

    words = value.removeprefix("Overall/").lower()
    return _by_pair_and_gap(results, draw, "epoch", words, f"Means over seeds; shaded: {INTERVALS}.")


def plot_setting(results: pd.DataFrame, setting: str | None = None) -> Figure:
    """Test accuracy against a setting that varies, such as the learning rate or the weight decay.

    Pairs and gaps where it does not vary have no panel: an ablation may be of one gap alone.

    Args:
        results: as `load_results` gives them.
        setting: its column, or the last word of it (`lr`); may be left out if only one setting varies.

    Raises:
        UserError: no such setting varies, or several do and none is named.
    """
    varied = varied_settings(results)
    found = [key for key in varied if setting in (None, key, key.split(".")[-1])]
    if len(found) != 1:
        raise UserError(
            f"{setting!r} is no setting that varies" if setting else f"{len(varied)} settings vary in these runs",
            allowed=", ".join(varied) or "a sweep with a `grid:`",
        )
    (key,) = found
    cell = ["source", "destination", "first_deleted_block", "last_deleted_block"]
    runs = stitched(results)
    results = runs[runs.groupby(cell)[key].transform("nunique") > 1]
    series = series_in(results, but=key)
    values, numeric, log = setting_values(results, key)
    places = np.array(values, dtype=float) if numeric else np.arange(len(values))

    def draw(axis: Axes, ours: pd.DataFrame) -> None:
        for one in series:
            found = summarize(one.rows(ours), [key]).set_index(key).reindex(values)
            colour, marker, inside = adapter_style(one.adapter)
            bars = np.array([found["mean"] - found["low"], found["high"] - found["mean"]])
            mark_missing(axis, places, found)
            axis.errorbar(
                places, found["mean"], yerr=bars if np.isfinite(bars).any() else None, color=colour, marker=marker,
                mfc=inside, ms=4, lw=1, elinewidth=0.8, ls=one.line, label=one.label,
            )  # fmt: skip
        if log:
            axis.set_xscale("log")
            axis.minorticks_off()
        axis.set_xmargin(0.15)
        axis.set_xticks(places, [worded(value) for value in values], fontsize=8)

    note = f"Means of finished runs over seeds. Bars: {INTERVALS}. It shows and does not choose."
    return _by_pair_and_gap(results, draw, key.removeprefix("train_config."), "test accuracy", note)


def setting_values(results: pd.DataFrame, key: str) -> tuple[list[Any], bool, bool]:
    """The values of a setting in order, whether they are numbers, and whether they ask for a logarithmic axis."""
    values = sorted(stitched(results)[key].dropna().unique(), key=lambda value: (isinstance(value, str), value))
    numeric = pd.api.types.is_numeric_dtype(results[key]) and len(values) > 0 and bool(np.isfinite(values).all())
    return values, numeric, bool(numeric and min(values) > 0 and max(values) / min(values) >= 8)


def _by_pair_and_gap(
    results: pd.DataFrame, draw: Callable[[Axes, pd.DataFrame], None], x: str, y: str, note: str
) -> Figure:
    pairs, names, runs = pairs_in(results), short_names(results), stitched(results)
    gaps = gaps_in(runs)
    if len(gaps) > MOST_GAPS:
        raise UserError(
            f"{len(gaps)} gaps are too many panels to read",
            do=f"In Python, draw at most {MOST_GAPS}: `results[results['gap'].isin(['1-2', '3-4'])]`.",
        )
    few = len(gaps) * len(pairs) == 1
    figure, axes = new_panels(len(pairs), len(gaps), 5.2 if few else 2.3, 3.3 if few else 2.1, sharey=True)
    for row, (source, dest) in zip(axes, pairs, strict=True):
        for axis, (first, last) in zip(row, gaps, strict=True):
            ours = runs[(runs["source"] == source) & (runs["destination"] == dest)]
            draw(axis, ours[(ours["first_deleted_block"] == first) & (ours["last_deleted_block"] == last)])
        row[0].set_ylabel(f"{names[source]} →\n{names[dest]}\n{y}", fontsize=8.5)
    for axis, (first, last) in zip(axes[0], gaps, strict=True):
        axis.set_title(f"blocks {first}–{last} dropped", fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel(x, fontsize=9)
    return finish(figure, note)
