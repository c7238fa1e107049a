"""Helpers of the notebooks: the folders of runs and figures, and what to show where a figure cannot be drawn."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from stitching.analysis.checks import failed_checks
from stitching.analysis.plots.style import save_figure
from stitching.analysis.statistics import controls
from stitching.config.errors import UserError

__all__ = ["notebook_folders", "plot_or_explain", "self_stitch_check", "show"]


def notebook_folders(default: str | Path) -> tuple[list[Path], Path]:
    """The folders of a notebook's runs, and the folder of its figures, which is created.

    The environment variables STITCHING_RESULTS (folders, joined as in PATH) and STITCHING_FIGURES override `default`
    and `default`/figures. A relative default starts from the repository's root, wherever the notebook is.

    Raises:
        UserError: a relative default is needed, but the notebook is in no folder of the repository.
    """
    results, figures = os.environ.get("STITCHING_RESULTS"), os.environ.get("STITCHING_FIGURES")
    folders = [Path(folder) for folder in results.split(os.pathsep) if folder] if results else [_below_root(default)]
    figure_folder = Path(figures) if figures else _below_root(Path(default) / "figures")
    figure_folder.mkdir(parents=True, exist_ok=True)
    return folders, figure_folder


def show(plot: Callable[..., Figure], results: pd.DataFrame, path: str | Path, **options: Any) -> Figure | None:
    """Draw a figure, save it as PDF and PNG, and return it for the notebook to show.

    If the results (of a half-finished sweep, say) lack what it needs, a sentence is printed instead.

    Args:
        plot: such as `plot_accuracy_by_gap`.
        results: its first argument.
        path: of the figure, without an ending.
        options: its other arguments.
    """
    figure = plot_or_explain(plot, results, **options)
    if figure is not None:
        save_figure(figure, path)
    return figure


def plot_or_explain(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """The function's result; None, and a printed sentence, if the results lack what it needs."""
    try:
        return function(*arguments, **options)
    except UserError as error:
        print(f"Not here: {error}")
        return None


def self_stitch_check(results: pd.DataFrame) -> str:
    """Whether the self-stitches match their networks, in one sentence; a loud one if they do not."""
    if failed := failed_checks(results):
        return "\n".join(["!!! THE SELF-STITCH CHECK FAILED: these numbers cannot be trusted. !!!", *failed])
    done = controls(results[results["state"] == "done"])
    compared = (
        done[(done["control"] == "self") & done["source"].isin(set(results["base"].dropna()))] if len(done) else done
    )
    count = compared["run"].nunique()
    if not count:
        return "No self-stitch could be compared with its network: `controls: [self]` in a sweep adds them."
    return f"The self-stitch check holds: of {count} self-stitches none differs in accuracy from its network."


def _below_root(path: str | Path) -> Path:
    if Path(path).is_absolute():
        return Path(path)
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "pyproject.toml").is_file():
            return folder / path
    raise UserError(
        f"{here} is in no folder with a pyproject.toml, so {path} is not found from it",
        do="Set STITCHING_RESULTS and STITCHING_FIGURES, or write the folders into the notebook's first cell.",
    )
