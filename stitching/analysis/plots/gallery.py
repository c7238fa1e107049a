"""The figures by name, for the command line."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure

from stitching.analysis.load import Folders, list_runs, load_results
from stitching.analysis.plots import accuracy, curves, heatmaps
from stitching.config.errors import unknown_name

__all__ = ["FIGURES", "about", "draw"]

FIGURES: dict[str, Callable[..., Figure]] = {
    "gap": accuracy.plot_accuracy_by_gap,
    "depth": accuracy.plot_accuracy_by_depth,
    "parameters": accuracy.plot_accuracy_by_parameters,
    "macs": accuracy.plot_accuracy_by_macs,
    "source-stage": accuracy.plot_accuracy_by_source_stage,
    "agreement": accuracy.plot_agreement_by_gap,
    "learning-curves": curves.plot_learning_curves,
    "setting": curves.plot_setting,
    "penalties": heatmaps.plot_penalties,
    "depths": heatmaps.plot_depths,
    "best-adapters": heatmaps.plot_best_adapters,
    "progress": heatmaps.plot_progress,
}


def draw(name: str, folders: Folders, setting: str | None = None) -> Figure:
    """The figure of that name, of the runs below one folder or several.

    Raises:
        UserError: there is no such figure, or it cannot be drawn of these runs.
    """
    if name not in FIGURES:
        raise unknown_name("figure", name, FIGURES)
    if name == "progress":
        return heatmaps.plot_progress(list_runs(folders))
    if name == "setting":
        return curves.plot_setting(load_results(folders), setting)
    return FIGURES[name](load_results(folders))


def about(name: str) -> str:
    """What the figure shows, in one line."""
    return (FIGURES[name].__doc__ or "").strip().splitlines()[0]
