"""Figures that are grids of cells with numbers in them; what is missing is blank."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from stitching.analysis.checks import missing_note
from stitching.analysis.plots.grids import depth_grids, penalty_grids
from stitching.analysis.plots.references import CONTROLS
from stitching.analysis.plots.style import adapter_style, finish, new_panels
from stitching.analysis.selection import gaps_in, pairs_in, series_in, short_names
from stitching.analysis.statistics import VAL_ACCURACY, best_adapters, controls, placed, stitched
from stitching.analysis.tables import adapters_in

__all__ = ["plot_best_adapters", "plot_depths", "plot_penalties", "plot_progress"]

_GAP = ["first_deleted_block", "last_deleted_block"]


def plot_penalties(results: pd.DataFrame) -> Figure:
    """The stitching penalty (percentage points, against the destination), adapter x gap, a panel for each pair.

    Raises:
        UserError: the results hold no base network that is a destination.
    """
    pairs, names, grids = pairs_in(results), short_names(results), list(penalty_grids(results).values())
    series, gaps = series_in(results), gaps_in(stitched(results))
    columns = min(2, len(pairs))
    figure, axes = new_panels(-(-len(pairs) // columns), columns, *_size(gaps, series))
    _heat(
        figure, axes, grids, [f"{first}–{last}" for first, last in gaps], [one.label for one in series], "{:.1f}",
        "penalty (% points)",
    )  # fmt: skip
    for number, (axis, (source, dest)) in enumerate(zip(axes.flat, pairs, strict=False)):
        axis.set_title(f"{names[source]} → {names[dest]}", fontsize=9.5)
        axis.set_xlabel("blocks dropped (first–last)", fontsize=9)
        if number % columns:
            axis.set_yticklabels([])
    note = "Base accuracy of the destination minus stitched accuracy; means of finished runs over seeds."
    return finish(figure, _with_missing(note, results))


def plot_depths(results: pd.DataFrame) -> Figure:
    """Test accuracy (percent), source depth x destination depth, a panel for each pair and stitcher.

    Raises:
        UserError: the runs do not tell their depths.
    """
    sources, dests, grids = depth_grids(results)
    pairs, names, series = pairs_in(results), short_names(results), series_in(results)
    figure, axes = new_panels(
        len(pairs), len(series), max(2.6, 0.34 * len(dests) + 0.7), max(1.8, 0.27 * len(sources) + 0.8)
    )
    _heat(
        figure,
        axes,
        list(grids.values()),
        [f"{d:.2f}" for d in dests],
        [f"{s:.2f}" for s in sources],
        "{:.0f}",
        "test accuracy (%)",
    )
    for row, (source, dest) in zip(axes, pairs, strict=True):
        row[0].set_ylabel(f"{names[source]} →\n{names[dest]}\nsource depth (used)", fontsize=8.5)
    for axis, one in zip(axes[0], series, strict=True):
        axis.set_title(one.label, fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("destination depth (left out)", fontsize=8.5)
    note = "Fractions of the networks' stages; means of finished runs over seeds."
    return finish(figure, _with_missing(note, results))


def plot_best_adapters(results: pd.DataFrame) -> Figure:
    """`best_adapters` as a grid of pairs x gaps, in the colours of the adapters, with test accuracies in percent."""
    best = best_adapters(results)
    pairs, names, gaps = pairs_in(results), short_names(results), gaps_in(stitched(results))
    figure, axes = new_panels(1, 1, max(4.5, 0.62 * len(gaps) + 2.2), 0.4 * len(pairs) + 0.8)
    axis = axes[0, 0]
    for row in best.to_dict("records"):
        x = gaps.index((int(row["first_deleted_block"]), int(row["last_deleted_block"])))
        y = pairs.index((row["source"], row["destination"]))
        colour, marker, inside = adapter_style(row["adapter"])
        axis.plot(x, y + 0.2, marker, ms=7, color=colour, mfc=inside, ls="", label=row["adapter"])
        axis.text(x, y - 0.18, f"{100 * row['mean']:.1f}", ha="center", va="center", fontsize=8.5)
    _ticks(axis, [f"{a}–{b}" for a, b in gaps], [f"{names[source]} → {names[dest]}" for source, dest in pairs])
    axis.set_xlim(-0.5, len(gaps) - 0.5)
    axis.set_ylim(len(pairs) - 0.5, -0.5)
    axis.set_xlabel("blocks dropped (first–last)", fontsize=9)
    note = f"Chosen by {VAL_ACCURACY.removeprefix('Overall/')}; the numbers are test accuracies (%)."
    return finish(figure, _with_missing(note, results))


def plot_progress(runs: pd.DataFrame) -> Figure:
    """How many runs of each adapter and gap are done, and where some failed or are missing, a panel for each pair.

    Each control has a row of its own. What drops nothing, as self-stitches do, is in one column, `none`.

    Args:
        runs: as `list_runs` gives them.
    """
    runs = runs.assign(done=(runs["state"] == "done") & runs["problem"].isna(), failed=runs["state"] == "failed")
    runs = placed(runs[runs["base"].isna()])
    everything = runs.drop(columns="control", errors="ignore")  # so that the pairs of controls are among them
    pairs, names = pairs_in(everything), short_names(everything)
    kinds = {f"control: {CONTROLS.get(name, name)}": name for name in [*CONTROLS, *controls(runs).get("control", [])]}
    control = runs.get("control", pd.Series(index=runs.index, dtype=object)).map({v: k for k, v in kinds.items()})
    runs = everything.assign(row=control.fillna(runs["adapter"]))
    rows = [*adapters_in(runs[control.isna()]), *(kind for kind in kinds if (runs["row"] == kind).any())]
    gaps = list(dict.fromkeys(_dropped(gap) for gap in sorted(gaps_in(runs), key=lambda gap: (gap[1] < gap[0], gap))))
    colours = {"all done": "#9ccfb9", "some done": "#dcefe7", "none done yet": "#f2f2f2", "some failed": "#f2b08a"}
    columns = min(2, len(pairs))
    figure, axes = new_panels(-(-len(pairs) // columns), columns, *_size(gaps, rows))
    for number, (axis, (source, dest)) in enumerate(zip(axes.flat, pairs, strict=False)):
        pair = runs[(runs["source"] == source) & (runs["destination"] == dest)]
        places = pair[_GAP].apply(lambda gap: _dropped(tuple(gap)), axis=1)
        for (row, gap), cell in pair.groupby(["row", places]):
            done, failed = int(cell["done"].sum()), int(cell["failed"].sum())
            state = "some failed" if failed else "all done" if done == len(cell) else "some done" if done else ""
            x, y = gaps.index(str(gap)), rows.index(str(row))
            colour = colours[state or "none done yet"]
            axis.add_patch(_square(x, y, colour))
            axis.text(x, y, f"{done}/{len(cell)}", ha="center", va="center", fontsize=8)
        _ticks(axis, gaps, [] if number % columns else rows)
        axis.set_xlim(-0.5, len(gaps) - 0.5)
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set_title(f"{names[source]} → {names[dest]}", fontsize=9.5)
        axis.set_xlabel("blocks dropped (first–last)", fontsize=9)
    for axis in axes.flat[len(pairs) :]:
        axis.set_visible(False)
    legend = [Patch(color=colour, label=label) for label, colour in colours.items()]
    return finish(figure, "Runs done of runs that there are; blank where the sweep has none.", handles=legend)


# ------------------------------------------------------------------------ shared


def _heat(
    figure: Figure, axes: np.ndarray, grids: Sequence[np.ndarray], x: list[str], y: list[str], form: str, label: str
) -> None:
    """Draw each grid on its axis, all with one scale of colours, the numbers in the cells."""
    every = np.concatenate([grid[np.isfinite(grid)] for grid in grids])
    low, high = (every.min(), every.max()) if every.size else (0.0, 1.0)
    image = None
    for axis, grid in zip(axes.flat, grids, strict=False):
        image = axis.imshow(grid, cmap="cividis", vmin=low, vmax=high, aspect="auto")
        for (row, column), value in np.ndenumerate(grid):
            if np.isfinite(value):
                dark = (value - low) < 0.55 * (high - low)
                axis.text(
                    column, row, form.format(value), ha="center", va="center", fontsize=7.5,
                    color="white" if dark else "black",
                )  # fmt: skip
        _ticks(axis, x, y)
    for axis in axes.flat[len(grids) :]:
        axis.set_visible(False)
    if image is not None:
        figure.colorbar(image, ax=axes, shrink=0.8, aspect=30).set_label(label, fontsize=9)


def _with_missing(note: str, results: pd.DataFrame) -> str:
    missing = missing_note(stitched(results))
    return f"{note} {missing}." if missing else note


def _dropped(gap: tuple[int, ...]) -> str:
    return f"{gap[0]}–{gap[1]}" if gap[0] <= gap[1] else "none"


def _size(columns: Sequence[object], rows: Sequence[object]) -> tuple[float, float]:
    """Width and height of a panel in inches, so that a cell has room for its number, and the words for theirs."""
    return max(4.4, 0.48 * len(columns) + 1.6), max(1.6, 0.26 * len(rows) + 0.7)


def _ticks(axis: Axes, x: list[str], y: list[str]) -> None:
    axis.grid(False)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    axis.set_xticks(range(len(x)), x, fontsize=8.5 if len(x) < 12 else 7)
    axis.set_yticks(range(len(y)), y, fontsize=8.5)


def _square(x: int, y: int, colour: str) -> Patch:
    return Rectangle((x - 0.47, y - 0.45), 0.94, 0.9, color=colour, lw=0)
