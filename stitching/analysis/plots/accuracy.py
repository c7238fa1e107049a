"""Figures of accuracy: a panel for each pair of networks, a colour for each stitcher, intervals over seeds.

All draw what there is of a half-finished sweep. Controls are grey columns behind the marks: what the same adapter
reaches without the learned representation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from stitching.analysis.gap_study import GAP, PAIR, GapStudy, rows_with
from stitching.analysis.plots.chart import AxisScale, mean_words
from stitching.analysis.plots.gallery import figure
from stitching.analysis.plots.lines import Line, LinePanel, Lines, Reference
from stitching.analysis.plots.style import ALONE, CONTROLS, GAP_INTERVALS, control_look, series_look
from stitching.analysis.selection import Series, gaps_in
from stitching.runs.columns import ACCURACY, AGREEMENT

__all__ = [
    "plot_accuracy_by_depth", "plot_accuracy_by_gap", "plot_accuracy_by_macs", "plot_accuracy_by_parameters",
    "plot_accuracy_by_source_stage", "plot_agreement_by_gap",
]  # fmt: skip

_NOTE = f"Means of finished runs over seeds. Bars, where there are several: {GAP_INTERVALS}."
_CONTROLS_NOTE = " Grey columns: what the same adapter reaches in the control, without what was learned."
_STARTS = " Lines join gaps that start at the same block."
_GROUPS = " Gaps between two vertical lines start at the same block."
_SIZES = ("destination_depth", "parameters", "macs")
_NO_INTERVAL = {"low": np.nan, "high": np.nan, "n": 1, "missing": 0, "part": 0}
_APART = 0.6  # between gaps that start at different blocks; gaps are 1 apart

Position = Callable[[Any], float]  # of a row of means, along x


@figure("gap", "Accuracy by gap")
def plot_accuracy_by_gap(results: pd.DataFrame) -> Lines:
    """Test accuracy (0 to 1) against the gap, with controls and the networks by themselves."""
    return _by_gap(GapStudy.of(results), ACCURACY, "test accuracy")


@figure("depth", "Accuracy by destination depth")
def plot_accuracy_by_depth(results: pd.DataFrame) -> Lines:
    """Test accuracy against the fraction of the destination that is left out."""
    study, depth = GapStudy.of(results), "destination_depth"
    means = study.means([GAP[0], depth])
    controls = study.control_means([GAP[0], depth])
    depths = sorted({*means[depth], *controls[depth]})
    step = min(np.diff(depths), default=0.2)
    ends = (depths[0] - 0.6 * step, depths[-1] + 0.6 * step)
    panels = []
    for pair in study.pairs:
        lines = _lines(study, pair, means, _depth, step=step, parts=GAP[0])
        references = _controls(study, controls, pair, _depth, step)
        scale = AxisScale("destination depth (fraction that is left out)", ends=ends)
        panels.append(LinePanel(study.title(pair), scale, lines, references + _alone(study, pair)))
    return Lines(panels, "test accuracy", _NOTE + _STARTS + (_CONTROLS_NOTE if len(controls) else ""))


@figure("parameters", "Accuracy by parameters")
def plot_accuracy_by_parameters(results: pd.DataFrame) -> Lines:
    """Test accuracy against the parameters of the whole stitched network; stars are base networks."""
    units = {1e6: "parameters (millions)", 1e3: "parameters (thousands)"}
    return _by_size(GapStudy.of(results), "parameters", units)


@figure("macs", "Accuracy by multiply-adds")
def plot_accuracy_by_macs(results: pd.DataFrame) -> Lines:
    """Test accuracy against the multiply-adds for one image ("FLOPs" in much of the field); stars are base networks."""
    words = "multiply-adds for one image ({}; often called FLOPs)"
    return _by_size(GapStudy.of(results), "macs", {1e9: words.format("10⁹"), 1e6: words.format("10⁶")})


@figure("source-stage", "Accuracy by source stage")
def plot_accuracy_by_source_stage(results: pd.DataFrame) -> Lines:
    """The grid of pairs (rows) and source stages (columns): test accuracy against the last block dropped."""
    study = GapStudy.of(results)
    means, controls = study.means(GAP), study.control_means(GAP)
    stages = sorted({first for first, _ in study.gaps})
    panels = []
    for pair in study.pairs:
        for stage in stages:
            lasts = [last for first, last in gaps_in(rows_with(study.rows, PAIR, pair)) if first == stage]
            at = _gap_position({(stage, last): float(number) for number, last in enumerate(lasts)})
            lines = _lines(study, pair, means, at)
            ticks = [float(number) for number in range(len(lasts))]
            scale = AxisScale(
                "last block dropped", ticks, [str(last) for last in lasts], (-0.5, max(len(lasts), 1) - 0.5)
            )
            references = _controls(study, controls, pair, at) + _alone(study, pair)
            title = f"{study.title(pair)}\nsource up to block {stage - 1}"
            panels.append(LinePanel(title, scale, lines, references))
    note = _NOTE + (_CONTROLS_NOTE if len(controls) else "")
    return Lines(panels, "test accuracy", note, columns=len(stages), height=1.9, chart_width=270)


@figure("agreement", "Agreement with the destination by gap")
def plot_agreement_by_gap(results: pd.DataFrame) -> Lines:
    """On which fraction of the test images the stitched network predicts what the destination alone does, by gap."""
    return _by_gap(GapStudy.of(results), AGREEMENT, "agreement with destination")


# ------------------------------------------------------------------------ numbers


def _by_gap(study: GapStudy, value: str, label: str) -> Lines:
    means, controls = study.means(GAP, value), study.control_means(GAP, value)
    panels = []
    for pair in study.pairs:
        gaps = gaps_in(rows_with(study.rows, PAIR, pair))
        starts = sorted({first for first, _ in gaps})
        positions = {gap: number + _APART * starts.index(gap[0]) for number, gap in enumerate(gaps)}
        at = _gap_position(positions)
        lines = _lines(study, pair, means, at, value)
        references = _controls(study, controls, pair, at) + (_alone(study, pair) if value == ACCURACY else [])
        labels = [f"{first}–{last}" for first, last in gaps]
        ticks = list(positions.values())
        scale = AxisScale("blocks dropped (first–last)", ticks, labels, ends=(-0.6, max(ticks, default=0) + 0.6))
        has_groups = len(starts) < len(gaps)
        between = [(a + b) / 2 for a, b in pairwise(ticks) if has_groups and b - a > 1]
        panels.append(LinePanel(study.title(pair), scale, lines, references, between))
    note = _NOTE + (_GROUPS if any(panel.separators for panel in panels) else "")
    return Lines(panels, label, note + (_CONTROLS_NOTE if len(controls) else ""))


def _by_size(study: GapStudy, column: str, units: dict[float, str]) -> Lines:
    means = study.means([*GAP, column])
    most = float(study.rows[column].max())
    unit = next((candidate for candidate in units if most >= candidate), min(units))  # that leaves numbers short
    controls = study.control_means([*GAP, column])
    panels = []
    for pair in study.pairs:
        lines = _lines(study, pair, means, lambda row: row[column] / unit, step=None)
        for kind in _kinds(controls):
            frame = rows_with(controls, [*PAIR, "control"], [*pair, kind])
            if len(frame):
                words = [f"control: {CONTROLS[kind]}\n{row.adapter}: {row.mean:.4f}" for row in frame.itertuples()]
                frame = frame.assign(x=frame[column] / unit, words=words, **_NO_INTERVAL)
                lines.append(Line(replace(control_look(kind), line=""), frame, is_behind=True))
        lines += [_star(study, title, role, column, unit) for title, role in _roles(study, pair)]
        panels.append(LinePanel(study.title(pair), AxisScale(units[unit]), lines))
    note = _NOTE + (" Grey marks: controls." if len(controls) else "")
    return Lines(panels, "test accuracy", note, columns=min(2, len(panels)))


def _lines(
    study: GapStudy, pair: tuple[str, str], means: pd.DataFrame, at: Position, value: str = ACCURACY, *,
    step: float | None = 1, parts: str | None = None,
) -> list[Line]:  # fmt: skip
    """The series on the panel of a pair, side by side at each gap, which are a `step` apart.

    Lines join all points of a series, or those with the same value in the column `parts`. Without a step there are
    neither lines nor room for one series beside the other.
    """
    lines, drawn = [], _series_of(study, pair)
    for number, series in enumerate(drawn):
        look = series_look(series) if step else replace(series_look(series), line="")
        beside = _beside(len(drawn), number, step or 0)
        points, finished = (series.rows(rows_with(frame, PAIR, pair)) for frame in (means, study.finished))
        words = [f"{look.label}\n{mean_words(row, _word(value))}" if row.n else "" for row in points.itertuples()]
        part = points[parts].astype(float) if parts else 0
        points = points.assign(words=words, part=part, x=_along(points, at) + beside)
        runs = finished.assign(x=_along(finished, at) + beside, y=finished.get(value, np.nan))
        lines.append(Line(look, points.dropna(subset="x"), runs[["x", "y", "result_row"]].dropna()))
    return lines


def _depth(row: Any) -> float:
    return float(row["destination_depth"])


def _along(frame: pd.DataFrame, position: Position) -> np.ndarray:
    names = [name for name in (*GAP, *_SIZES) if name in frame]
    return np.array([position(row) for row in frame[names].to_dict("records")], dtype=float)


def _gap_position(positions: dict[tuple[int, int], float]) -> Position:
    """Where a row's gap stands along x; NaN for a gap that is not in the panel."""
    return lambda row: positions.get((int(row[GAP[0]]), int(row[GAP[1]])), np.nan)


def _word(value: str) -> str:
    return value.removeprefix("Overall/").lower()


def _kinds(controls: pd.DataFrame) -> list[str]:
    there = set(controls["control"])
    return [kind for kind in CONTROLS if kind in there and kind != "self"]


def _controls(
    study: GapStudy, controls: pd.DataFrame, pair: tuple[str, str], at: Position, step: float = 1
) -> list[Reference]:
    """For each control a line above each adapter that has it: the accuracy that it reaches there."""
    references, drawn = [], _series_of(study, pair)
    for kind in _kinds(controls):
        look = control_look(kind)
        frame = rows_with(controls, [*PAIR, "control"], [*pair, kind])
        stretches, heights, words = [], [], []
        for number, series in enumerate(drawn):
            ours = series.rows(frame)
            beside, half = _beside(len(drawn), number, step), 0.46 * _apart(len(drawn), step)
            for x, row in zip(_along(ours, at) + beside, ours.to_dict("records"), strict=True):
                if np.isfinite(x):
                    stretches.append((float(x - half), float(x + half)))
                    heights.append(float(row["mean"]))
                    words.append(f"{look.label}\n{series.label}: {row['mean']:.4f}")
        if heights:
            references.append(Reference(look, heights, words, stretches))
    return references


def _series_of(study: GapStudy, pair: tuple[str, str]) -> list[Series]:
    """The series that the panel of a pair shows."""
    rows = rows_with(study.rows, PAIR, pair)
    return [series for series in study.series if len(series.rows(rows))]


def _apart(num_series: int, step: float) -> float:
    """How far the series stand from each other at one gap; gaps are a `step` apart."""
    return step * min(0.18, 0.8 / num_series)


def _beside(num_series: int, number: int, step: float) -> float:
    """How far a series stands from its gap's tick, so that points of one gap are beside each other."""
    return _apart(num_series, step) * (number - (num_series - 1) / 2)


def _roles(study: GapStudy, pair: tuple[str, str]) -> list[tuple[str, str]]:
    """The two networks by themselves (one, of a pair with itself), as far as they were tested."""
    source, dest = pair
    roles = [(dest, "destination"), *([(source, "source")] if source != dest else [])]
    return [(title, role) for title, role in roles if title in study.bases.index]


def _alone(study: GapStudy, pair: tuple[str, str]) -> list[Reference]:
    """Lines at the accuracies of the two networks by themselves."""
    return [
        Reference(ALONE[role], [accuracy], [f"{title} alone\ntest accuracy {accuracy:.4f}"])
        for title, role in _roles(study, pair)
        for accuracy in [float(study.bases["accuracy"][title])]
    ]


def _star(study: GapStudy, title: str, role: str, column: str, unit: float) -> Line:
    row = study.bases.loc[title]
    words = f"{title} alone\ntest accuracy {row['accuracy']:.4f}"
    frame = pd.DataFrame([{"x": row[column] / unit, "mean": row["accuracy"], **_NO_INTERVAL, "words": words}])
    return Line(replace(ALONE[role], line="", size=9), frame)
