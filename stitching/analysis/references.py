"""What accuracies are compared with, as lines: whole networks, and controls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from stitching.analysis.statistics import controls, last_epoch
from stitching.analysis.style import GREY

__all__ = ["CONTROLS", "ControlLines", "base_lines"]

CONTROLS = {  # what they are called, in the order of legends
    "random_source": "random source",
    "random_dest": "random destination",
    "adapter_only": "adapter + linear head",
    "self": "self-stitch",  # a check of the code, which must give the base accuracy, and no line
}
_LOOKS: dict[str, tuple[str, tuple[float, ...]]] = {  # grey, and dashes short enough for one gap of many
    "random_source": ("#777777", (5, 1.5)),
    "random_dest": ("#777777", (1, 1)),
    "adapter_only": ("#777777", (5, 1.5, 1, 1.5)),
}
_WIDTH = 1.3  # points


def base_lines(axis: Axes, source: str, dest: str, bases: dict[Any, float]) -> None:
    """Lines at the accuracies of the two networks by themselves, as far as `bases` has them."""
    for title, line, role in ((dest, "--", "destination"), (source, ":", "source")):
        if title in bases and (role == "destination" or source != dest):
            axis.axhline(bases[title], color=GREY, ls=line, lw=1.2, label=f"{role} alone")


class ControlLines:
    """The finished controls in `results`: lines at their means over seeds and adapters, shaded from least to greatest.

    Args:
        results: as `load_results` gives them, of all pairs.
        value: the column that is averaged.
    """

    def __init__(self, results: pd.DataFrame, value: str) -> None:
        runs = controls(results)
        runs = last_epoch(runs[(runs["state"] == "done") & runs["control"].isin(list(_LOOKS))]) if len(runs) else runs
        self.runs = runs.dropna(subset=value) if value in runs else runs[:0]
        self.value = value

    @property
    def note(self) -> str:
        """What a figure with such lines says of them."""
        if self.runs.empty:
            return ""
        return " Thin grey lines: controls, means over seeds and adapters; shaded: from the least adapter to the best."

    def at_places(self, axis: Axes, source: str, dest: str, by: Sequence[str], places: Sequence[Any]) -> None:
        """A dash across each of the `places` (values of `by`), which stand on the axis at 0, 1, 2 ..."""
        for name, found in self._of(source, dest, by):
            found = found.reindex(places) if len(by) == 1 else found.reindex(pd.MultiIndex.from_tuples(places))
            x = np.arange(len(places))
            colour, dashes = _LOOKS[name]
            axis.hlines(
                found["mean"],
                x - 0.42,
                x + 0.42,
                colors=colour,
                linestyles=[(0, dashes)],
                lw=_WIDTH,
                label=_label(name),
            )
            for place, low, high in zip(x, found["min"], found["max"], strict=True):
                axis.fill_between([place - 0.42, place + 0.42], low, high, color=colour, alpha=0.12, lw=0)

    def along(self, axis: Axes, source: str, dest: str, column: str) -> None:
        """A line against a column of numbers."""
        for name, found in self._of(source, dest, [column]):
            found = found.sort_index()
            colour, dashes = _LOOKS[name]
            axis.plot(found.index, found["mean"], color=colour, ls=(0, dashes), lw=_WIDTH, marker="|", ms=5,
                      label=_label(name))  # fmt: skip
            axis.fill_between(found.index.astype(float), found["min"], found["max"], color=colour, alpha=0.12, lw=0)

    def across(self, axis: Axes, source: str, dest: str) -> None:
        """One line for all gaps, where the axis is none that controls belong to a place of."""
        for name, found in self._of(source, dest, ["control"]):
            colour, dashes = _LOOKS[name]
            axis.axhline(found["mean"].iloc[0], color=colour, ls=(0, dashes), lw=_WIDTH, label=_label(name))

    def _of(self, source: str, dest: str, by: Sequence[str]) -> list[tuple[str, pd.DataFrame]]:
        """Of each control there is: mean, min and max over adapters of the means over seeds, indexed by `by`."""
        if self.runs.empty:  # without any control there is not even the column
            return []
        ours = self.runs[(self.runs["source"] == source) & (self.runs["destination"] == dest)]
        found = []
        for name in _LOOKS:
            one = ours[ours["control"] == name]
            if not one.empty:
                adapters = one.groupby([*by, "adapter"])[self.value].mean()
                found.append((name, adapters.groupby(level=list(by)).agg(["mean", "min", "max"])))
        return found


def _label(name: str) -> str:
    return f"control: {CONTROLS[name]}"
