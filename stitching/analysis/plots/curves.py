"""Figures of learning curves and of settings: a panel for each pair and gap, and for each grid study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from stitching.analysis.gap_study import GAP, PAIR
from stitching.analysis.plots.chart import AxisScale, mean_words
from stitching.analysis.plots.gallery import figure
from stitching.analysis.plots.lines import Line, LinePanel, Lines
from stitching.analysis.plots.style import GAP_INTERVALS, GRID_INTERVALS, series_look
from stitching.analysis.selection import gaps_in, pairs_in, series_in, setting_word, short_names, worded
from stitching.analysis.statistics import gap_study_rows, grid_runs, stitched, summarize, varied_settings
from stitching.config.errors import UserError
from stitching.runs.step_log import ACCURACY
from stitching.text import printable

__all__ = ["MOST_GAPS", "plot_learning_curves", "plot_setting"]

MOST_GAPS = 16  # beside each other


@figure("learning-curves", "Learning curves")
def plot_learning_curves(results: pd.DataFrame, value: str = ACCURACY) -> Lines:
    """A logged number against the epoch, of unfinished runs, too: means over seeds with 95% intervals.

    Args:
        results: as `load_results` gives them.
        value: its column.
    """
    subjects, means = _subjects(results), _means(results, "Epoch", value)
    series, panels, is_curve = series_in(results), [], means["Epoch"].nunique() != 1
    for subject in subjects:
        lines = []
        for shown in series:
            rows = shown.rows(subject.of(means))
            look = series_look(shown)
            words = [f"{look.label}\nepoch {row.Epoch:g}: {mean_words(row, _word(value))}" for row in rows.itertuples()]
            lines.append(Line(look, rows.assign(x=rows["Epoch"], words=words, part=0), is_band=is_curve))
        panels.append(LinePanel(subject.title, _epochs(means["Epoch"]), lines))
    shown_as = "Shaded" if is_curve else "Bars"
    note = f"Means over seeds, unfinished runs as far as they are. {shown_as}: {_intervals(results)}."
    return Lines(panels, _word(value), note, **_layout(subjects))


def _epochs(epochs: pd.Series) -> AxisScale:
    if epochs.nunique() != 1:
        return AxisScale("epoch", is_whole=True)
    return AxisScale("epoch", [*epochs.unique()], ends=(epochs.min() - 1, epochs.max() + 1))


def _each_setting(results: pd.DataFrame) -> list[tuple[str, dict[str, Any]]]:
    return [(f"Accuracy by {_setting_name(key)}", {"setting": key}) for key in varied_settings(results)]


def _setting_name(key: str) -> str:
    word = setting_word(key)
    return "learning rate" if word == "lr" else word.replace("_", " ")


@figure("setting", "Accuracy by setting", variants=_each_setting)
def plot_setting(results: pd.DataFrame, setting: str | None = None) -> Lines:
    """Test accuracy against a setting that varies, such as the learning rate or the weight decay.

    Pairs and gaps where it does not vary have no panel: an ablation may be of one gap alone.

    Args:
        results: as `load_results` gives them.
        setting: its column, or the last word of it (`lr`); may be left out if only one setting varies.

    Raises:
        UserError: no such setting varies, or several do and none is named.
    """
    key = _setting_key(results, setting)
    subjects = [subject for subject in _subjects(results) if subject.of(results)[key].nunique() > 1]
    if not subjects:
        raise UserError(f"{key} varies between pairs and gaps only, so it has no axis of its own")
    runs = pd.concat([subject.of(results) for subject in subjects])
    values, is_number, is_log = _values(runs, key)
    at = {value: float(value if is_number else number) for number, value in enumerate(values)}
    scale = AxisScale(_setting_name(key), [*at.values()], [worded(value) for value in values],
                      _ends([*at.values()], is_log), is_log)  # fmt: skip
    means, panels = _means(runs, key, ACCURACY), []
    for subject in subjects:
        lines = []
        for series in series_in(runs, but=key):
            rows = series.rows(subject.of(means)).dropna(subset=key)
            rows = rows.assign(x=rows[key].map(at).astype(float)).sort_values("x")
            rows = rows.assign(part=0 if is_number else rows["x"])  # lines join numbers only
            look = series_look(series)
            words = [
                f"{look.label}\n{setting_word(key)}={worded(value)}: {mean_words(row)}" if row.n else ""
                for value, row in zip(rows[key], rows.itertuples(), strict=True)
            ]
            lines.append(Line(look, rows.assign(words=words)))
        panels.append(LinePanel(subject.title, scale, lines))
    note = f"Means of finished runs over seeds. Bars: {_intervals(runs)}. It shows and does not choose."
    return Lines(panels, "test accuracy", note, **_layout(subjects))


def _setting_key(results: pd.DataFrame, setting: str | None) -> str:
    varied = varied_settings(results)
    keys = [key for key in varied if setting in (None, key, setting_word(key))]
    if len(keys) != 1:
        raise UserError(
            f"{setting!r} is no setting that varies" if setting else f"{len(varied)} settings vary in these runs",
            allowed=", ".join(varied) or "a sweep with a `grid:`",
        )
    return keys[0]


def _values(runs: pd.DataFrame, key: str) -> tuple[list[Any], bool, bool]:
    """The values of a setting in order, whether they are numbers, and whether they ask for a logarithmic axis."""
    values = sorted(runs[key].dropna().unique(), key=lambda value: (isinstance(value, str), value))
    is_number = pd.api.types.is_numeric_dtype(runs[key]) and len(values) > 0 and bool(np.isfinite(values).all())
    return values, is_number, bool(is_number and min(values) > 0 and max(values) / min(values) >= 8)


def _ends(positions: list[float], is_log: bool) -> tuple[float, float]:
    """Where an axis begins and ends, with room beside the first and the last value."""
    low, high = positions[0], positions[-1]
    if is_log:
        room = (high / low) ** 0.1
        return low / room, high * room
    room = 0.1 * (high - low) or 0.5
    return low - room, high + room


def _intervals(results: pd.DataFrame) -> str:
    """What the intervals cover: seeds of the adapter, or of a grid study's job."""
    if grid_runs(results).empty:
        return GAP_INTERVALS
    if stitched(gap_study_rows(results)).empty:
        return GRID_INTERVALS
    return f"{GRID_INTERVALS}, those of adapters with base networks fixed"


def _word(value: str) -> str:
    return value.removeprefix("Overall/").lower()


# ------------------------------------------------------------------------ panels


@dataclass
class _Subject:
    """What a panel shows: a pair and gap, or a grid study."""

    title: str
    columns: dict[str, Any]

    def of(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Its rows."""
        is_own = np.ones(len(frame), dtype=bool)
        for name, value in self.columns.items():
            same = frame[name].isna() if pd.isna(value) else frame[name] == value
            is_own &= same.fillna(False).to_numpy(dtype=bool)
        return frame[is_own]


def _subjects(results: pd.DataFrame) -> list[_Subject]:
    """Each pair and gap, then each grid study.

    Raises:
        UserError: there is none, or more gaps than can be read beside each other.
    """
    grid = grid_runs(results)
    stitches = stitched(gap_study_rows(results))
    if grid.empty:
        pairs_in(results)  # says what is missing
    gaps = gaps_in(stitches) if len(stitches) else []
    if len(gaps) > MOST_GAPS:
        raise UserError(
            f"{len(gaps)} gaps are too many panels to read",
            do=f"In Python, draw at most {MOST_GAPS}: `results[results['gap'].isin(['1-2', '3-4'])]`.",
        )
    subjects = []
    if gaps:
        names = short_names(results)
        studied = set(stitches[[*PAIR, *GAP]].itertuples(index=False, name=None))
        for source, dest in pairs_in(results):
            for gap in gaps:
                if (source, dest, *gap) in studied:
                    title = f"{names[source]} → {names[dest]}\nblocks {gap[0]}–{gap[1]} dropped"
                    columns = dict(zip([*PAIR, *GAP], (source, dest, *gap), strict=True))
                    subjects.append(_Subject(title, {**columns, **({"study": None} if len(grid) else {})}))
    for name in grid["arch"].unique() if "arch" in grid else ["grid"] if len(grid) else []:
        columns = {"study": "grid", **({"arch": name} if "arch" in grid else {})}
        subjects.append(_Subject(printable(str(name)), columns))
    return subjects


def _means(results: pd.DataFrame, by: str, value: str) -> pd.DataFrame:
    """`summarize` for all panels at once, in the order of `by`."""
    frames = []
    stitches = (stitched(gap_study_rows(results)), [*PAIR, *GAP, "adapter"])
    for rows, keys in (stitches, (grid_runs(results), ["study", "arch"])):
        if len(rows):
            keys = [*(key for key in keys if key in rows), *(key for key in varied_settings(rows) if key != by), by]
            frames.append(summarize(rows, keys, value=value))
    return pd.concat(frames, ignore_index=True).sort_values(by, kind="stable")


def _layout(subjects: Sequence[_Subject]) -> dict[str, Any]:
    if len(subjects) > 3:
        return {"height": 2.0, "chart_width": 300, "columns": 4}
    return {"height": 2.4, "chart_width": 400}
