"""The state of runs by their folders, without asking a scheduler."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stitching.config.errors import UserError
from stitching.runs.folder import RunFolder

__all__ = ["ExpectedRun", "expected_in", "forgotten_runs", "is_whole", "state_on_disk"]


@dataclass(frozen=True)
class ExpectedRun:
    """A run of a plan or of a folder: its files, and the identity that its result must have."""

    folder: RunFolder
    identity: str | None = None  # None: any

    @property
    def name(self) -> str:
        return self.folder.path.name


def expected_in(folder: Path) -> list[ExpectedRun]:
    """The runs in a sweep's folder, whatever the plan says.

    Raises:
        UserError: there is no such folder, or no run in it.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}", do="Give a sweep's YAML file, or the folder of its runs.")
    runs = [ExpectedRun(RunFolder.found_in(path.parent)) for path in sorted(folder.glob("*/config.yml"))]
    if not runs:
        raise UserError(f"there are no runs in {folder}", do="`stitching submit SWEEP.yml` creates them.")
    return runs


def forgotten_runs(folder: Path, names: Iterable[str]) -> list[str]:
    """The runs in a sweep's folder that are not among `names`: those that its YAML no longer has."""
    return sorted({path.parent.name for path in folder.glob("*/config.yml")} - set(names))


def state_on_disk(run: ExpectedRun) -> tuple[str, dict[str, Any]]:
    """A run's state by its folder, and the keys of its metadata that belong to it (`BRIEF_KEYS`).

    The state is `done`, `stale` (of another config), `failed`, `stopped`, `running`, `submitted` or `missing`. A run is
    done if a whole result of this very config is there, whatever a scheduler says. If its metadata cannot be read, it
    has failed, and `failure` is the only key.
    """
    try:
        metadata = run.folder.read_metadata(brief=True)
    except UserError as error:
        return "failed", {"failure": error.problem}
    if metadata is None:
        return "missing", {}
    if run.identity is not None and metadata.get("identity") not in (None, run.identity):
        return "stale", metadata
    state = str(metadata.get("state", "missing"))
    if state == "done" and not is_whole(run.folder, metadata):
        return "missing", metadata
    return state, metadata


def is_whole(folder: RunFolder, metadata: dict[str, Any]) -> bool:
    """Whether both result files of a finished run are there and undamaged, by their digests."""
    digests = metadata.get("digests")
    try:
        return isinstance(digests, dict) and all(
            path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digests.get(path.name)
            for path in (folder.result, folder.steps)
        )
    except OSError:
        return False
