"""Cut trained networks, stitch them with adapters, and measure what comes back.

What notebooks use is here; everything else is a command (`stitching --help`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stitching.analysis.measures import relative_accuracy, stitching_penalty, wilson_interval
    from stitching.analysis.results import list_runs, load_results, unfinished_runs
    from stitching.analysis.statistics import best_by_validation, last_epoch, summarize
    from stitching.analysis.tables import accuracy_table, add_measures, load_runs
    from stitching.training.results import read_result

__all__ = [
    "accuracy_table", "add_measures", "best_by_validation", "last_epoch", "list_runs", "load_results", "load_runs",
    "read_result", "relative_accuracy", "stitching_penalty", "summarize", "unfinished_runs", "wilson_interval",
]  # fmt: skip

_HOMES = {
    "stitching.analysis.measures": ("relative_accuracy", "stitching_penalty", "wilson_interval"),
    "stitching.analysis.results": ("list_runs", "load_results", "unfinished_runs"),
    "stitching.analysis.statistics": ("best_by_validation", "last_epoch", "summarize"),
    "stitching.analysis.tables": ("accuracy_table", "add_measures", "load_runs"),
    "stitching.training.results": ("read_result",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: `stitching --help` need not wait for pandas."""
    if name in _HOME_OF:
        from importlib import import_module

        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
