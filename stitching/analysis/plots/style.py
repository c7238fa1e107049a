"""How figures look, on paper and in the report: colours, markers, lines; matplotlib's panels, legends and files."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import numpy as np
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.text import Text

from stitching.analysis.selection import Series
from stitching.config.errors import UserError
from stitching.sweeps.stitchers import STITCHERS

__all__ = [
    "ALONE", "CONTROLS", "GAP_INTERVALS", "GRID_INTERVALS", "PAGE_WIDTH", "Look", "adapter_look", "control_look",
    "finish", "legend_entries", "new_panels", "save_figure", "series_look", "styled", "wrapped",
]  # fmt: skip

P = ParamSpec("P")

PAGE_WIDTH = 7.0  # inches: the text of most journals; figures are made at the size at which they are printed
# What the intervals of `summarize` cover in a gap study and in a grid study.
GAP_INTERVALS = "95% intervals over seeds of the adapter (Student's t), base networks fixed"
GRID_INTERVALS = "95% intervals over seeds (Student's t)"
# Okabe and Ito's palette, which people with any colour vision can tell apart; the markers repeat what it says. Black is
# for the networks alone and grey for controls.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_LINES = ("-", "--", ":", "-.")
_LEGEND = 7.5  # points
_PAPER: Any = {
    "font.size": 8, "axes.labelsize": 8, "axes.titlesize": 8.5, "xtick.labelsize": 7.5, "ytick.labelsize": 7.5,
    "axes.linewidth": 0.7, "xtick.major.width": 0.7, "ytick.major.width": 0.7,
    "pdf.fonttype": 42,
}  # fmt: skip


@dataclass(frozen=True)
class Look:
    """How something is drawn, and what a legend calls it. Signs are matplotlib's."""

    label: str
    colour: str
    marker: str = ""
    is_filled: bool = True
    line: str = ""  # no line
    size: float = 4  # of the marker, points
    adapter: str = ""  # where settings vary: the two halves of the label, each of which a legend may explain by itself
    choice: str = ""

    @property
    def inside(self) -> str:
        """The colour within the marker."""
        return self.colour if self.is_filled else "white"


CONTROLS = {  # what they are called, in the order of legends
    "random_source": "random source",
    "random_dest": "random destination",
    "adapter_only": "adapter + linear head",
    "self": "self-stitch",  # a check of the code, which must give the base accuracy, and is not drawn
}
# Grey lines on grey columns: behind the adapters' marks, and in no adapter's colour. Where there are no columns, marks.
_CONTROL_LINES = {"random_source": "-", "random_dest": ":", "adapter_only": "--"}
_CONTROL_MARKERS = {"random_source": ("d", True), "random_dest": ("d", False), "adapter_only": ("X", True)}
ALONE = {
    "destination": Look("destination alone", "#222222", marker="*", line="--"),
    "source": Look("source alone", "#222222", marker="*", is_filled=False, line=":"),
}


def adapter_look(name: str) -> Look:
    """A stitcher's colour and marker: the same in every figure.

    There are more stitchers than colours that can be told apart: those that share one differ in the marker.
    """
    # The demo's and the most used ones come first, so that the colours of a small figure are far apart.
    common = (
        "downsample_then_linear",
        "downsample_then_3x3conv",
        "affine_least_squares",
        "downsample_then_bottleneck",
        "affine",
        "finetune",
    )
    order = [*common, *(other for other in STITCHERS if other not in common)]
    number = order.index(name) if name in order else len(order)
    return _numbered(name, number, is_filled=number < len(_COLOURS))


def series_look(series: Series) -> Look:
    """A series' look: its adapter's; in a grid study it goes by its number.

    Where settings vary, the colour says the adapter, and line and marker say the choice of settings.
    """
    if series.adapter is None:
        look = _numbered(series.label, series.number, is_filled=series.number % (2 * len(_COLOURS)) < len(_COLOURS))
        return Look(look.label, look.colour, look.marker, look.is_filled, "-")
    look = adapter_look(series.adapter)
    if not series.settings:
        return replace(look, line=_LINES[0])
    line, marker = _LINES[series.number % len(_LINES)], _MARKERS[series.number % len(_MARKERS)]
    return replace(look, label=series.label, line=line, marker=marker, adapter=series.adapter, choice=series.choice)


def _numbered(label: str, number: int, *, is_filled: bool) -> Look:
    colour = _COLOURS[number % len(_COLOURS)]
    return Look(label, colour, _MARKERS[(number + number // len(_COLOURS)) % len(_MARKERS)], is_filled)


def control_look(kind: str) -> Look:
    """How a control is drawn: a grey line, or a small grey mark."""
    marker, is_filled = _CONTROL_MARKERS[kind]
    return Look(f"control: {CONTROLS[kind]}", "#777777", marker, is_filled, _CONTROL_LINES[kind], size=3.5)


# ------------------------------------------------------------------------ matplotlib


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """A function that draws with the sizes of a printed page, whatever the notebook has set."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with rc_context(_PAPER):
            return draw(*args, **kwargs)

    return drawn


def new_panels(rows: int, columns: int, width: float, height: float, sharey: bool = False) -> tuple[Figure, np.ndarray]:
    """A figure of `rows` x `columns` axes of a size in inches each, tidied by `finish`."""
    # Not pyplot's, which would keep every figure of a notebook in memory and needs a backend.
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=sharey)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#e4e4e4", lw=0.6)
        axis.set_axisbelow(True)
    return figure, axes


def finish(figure: Figure, note: str = "", handles: Sequence[Artist] = ()) -> Figure:
    """Put a note and one legend (of all panels, or as given) below, and make the figure higher by what they take."""
    entries = {str(handle.get_label()): handle for handle in handles} or legend_entries(figure)
    width, height = figure.get_size_inches()
    note = textwrap.fill(note, max(40, int(width * 17)))
    if entries:
        widest = max(map(len, entries)) * _LEGEND * 0.55 / 72 + 0.6  # inches
        columns = min(len(entries), max(1, math.floor(width / widest)))
        figure.legend(
            entries.values(),
            entries.keys(),
            loc="outside lower center",
            ncols=columns,
            frameon=False,
            handlelength=2.6,  # room for two periods of every dashed line
            columnspacing=1.4,
            fontsize=_LEGEND,
            title=note or None,
            title_fontproperties={"size": _LEGEND - 0.5, "style": "italic"},
        )
        height += math.ceil(len(entries) / columns) * 0.165 + 0.1
    elif note:
        figure.supxlabel(note, fontsize=_LEGEND - 0.5, style="italic")
    figure.set_size_inches(width, height + 0.14 * len(note.splitlines()))
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a name with two dollar signs is no formula
    return figure


def legend_entries(figure: Figure) -> dict[str, Artist]:
    """What has a label: the series first, in their order, then what they are compared with."""
    entries = {
        label: handle
        for axis in figure.axes
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        if not label.startswith("_")
    }
    return dict(sorted(entries.items(), key=lambda entry: isinstance(entry[1], Artist)))


def wrapped(title: str, width: float) -> str:
    """A title in lines that fit into a panel of `width` inches."""
    characters = max(12, int(width * 14.5))
    fill = textwrap.TextWrapper(characters, break_on_hyphens=False, break_long_words=False).fill
    return "\n".join(map(fill, title.splitlines()))


def save_figure(figure: Figure, path: str | Path) -> list[Path]:
    """Write a figure as its name ends; without an ending, as PDF for the paper and PNG for the screen.

    Raises:
        UserError: the ending is of no format, or the file cannot be written.
    """
    path = Path(path)
    paths = [path] if path.suffix else [path.with_name(f"{path.name}.{ending}") for ending in ("pdf", "png")]
    for target in paths:
        try:
            with rc_context(_PAPER):
                figure.savefig(target, dpi=200)
        except (ValueError, OSError) as error:
            raise UserError(f"cannot write the figure {target}: {error}") from None
    return paths
