"""Plans: everything that a sweep will do, computed without touching anything."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from stitching.config.errors import UserError
from stitching.config.job_config import JobSettings
from stitching.cutting.cost import Cost
from stitching.runs.folder import RunFolder
from stitching.runs.state import ExpectedRun

__all__ = ["Plan", "PlannedRun", "check_names"]


@dataclass(frozen=True, kw_only=True)
class PlannedRun(ABC):
    """A run of a plan, or what has none: `declined` says why, `same_as` names the run that stands for it.

    Each study has its own. What it says of a run here is all that the launcher and the commands know of the study.
    """

    name: str  # and that of its folder
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)  # the grid's keys with their values
    job: JobSettings | None = None
    identity: str | None = None  # the hash of the resolved config
    cost: Cost | None = None
    declined: str | None = None
    same_as: str | None = None  # the run of the same network that stands for this one

    @property
    def trainable(self) -> int:
        """How many parameters are trained."""
        return self.cost.trainable if self.cost else 0

    @property
    def only_tests(self) -> bool:
        """Whether there is nothing to train."""
        return False

    @property
    def is_check(self) -> bool:
        """Whether its result is known before, so that another one says that something is broken."""
        return False

    @property
    @abstractmethod
    def subject(self) -> dict[str, Any]:
        """What the run is of, seed and settings apart, as keys of its metadata; equal for what may be compared."""

    @property
    @abstractmethod
    def row(self) -> dict[str, str]:
        """Its columns in the table of `plan`; runs with equal columns and equal costs are one line."""

    @property
    @abstractmethod
    def starts_from(self) -> str:
        """The model that its images go into first: runs that start alike gain most from being packed."""

    @property
    @abstractmethod
    def pace_key(self) -> tuple[str, ...]:
        """Equal for runs whose epochs take about as long, such as those of one pair of models."""

    @abstractmethod
    def metadata(self, arch: str) -> dict[str, Any]:
        """What the analysis groups by; `arch` is the sweep's name."""

    def as_json(self) -> dict[str, Any]:
        """The run as `--json` prints it."""
        network = self.job.to_yaml().get("model") if self.job else None
        return {
            "seed": self.seed,
            "settings": self.settings,
            "declined": self.declined is not None,
            "reason": self.declined,
            "same_as": self.same_as,
            "identity": self.identity,
            "network": network,
            "parameters": self.cost.params if self.cost else None,
            "trainable_parameters": self.trainable if self.cost else None,
            "macs": self.cost.macs if self.cost else None,
        }


@dataclass(frozen=True)
class Plan:
    """A sweep's runs, and what of it has none."""

    name: str
    folder: Path
    entries: Sequence[Any]  # PlannedRun, of the study's own class
    notes: list[str] = field(default_factory=list)  # what a user should know before running it

    @property
    def runs(self) -> list[Any]:
        """What there is to run: each network once."""
        return [run for run in self.entries if run.job is not None and run.same_as is None]

    @property
    def declined(self) -> list[Any]:
        return [run for run in self.entries if run.declined is not None]

    def folder_of(self, run: PlannedRun) -> RunFolder:
        """Where a run of this plan keeps its files."""
        assert run.job is not None
        return RunFolder(self.folder / run.name, run.job.metrics_output)

    def expected(self, run: PlannedRun) -> ExpectedRun:
        """What a finished result of the run must be."""
        return ExpectedRun(self.folder_of(run), run.identity)

    def metadata(self, run: PlannedRun) -> dict[str, Any]:
        """What the analysis groups `run` by, with the other entries that it stands for."""
        also = [entry.metadata(self.name) for entry in self._same_as.get(run.name, [])]
        return run.metadata(self.name) | ({"also": also} if also else {})

    @cached_property
    def _same_as(self) -> dict[str, list[PlannedRun]]:
        """The entries that have no run of their own, by the name of the run that stands for them."""
        entries: dict[str, list[PlannedRun]] = {}
        for entry in self.entries:
            if entry.same_as is not None:
                entries.setdefault(entry.same_as, []).append(entry)
        return entries


def check_names(runs: Sequence[PlannedRun]) -> None:
    """Raise if two runs have one name, which is that of a folder."""
    seen = set()
    for run in runs:
        if run.name in seen:
            raise UserError(
                f"two runs would share the folder {run.name}",
                do="Choose values of the grid that differ in letters and digits.", path=("grid",),
            )  # fmt: skip
        seen.add(run.name)
