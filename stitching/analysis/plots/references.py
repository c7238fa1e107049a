"""What accuracies are compared with in figures: lines of whole networks, and marks of controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from stitching.analysis.plots.style import GREY, adapter_style
from stitching.analysis.selection import Series
from stitching.analysis.statistics import controls, last_epoch

__all__ = ["CONTROLS", "ControlMarks", "base_lines"]

CONTROLS = {  # what they are called, in the order of legends
    "random_source": "random source",
    "random_dest": "random destination",
    "adapter_only": "adapter + linear head",
    "self": "self-stitch",  # a check of the code, which must give the base accuracy, and no mark
}
_MARKERS = {"random_source": "_", "random_dest": "x", "adapter_only": "+"}


def base_lines(axis: Axes, source: str, dest: str, bases: dict[Any, float]) -> None:
    """Lines at the accuracies of the two networks by themselves, as far as `bases` has them."""
    for title, line, role in ((dest, "--", "destination"), (source, ":", "source")):
        if title in bases and (role == "destination" or source != dest):
            axis.axhline(bases[title], color=GREY, ls=line, lw=1.2, label=f"{role} alone")


class ControlMarks:
    """The finished controls in `results`: a mark below or above each stitched network, in its adapter's colour.

    A control says what its own adapter reaches without the representation; that of another adapter would say nothing.

    Args:
        results: as `load_results` gives them, of all pairs.
        value: the column that is averaged over seeds.
    """

    def __init__(self, results: pd.DataFrame, value: str) -> None:
        runs = controls(results)
        runs = last_epoch(runs[(runs["state"] == "done") & runs["control"].isin(list(_MARKERS))])
        self.runs = runs.dropna(subset=value) if value in runs else runs[:0]
        self.value = value

    @property
    def note(self) -> str:
        """What a figure with such marks says of them."""
        return "" if self.runs.empty else " Small marks: what the adapter of their colour reaches in the control."

    def draw(
        self, axis: Axes, source: str, dest: str, one: Series, by: Sequence[str], x_of: Callable[..., float | None]
    ) -> None:
        """The marks of one series on the panel of a pair.

        Args:
            by: the columns that tell the places on the axis apart.
            x_of: where on the axis the values of these columns are; None for nowhere.
        """
        ours = self.runs[(self.runs["source"] == source) & (self.runs["destination"] == dest)]
        for name, marker in _MARKERS.items():
            found = one.rows(ours[ours["control"] == name]).groupby(list(by), sort=False)[self.value].mean()
            keys = [key if isinstance(key, tuple) else (key,) for key in found.index]
            points = [(x_of(*key), mean) for key, mean in zip(keys, found, strict=True)]
            points = [(x, mean) for x, mean in points if x is not None]
            if points:
                colour = adapter_style(one.adapter)[0]
                axis.plot(*zip(*points, strict=True), marker, color=colour, ms=8 if marker == "_" else 5, mew=1.6)
                axis.plot([], [], marker, color=GREY, ms=7, mew=1.6, ls="", label=f"control: {CONTROLS[name]}")
