"""What commands for sweeps are given: YAML files, folders of them, patterns, and folders of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stitching.cli.console import err, located
from stitching.config.errors import UserError
from stitching.config.yaml import load_yaml
from stitching.progress import shown_progress

__all__ = ["PACK", "DataPath", "Places", "Seeds", "SweepFiles", "expected_of", "plan_of", "sweep_files"]

SweepFiles = Annotated[
    list[Path], typer.Argument(metavar="SWEEP.yml...", help="Sweeps: YAML files, folders of them, or 'patterns*.yml'.")
]
Places = Annotated[list[Path], typer.Argument(metavar="SWEEP.yml|FOLDER...", help="Sweeps, or folders of their runs.")]
Seeds = Annotated[
    list[int] | None,
    typer.Option("--seeds", metavar="SEED...", help="Override the sweeps' seeds: 1 2 3, or 1,2,3."),
]
DataPath = Annotated[Path | None, typer.Option(help="The folder that holds the data sets; overrides data_path.")]

PACK = 8  # runs of a task, if nothing else is said

_MARKS = {"models", "stages", "src_stages"}  # a YAML file with one of these keys is a sweep


def sweep_files(places: list[Path]) -> list[Path]:
    """The files of sweeps that are meant, in order and each once.

    Raises:
        UserError: a folder or pattern has no sweep.
    """
    files: list[Path] = []
    for place in places:
        if place.is_dir():
            found = [path for path in sorted((*place.glob("*.yml"), *place.glob("*.yaml"))) if _is_sweep(path)]
        elif any(mark in place.name for mark in "*?[") and not place.exists():
            found = sorted(path for path in place.parent.glob(place.name) if _is_sweep(path))
        else:
            found = [place]
        if not found:
            raise UserError(
                f"there is no sweep in {place}", allowed="a YAML file with `models:`, `stages:` or `src_stages:`",
                do="Results are looked at with `stitching status FOLDER` and `stitching results FOLDER`.",
            )  # fmt: skip
        files += found
    return list(dict.fromkeys(files))


def plan_of(path: Path, *, seeds: list[int] | None = None, data_path: Path | None = None, data: bool = False) -> Any:
    """The plan of a sweep's file, with progress; what was found out about its networks is kept for the next time.

    Args:
        path: the sweep's YAML file.
        seeds: instead of the file's.
        data_path: instead of the file's; a relative one starts from the current folder.
        data: look for its data sets, too.

    Raises:
        UserError: with file and line; several where several things are wrong.
    """
    from stitching.config.sweep import read_sweep
    from stitching.launch.submit import look_for_data
    from stitching.sweeps.plan import make_plan
    from stitching.sweeps.plan_cache import PlanCache, cache_file

    document = load_yaml(path)
    if seeds:
        document.override(("seeds",), seeds, "command line (--seeds)")
    if data_path:
        document.override(("data_path",), str(data_path.absolute()), "command line (--data-path)")
    known = PlanCache(cache_file())
    try:
        with located(document), shown_progress(err, "cells") as on_progress:
            found = make_plan(read_sweep(document), document.path, on_progress, known)
            if data:
                look_for_data(found)
            return found
    finally:
        known.save()


def expected_of(place: Path) -> tuple[Path, list[Any]]:
    """The folder of a sweep, and its runs: those of the plan, or of a folder those that are in it."""
    from stitching.runs.state import expected_in

    if place.is_dir():
        return place, expected_in(place)
    found = plan_of(place)
    return found.folder, [found.expected(run) for run in found.runs]


def _is_sweep(path: Path) -> bool:
    try:
        data = load_yaml(path).data
    except UserError:
        return True  # reported when it is read
    return isinstance(data, dict) and bool(_MARKS & data.keys())
