"""Figures of a sweep's results."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # figures are files here; a notebook sets its own backend before it imports this
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from stitching.analysis.tables import adapters_in, varied_settings
from stitching.config.errors import UserError
from stitching.sweeps.stitchers import STITCHERS

__all__ = ["adapter_style", "plot_accuracy_by_gap"]

# Okabe and Ito's palette, which people with any colour vision can tell apart; the markers repeat what it says.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#999999")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def adapter_style(name: str) -> tuple[str, str]:
    """A stitcher's colour and marker: the same in every figure, whatever else is drawn."""
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
    return _COLOURS[place % len(_COLOURS)], _MARKERS[(place + place // len(_COLOURS)) % len(_MARKERS)]


def plot_accuracy_by_gap(runs: pd.DataFrame, bases: dict[str, float], path: Path | None = None) -> Figure:
    """Test accuracy (0 to 1) against the gap, a panel for each pair of networks and a colour for each stitcher.

    Several runs of one cell (seeds) are drawn as their mean with a bar from the least to the greatest. Settings that
    vary, learning rates for example, are lines of their own.

    Args:
        runs: as `load_runs` gives them.
        bases: the accuracy of each base network, by its title; drawn as lines.
        path: where to save the figure; its ending says as what.
    """
    pairs = list(dict.fromkeys(zip(runs["source"], runs["destination"], strict=True)))
    series = _series(runs)
    columns = min(2, len(pairs))
    rows = -(-len(pairs) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(5.2 * columns, 3.3 * rows + 0.7),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, (source, dest) in zip(axes.flat, pairs, strict=False):
        ours = runs[(runs["source"] == source) & (runs["destination"] == dest)]
        gaps = sorted(set(zip(ours["first_deleted_block"], ours["last_deleted_block"], strict=True)))
        for offset, (name, adapter, line, members) in enumerate(series):
            group = ours[ours.index.isin(members)].groupby(["first_deleted_block", "last_deleted_block"])["accuracy"]
            found = group.agg(["mean", "min", "max"]).reindex(gaps)
            x = [i + min(0.08, 0.7 / len(series)) * (offset - (len(series) - 1) / 2) for i in range(len(gaps))]
            colour, marker = adapter_style(adapter)
            spread = [found["mean"] - found["min"], found["max"] - found["mean"]]
            axis.errorbar(
                x,
                found["mean"],
                yerr=spread,
                color=colour,
                marker=marker,
                markersize=6,
                ls=line,
                lw=1,
                alpha=0.9,
                label=name,
            )
        for title, line, role in ((dest, "--", "destination"), (source, ":", "source")):
            if title in bases and (role == "destination" or source != dest):
                axis.axhline(bases[title], color="#444444", ls=line, lw=1.2, label=f"{role} alone")
        axis.set_title(f"{source} → {dest}", fontsize=10)
        axis.set_xticks(range(len(gaps)), [f"{first}–{last}" for first, last in gaps])
        axis.set_xlabel("blocks dropped (first–last)")
        axis.grid(axis="y", color="#dddddd", lw=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes.flat[len(pairs) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("test accuracy")
    handles = {
        label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    if path is not None:
        try:
            figure.savefig(path, dpi=150)
        except (ValueError, OSError) as error:
            raise UserError(f"cannot write the figure {path}: {error}") from None
        finally:
            plt.close(figure)
    return figure


def _series(runs: pd.DataFrame) -> list[tuple[str, str, str, pd.Index]]:
    """What is drawn as one line: label, stitcher, line style and rows, for each stitcher and setting that varies."""
    varied = varied_settings(runs)
    settings = list(runs[varied].drop_duplicates().itertuples(index=False, name=None)) if varied else [()]
    styles = ["-", "--", ":", "-."] * (1 + len(settings) // 4)
    found = []
    for adapter in adapters_in(runs):
        for values, style in zip(settings, styles, strict=False):
            ours = runs["adapter"] == adapter
            for key, value in zip(varied, values, strict=True):
                ours &= (runs[key] == value) | (pd.isna(value) & runs[key].isna())
            words = [f"{key.split('.')[-1]}={value}" for key, value in zip(varied, values, strict=True)]
            if ours.any():
                found.append((", ".join([adapter, *words]), adapter, style, runs.index[ours]))
    return found
