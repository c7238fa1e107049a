"""Cut trained networks, stitch them with adapters, and measure what comes back.

What notebooks use is here; everything else is a command (`stitching --help`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stitching.analysis.checks import failed_checks
    from stitching.analysis.formulas import relative_accuracy, stitching_penalty, wilson_interval
    from stitching.analysis.load import list_runs, load_results, unfinished_runs
    from stitching.analysis.notebooks import notebook_folders, plot_or_explain, self_stitch_check, show
    from stitching.analysis.plots.accuracy import (
        plot_accuracy_by_depth,
        plot_accuracy_by_gap,
        plot_accuracy_by_macs,
        plot_accuracy_by_parameters,
        plot_accuracy_by_source_stage,
        plot_agreement_by_gap,
    )
    from stitching.analysis.plots.curves import plot_learning_curves, plot_setting
    from stitching.analysis.plots.heatmaps import (
        plot_best_adapters,
        plot_depths,
        plot_penalties,
        plot_progress,
    )
    from stitching.analysis.plots.style import save_figure
    from stitching.analysis.statistics import (
        best_adapters,
        best_by_validation,
        best_settings,
        controls,
        last_epoch,
        stitched,
        summarize,
        varied_settings,
    )
    from stitching.analysis.tables import accuracy_table, add_measures, base_networks, grid_table, load_runs
    from stitching.runs.step_log import read_result

__all__ = [
    "accuracy_table", "add_measures", "base_networks", "best_adapters", "best_by_validation", "best_settings",
    "controls", "failed_checks", "grid_table", "last_epoch", "list_runs", "load_results", "load_runs",
    "notebook_folders", "plot_accuracy_by_depth", "plot_accuracy_by_gap", "plot_accuracy_by_macs",
    "plot_accuracy_by_parameters", "plot_accuracy_by_source_stage", "plot_agreement_by_gap", "plot_best_adapters",
    "plot_depths", "plot_learning_curves", "plot_or_explain", "plot_penalties", "plot_progress", "plot_setting",
    "read_result", "relative_accuracy", "save_figure", "self_stitch_check", "show", "stitched", "stitching_penalty",
    "summarize", "unfinished_runs", "varied_settings", "wilson_interval",
]  # fmt: skip

_HOMES = {
    "stitching.analysis.checks": ("failed_checks",),
    "stitching.analysis.plots.curves": ("plot_learning_curves", "plot_setting"),
    "stitching.analysis.plots.accuracy": (
        "plot_accuracy_by_depth", "plot_accuracy_by_gap", "plot_accuracy_by_macs", "plot_accuracy_by_parameters",
        "plot_accuracy_by_source_stage", "plot_agreement_by_gap",
    ),
    "stitching.analysis.plots.heatmaps": (
        "plot_best_adapters", "plot_depths", "plot_penalties", "plot_progress",
    ),
    "stitching.analysis.formulas": ("relative_accuracy", "stitching_penalty", "wilson_interval"),
    "stitching.analysis.notebooks": ("notebook_folders", "plot_or_explain", "self_stitch_check", "show"),
    "stitching.analysis.load": ("list_runs", "load_results", "unfinished_runs"),
    "stitching.analysis.statistics": (
        "best_adapters", "best_by_validation", "best_settings", "controls", "last_epoch", "stitched", "summarize",
        "varied_settings",
    ),
    "stitching.analysis.plots.style": ("save_figure",),
    "stitching.analysis.tables": ("accuracy_table", "add_measures", "base_networks", "grid_table", "load_runs"),
    "stitching.runs.step_log": ("read_result",),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: `stitching --help` need not wait for pandas."""
    if name in _HOME_OF:
        from importlib import import_module

        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
