"""The file sbatch/clusters.yml: named profiles of the resources of a task, and their schema for Slurm."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from stitching.config.bounds import Count, Positive
from stitching.config.errors import UserError
from stitching.config.job_files import project_root
from stitching.config.plugins import load_plugins
from stitching.config.schema import Schema, complaint
from stitching.config.script_text import ScriptText, check_script_text
from stitching.config.yaml import Document, load_yaml

__all__ = ["ClusterProfile", "ClustersFile", "Profile"]

# Options that the launcher sets. With other values it could not follow the jobs that it submits, or find their logs.
_OWN_OPTIONS = (
    "array", "clusters", "error", "help", "job-name", "open-mode", "output", "parsable", "quiet", "test-only", "usage",
    "version", "wait", "wrap",
)  # fmt: skip


def _check_options(options: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
    for key, value in options.items():
        name = key.replace("_", "-")  # as submitit writes it
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", name):
            raise complaint(f"{key!r} is no option of sbatch", "a long name without its dashes, such as qos or exclude")
        if any(option.startswith(name) for option in _OWN_OPTIONS):  # sbatch knows an option by its first letters, too
            raise complaint(
                "the launcher sets this option itself", f"any option of sbatch but {', '.join(_OWN_OPTIONS)}",
                do="array_parallelism limits how many tasks of an array run at once.", key=key,
            )  # fmt: skip
        if isinstance(value, str):
            check_script_text(value, key=key)
    return options


Options = Annotated[dict[str, str | int | bool], AfterValidator(_check_options)]


Machinery = Annotated[Count, Field(le=10_000)]
SignalSeconds = Annotated[Count, Field(le=65_535)]  # as sbatch's --signal takes them


class ClusterProfile(Schema):
    """The keys of a profile for any scheduler."""

    scheduler: str = "slurm"
    """What runs the tasks: `slurm`, or a scheduler that a plugin registers."""


class Profile(ClusterProfile):
    """What every task of a sweep asks Slurm for. What is left out is as the cluster's defaults say."""

    partition: ScriptText | None = None
    """The partition, by its name on the cluster."""
    constraint: ScriptText | None = None
    """What the nodes must have, as sbatch's option of this name."""
    account: ScriptText | None = None
    """Whose budget is charged."""
    gpus: Annotated[int, Field(ge=0, le=10_000)] = 0
    """GPUs of a task, for all its processes together."""
    processes: Machinery = 1
    """Processes that share the work of each task, on one node; as many as GPUs, if there are any."""
    cpus: Machinery = 1
    """CPUs of each process."""
    memory_gb: Annotated[Positive, Field(le=10**6)] | None = None
    """Memory of a task, in GB."""
    minutes: Annotated[Count, Field(le=10**7)] = 24 * 60
    """The time limit of a task."""
    signal_seconds: SignalSeconds = 90
    """How long before its time limit a task is asked to save and to go back to the queue."""
    array_parallelism: Annotated[Count, Field(le=10**6)] = 100
    """How many tasks of an array run at once."""
    setup: list[str] = []
    """Shell commands before the task, such as `source /shared/venv/bin/activate`."""
    sbatch: Options = {}
    """Any other option of sbatch by its long name: `{qos: long, nice: 100}`."""


@dataclass(frozen=True)
class ClustersFile:
    """The profiles of a checkout. Its key `plugins` names files that register schedulers of the user's own."""

    document: Document
    exists: bool

    @classmethod
    def of_project(cls, folder: Path) -> ClustersFile:
        """The file of the checkout that `folder` lies in; one without profiles if there is none."""
        path = project_root(folder) / "sbatch" / "clusters.yml"
        if not path.is_file():
            return cls(Document(path, {}, {}), exists=False)
        return cls(load_yaml(path), exists=True)

    @classmethod
    def empty(cls) -> ClustersFile:
        """A file without profiles."""
        return cls(Document(Path("clusters.yml"), {}, {}), exists=False)

    @property
    def path(self) -> Path:
        return self.document.path

    @property
    def profiles(self) -> list[str]:
        """The names of the profiles."""
        data = self.document.data
        return [name for name in data if name != _PLUGINS] if isinstance(data, dict) else []

    def scheduler_of(self, name: str) -> str:
        """The name of the scheduler that the profile `name` is for."""
        profile = self.document.data[name]
        scheduler = profile.get("scheduler") if isinstance(profile, dict) else None
        return scheduler if isinstance(scheduler, str) else ClusterProfile().scheduler

    def profile(self, name: str, changes: Mapping[str, object]) -> Document:
        """The profile `name` as a document of its own, with values of the command line; empty if there is none."""
        for key, value in changes.items():
            self.document.override((name, *key.split(".")), value, f"command line ({key})")
        locations = {keys[1:]: location for keys, location in self.document.locations.items() if keys[:1] == (name,)}
        return Document(self.path, self.document.data.get(name) or {}, locations)

    def located(self, error: UserError) -> UserError:
        """The error with the line that its path leads to."""
        return self.document.locate(error)

    def load_plugins(self) -> None:
        """Import the files that `plugins` names, relative to this file's folder. Raises `UserError` as that does."""
        data = self.document.data
        names = data.get(_PLUGINS) if isinstance(data, dict) else None
        if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise self.located(UserError("expected a list of Python files", path=(_PLUGINS,)))
        load_plugins(self.document)


_PLUGINS = "plugins"  # the one name that no profile can have
