"""Figures of accuracy: a panel for each pair of networks, a colour for each stitcher, intervals over seeds.

All take the dataframe of `load_results`, whole networks in it or not, and draw what there is of a half-finished sweep.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stitching.analysis.plots.references import ControlMarks, base_lines
from stitching.analysis.plots.style import (
    GREY,
    INTERVALS,
    adapter_style,
    finish,
    mark_missing,
    new_panels,
    on_each_pair,
)
from stitching.analysis.selection import Series, gaps_in, pairs_in, series_in, short_names
from stitching.analysis.statistics import last_epoch, stitched, summarize
from stitching.analysis.tables import base_networks
from stitching.config.errors import UserError
from stitching.runs.step_log import ACCURACY

__all__ = [
    "plot_accuracy_by_depth", "plot_accuracy_by_gap", "plot_accuracy_by_macs", "plot_accuracy_by_parameters",
    "plot_accuracy_by_source_stage", "plot_agreement_by_gap",
]  # fmt: skip

NOTE = f"Means of finished runs over seeds. Bars, where there are several: {INTERVALS}."
AGREEMENT = "Overall/Test Agreement"
_GAP = ["first_deleted_block", "last_deleted_block"]


def plot_accuracy_by_gap(results: pd.DataFrame) -> Figure:
    """Test accuracy (0 to 1) against the gap, lines from gap to gap for each stitcher and setting that varies."""
    return _by_gap(results, ACCURACY, "test accuracy", base_networks(results)["accuracy"].to_dict())


def plot_agreement_by_gap(results: pd.DataFrame) -> Figure:
    """On which fraction of the test images the stitched network predicts what the destination alone does, by gap."""
    _needs(results, AGREEMENT)
    return _by_gap(results, AGREEMENT, "agreement with destination", {})


def _by_gap(results: pd.DataFrame, value: str, label: str, bases: dict[Any, float]) -> Figure:
    series, controls = series_in(results), ControlMarks(results, value)

    def draw(axis: Axes, source: str, dest: str, ours: pd.DataFrame) -> None:
        gaps = gaps_in(ours)
        places = {gap: place for place, gap in enumerate(gaps)}
        for number, one in enumerate(series):
            found = (
                _summary(one.rows(ours), _GAP, value)
                .set_index(_GAP)
                .reindex(pd.MultiIndex.from_tuples(gaps, names=_GAP))
            )
            beside = _beside(number, len(series))
            controls.draw(axis, source, dest, one, _GAP, lambda *gap, beside=beside: _at(places, gap, beside))
            _draw(axis, *_parted(np.arange(len(gaps)) + beside, found, [first for first, _ in gaps]), one)
        base_lines(axis, source, dest, bases)
        labels = [f"{first}–{last}" for first, last in gaps]
        axis.set_xticks(range(len(gaps)), labels)
        if len(gaps) > 12:
            axis.tick_params("x", rotation=90, labelsize=7)
        axis.set_xlim(-0.5, len(gaps) - 0.5)
        axis.set_xlabel("blocks dropped (first–last)")

    most = len(gaps_in(stitched(results))) if pairs_in(results) else 0
    return _finished(*on_each_pair(results, draw, max(5.2, 0.15 * most), 3.3), NOTE + controls.note, label)


def plot_accuracy_by_depth(results: pd.DataFrame) -> Figure:
    """Test accuracy against the fraction of the destination that is left out.

    A line joins the gaps that begin at the same block of the source, which several do.
    """
    _needs(results, "destination_depth")
    bases = base_networks(results)["accuracy"].to_dict()
    series, controls = series_in(results), ControlMarks(results, ACCURACY)

    def draw(axis: Axes, source: str, dest: str, ours: pd.DataFrame) -> None:
        shift = 0.05 / max(1, len(series))  # of the whole depth, so that points of equal depth stand side by side
        for number, one in enumerate(series):
            beside = shift * (number - (len(series) - 1) / 2)
            controls.draw(
                axis, source, dest, one, [*_GAP, "destination_depth"], lambda *at, beside=beside: at[-1] + beside
            )
            found = _summary(one.rows(ours), ["first_deleted_block", "destination_depth"])
            for _, line in found.groupby("first_deleted_block"):
                line = line.sort_values("destination_depth")
                _draw(axis, line["destination_depth"] + beside, line, one)
        base_lines(axis, source, dest, bases)
        axis.set_xlabel("destination depth (fraction of it that is left out)")

    return _finished(*on_each_pair(results, draw, 5.2, 3.3), NOTE + controls.note)


def plot_accuracy_by_parameters(results: pd.DataFrame) -> Figure:
    """Test accuracy against the parameters of the whole stitched network; stars are base networks."""
    return _by_size(results, "parameters", {1e6: "parameters (millions)", 1e3: "parameters (thousands)"})


def plot_accuracy_by_macs(results: pd.DataFrame) -> Figure:
    """Test accuracy against the multiply-adds for one image ("FLOPs" in much of the field); stars are base networks."""
    words = "multiply-adds for one image ({}; often called FLOPs)"
    return _by_size(results, "macs", {1e9: words.format("10⁹"), 1e6: words.format("10⁶")})


def plot_accuracy_by_source_stage(results: pd.DataFrame) -> Figure:
    """The grid of pairs (rows) and source stages (columns): test accuracy against the last block dropped."""
    bases = base_networks(results)["accuracy"].to_dict()
    pairs, names = pairs_in(results), short_names(results)
    runs = stitched(results)
    stages = sorted(runs["first_deleted_block"].dropna().unique())
    series, controls = series_in(results), ControlMarks(results, ACCURACY)
    figure, axes = new_panels(len(pairs), len(stages), 2.7 if len(stages) > 1 else 4.6, 2.3, sharey=True)
    for row, (source, dest) in zip(axes, pairs, strict=True):
        for axis, stage in zip(row, stages, strict=True):
            ours = runs[
                (runs["source"] == source) & (runs["destination"] == dest) & (runs["first_deleted_block"] == stage)
            ]
            lasts = sorted(ours["last_deleted_block"].unique())
            places = {(stage, last): place for place, last in enumerate(lasts)}
            for number, one in enumerate(series):
                found = _summary(one.rows(ours), ["last_deleted_block"]).set_index("last_deleted_block").reindex(lasts)
                beside = _beside(number, len(series))
                controls.draw(
                    axis, source, dest, one, _GAP,
                    lambda *gap, places=places, beside=beside: _at(places, gap, beside),
                )  # fmt: skip
                _draw(axis, np.arange(len(lasts)) + beside, found, one, size=4)
            base_lines(axis, source, dest, bases)
            axis.set_xticks(range(len(lasts)), [str(last) for last in lasts])
            axis.set_xlim(-0.5, max(len(lasts), 1) - 0.5)
        row[0].set_ylabel(f"{names[source]} →\n{names[dest]}\ntest accuracy", fontsize=8.5)
    for axis, stage in zip(axes[0], stages, strict=True):
        axis.set_title(f"source up to block {stage - 1}", fontsize=9.5)
    for axis in axes[-1]:
        axis.set_xlabel("last block dropped")
    return finish(figure, NOTE + controls.note)


# ------------------------------------------------------------------------ shared


def _by_size(results: pd.DataFrame, column: str, units: dict[float, str]) -> Figure:
    _needs(results, column)
    most = results[column].max()
    unit = next((one for one in units if most >= one), min(units))  # the greatest that leaves numbers short
    label = units[unit]
    bases = base_networks(results)
    series, controls = series_in(results), ControlMarks(results, ACCURACY)

    def draw(axis: Axes, source: str, dest: str, ours: pd.DataFrame) -> None:
        for one in series:
            # Networks of one cell have one size; cells of one size are still networks of their own.
            found = _summary(one.rows(ours), [*_GAP, column])
            controls.draw(axis, source, dest, one, [*_GAP, column], lambda *at: at[-1] / unit)
            _draw(axis, found[column] / unit, found, one, lines=False)
        for title, role, face in ((dest, "destination alone", GREY), (source, "source alone", "white")):
            if title in bases.index and (face == GREY or source != dest):
                size, height = bases[column][title] / unit, bases["accuracy"][title]
                axis.plot(
                    size, height, "*", ms=14, color=GREY, mfc=face, ls="", label=role, zorder=3, clip_on=False
                )  # fmt: skip
        axis.set_xlabel(label)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=7))
        axis.grid(axis="x", color="#eeeeee", lw=0.6)

    return _finished(*on_each_pair(results, draw, 5.2, 3.5), NOTE + controls.note)


def _summary(runs: pd.DataFrame, by: Sequence[str], value: str = ACCURACY) -> pd.DataFrame:
    """Mean, low, high, n and missing of a number from 0 to 1; no row where no run was tested yet."""
    tested = last_epoch(runs)
    if tested.empty:
        return pd.DataFrame(columns=[*by, "mean", "low", "high", "n", "missing"], dtype=float)
    return summarize(tested, by, value=value)


def _at(places: dict[Any, int], place: Any, beside: float) -> float | None:
    return places[place] + beside if place in places else None


def _beside(number: int, count: int) -> float:
    """How far the series are from the place where they belong, so that they stand side by side."""
    return min(0.08, 0.7 / count) * (number - (count - 1) / 2)


def _parted(x: np.ndarray, found: pd.DataFrame, groups: Sequence[int]) -> tuple[np.ndarray, pd.DataFrame]:
    """`x` and `found` with blanks where the group changes, so that no line joins what does not belong together."""
    places: list[int] = []
    for place, group in enumerate(groups):
        places += [-1, place] if place and group != groups[place - 1] else [place]
    at = np.array(places)
    return np.where(at < 0, np.nan, x[at]), found.reset_index(drop=True).reindex(at)


def _draw(axis: Axes, x: object, found: pd.DataFrame, one: Series, *, size: float = 5, lines: bool = True) -> None:
    mark_missing(axis, x, found)
    mean = found["mean"].astype(float)
    if mean.isna().all():  # nothing yet, and no entry in the legend
        return
    colour, marker, inside = adapter_style(one.adapter)
    bars = np.array([mean - found["low"], found["high"] - mean], dtype=float)
    axis.errorbar(
        np.asarray(x, dtype=float),
        mean,
        yerr=bars if np.isfinite(bars).any() else None,
        color=colour,
        marker=marker,
        markersize=size + 1.2 * one.number,
        mfc=inside,
        ls=one.line if lines else "",
        lw=1,
        elinewidth=0.8,
        alpha=0.9,
        label=one.label,
    )


def _finished(figure: Figure, axes: np.ndarray, note: str, label: str = "test accuracy") -> Figure:
    for axis in axes[:, 0]:
        axis.set_ylabel(label)
    return finish(figure, note)


def _needs(results: pd.DataFrame, column: str) -> None:
    if column not in results or stitched(results)[column].isna().all():
        raise UserError(f"these runs do not tell {column!r}", do="Run them again: metadata.yml of newer runs has it.")
