"""Cut trained networks, stitch them with adapters, and measure what comes back.

What notebooks use is here; everything else is a command (`stitching --help`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stitching.analysis.tables import load_runs
    from stitching.training.results import read_result

__all__ = ["load_runs", "read_result"]

_HOMES = {"load_runs": "stitching.analysis.tables", "read_result": "stitching.training.results"}


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: `stitching --help` need not wait for pandas."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
