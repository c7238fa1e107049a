"""How figures look: one colour for each adapter, panels of readable size, legends that are not cut off."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from stitching.analysis.selection import pairs_in, short_names
from stitching.analysis.statistics import stitched
from stitching.config.errors import UserError
from stitching.sweeps.stitchers import STITCHERS

__all__ = [
    "GREY", "INTERVALS", "adapter_style", "finish", "mark_missing", "new_panels", "on_each_pair", "save_figure",
]  # fmt: skip

# Okabe and Ito's palette, which people with any colour vision can tell apart; the markers repeat what it says.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#999999")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GREY = "#444444"
_MISSING = "#B00020"
INTERVALS = "95% intervals over seeds of the adapter (Student's t), base networks fixed"  # as `summarize` gives them
_LEGEND = 8.5  # points


def adapter_style(name: str) -> tuple[str, str, str]:
    """A stitcher's colour, marker, and the colour of the marker's inside: the same in every figure.

    There are more stitchers than colours that world can tell apart: those that share one differ in the others.
    """
    # The demo's and the most used ones come first, so that the colours of a small figure are far apart.
    common = (
        "downsample_then_linear",
        "downsample_then_3x3conv",
        "downsample_then_block",
        "affine",
        "downsample_then_bottleneck",
        "finetune",
    )
    order = [*common, *(other for other in STITCHERS if other not in common)]
    place = order.index(name) if name in order else len(order)
    colour = _COLOURS[place % len(_COLOURS)]
    marker = _MARKERS[(place + place // len(_COLOURS)) % len(_MARKERS)]
    return colour, marker, colour if place < len(_COLOURS) else "white"


def new_panels(rows: int, columns: int, width: float, height: float, sharey: bool = False) -> tuple[Figure, np.ndarray]:
    """A figure of `rows` x `columns` axes of a size in inches each, tidied by `finish`."""
    # Not pyplot's, which would keep every figure of a notebook in memory and needs a backend.
    figure = Figure(figsize=(width * columns + 0.4, height * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=sharey)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#dddddd", lw=0.6)
        axis.set_axisbelow(True)
    return figure, axes


def finish(figure: Figure, note: str = "", handles: Sequence[Artist] = ()) -> Figure:
    """Put a note and one legend (of all panels, or as given) below, and make the figure higher by what they take."""
    entries = {str(one.get_label()): one for one in handles} or {
        label: handle
        for axis in figure.axes
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        if not label.startswith("_")
    }
    width, height = figure.get_size_inches()
    note = textwrap.fill(note, max(40, int(width * 14)))
    if entries:
        widest = max(map(len, entries)) * _LEGEND * 0.6 / 72 + 0.65  # inches
        columns = min(len(entries), max(1, math.floor(width / widest)))
        figure.legend(
            entries.values(),
            entries.keys(),
            loc="outside lower center",
            ncols=columns,
            frameon=False,
            handlelength=2.8,  # room for two periods of every dashed line
            fontsize=_LEGEND,
            title=note or None,
            title_fontproperties={"size": _LEGEND - 0.5, "style": "italic"},
        )
        height += math.ceil(len(entries) / columns) * 0.19 + 0.1
    elif note:
        figure.supxlabel(note, fontsize=_LEGEND - 0.5, style="italic")
    figure.set_size_inches(width, height + 0.16 * len(note.splitlines()))
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a name with two dollar signs is no formula
    return figure


def mark_missing(axis: Axes, x: Any, found: pd.DataFrame) -> None:
    """A cross at the foot of an axis wherever a finished run gave no number, which its mean therefore leaves out."""
    places = np.asarray(x, dtype=float)[(found["missing"] > 0).to_numpy(dtype=bool)]
    if len(places):
        axis.plot(
            places, np.full(len(places), 0.02), "x", color=_MISSING, ms=6, mew=1.6, ls="", clip_on=False,
            transform=axis.get_xaxis_transform(), label="a finished run without a number (NaN), in no mean",
        )  # fmt: skip


def save_figure(figure: Figure, path: str | Path) -> list[Path]:
    """Write a figure as its name ends; without an ending, as PDF for the paper and PNG for the screen.

    Raises:
        UserError: the ending is of no format, or the file cannot be written.
    """
    path = Path(path)
    paths = [path] if path.suffix else [path.with_name(f"{path.name}.{ending}") for ending in ("pdf", "png")]
    for one in paths:
        try:
            figure.savefig(one, dpi=150)
        except (ValueError, OSError) as error:
            raise UserError(f"cannot write the figure {one}: {error}") from None
    return paths


def on_each_pair(
    results: pd.DataFrame, draw: Callable[[Axes, str, str, pd.DataFrame], None], width: float, height: float
) -> tuple[Figure, np.ndarray]:
    """A figure with a panel for each pair of networks, at most two beside each other."""
    pairs, names = pairs_in(results), short_names(results)
    runs = stitched(results)
    columns = min(2, len(pairs))
    figure, axes = new_panels(-(-len(pairs) // columns), columns, width, height, sharey=True)
    for axis, (source, dest) in zip(axes.flat, pairs, strict=False):
        draw(axis, source, dest, runs[(runs["source"] == source) & (runs["destination"] == dest)])
        axis.set_title(f"{names[source]} → {names[dest]}", fontsize=10)
    for axis in axes.flat[len(pairs) :]:
        axis.set_visible(False)
    return figure, axes
