"""The arguments of commands for sweeps: YAML files, folders of them, patterns, and folders of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stitching.cli.console import err
from stitching.config.errors import UserError
from stitching.config.yaml import load_yaml, located
from stitching.progress import shown_progress

__all__ = [
    "PACK",
    "DataPath",
    "Seeds",
    "SweepFiles",
    "SweepsOrFolders",
    "expected_of",
    "plan_of",
    "run_folder_of",
    "sweep_files",
]  # fmt: skip

SweepFiles = Annotated[
    list[Path], typer.Argument(metavar="SWEEP.yml...", help="Sweeps: YAML files, folders of them, or 'patterns*.yml'.")
]
SweepsOrFolders = Annotated[
    list[Path], typer.Argument(metavar="SWEEP.yml|FOLDER...", help="Sweeps, or folders of their runs.")
]
Seeds = Annotated[
    list[int] | None,
    typer.Option("--seeds", metavar="SEED...", help="Seeds to use instead of those in the files: 1 2 3, or 1,2,3."),
]
DataPath = Annotated[Path | None, typer.Option(help="Folder of the data sets, instead of the one in the files.")]

PACK = 8  # runs of a task, if nothing else is said


def sweep_files(paths: list[Path]) -> list[Path]:
    """The files of the sweeps that these arguments name, in order and each once.

    Raises:
        UserError: a folder or pattern has no sweep.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            matching = [file for file in sorted((*path.glob("*.yml"), *path.glob("*.yaml"))) if _is_sweep(file)]
        elif any(mark in path.name for mark in "*?[") and not path.exists():
            matching = sorted(file for file in path.parent.glob(path.name) if _is_sweep(file))
        else:
            matching = [path]
        if not matching:
            from stitching.sweeps.studies import marks_of_sweeps

            raise UserError(
                f"there is no sweep in {path}",
                allowed=f"a YAML file with one of the keys {', '.join(marks_of_sweeps())}",
                do="Results are looked at with `stitching status FOLDER` and `stitching results FOLDER`.",
            )  # fmt: skip
        files += matching
    return list(dict.fromkeys(files))


def plan_of(path: Path, *, seeds: list[int] | None = None, data_path: Path | None = None, data: bool = False) -> Any:
    """The plan of a sweep's file, with progress; what it learns about the networks is cached.

    Args:
        path: the sweep's YAML file.
        seeds: instead of the file's.
        data_path: instead of the file's; a relative one starts from the current folder.
        data: look for its data sets, too.

    Raises:
        UserError: with file and line; several where several things are wrong.
    """
    from stitching.launch.orders import look_for_data
    from stitching.sweeps.plan_cache import PlanCache, cache_file
    from stitching.sweeps.studies import make_plan

    document = load_yaml(path)
    if seeds:
        document.override(("seeds",), seeds, "command line (--seeds)")
    if data_path:
        document.override(("data_path",), str(data_path.absolute()), "command line (--data-path)")
    cache = PlanCache(cache_file())
    try:
        with located(document), shown_progress(err, "stitches") as on_progress:
            plan = make_plan(document, on_progress, cache)
            if data:
                look_for_data(plan)
            return plan
    finally:
        cache.save()


def expected_of(path: Path) -> tuple[Path, list[Any]]:
    """The folder of a sweep, and its runs: those of the plan, or of a folder those that are in it."""
    from stitching.runs.state import expected_in

    if path.is_dir():
        return path, expected_in(path)
    plan = plan_of(path)
    return plan.folder, [plan.expected(run) for run in plan.runs]


def run_folder_of(path: Path) -> Path:
    """The folder of a sweep's runs, read from its YAML without planning, or the folder itself.

    Raises:
        UserError: the file is no sweep, or the folder has no run in it.
    """
    from stitching.runs.state import expected_in
    from stitching.sweeps.studies import study_of

    if path.is_dir():
        expected_in(path)
        return path
    document = load_yaml(path)
    with located(document):
        return study_of(document).folder(document)


def _is_sweep(path: Path) -> bool:
    from stitching.sweeps.studies import is_sweep

    try:
        return is_sweep(load_yaml(path))
    except UserError:
        return True  # reported when it is read
