"""Job kinds: the protocol of what a config.yml may ask for, and their registry.

A kind is one class. The command line, the launcher and the studies find it from the config and call its methods; none
of them knows how it trains.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from stitching.config.errors import UserError
from stitching.config.job_config import JobSettings
from stitching.config.job_files import read_settings
from stitching.config.plugins import load_plugins
from stitching.config.registries import Registry
from stitching.config.yaml import Document, load_yaml
from stitching.cutting.cost import Cost
from stitching.progress import ProgressCallback
from stitching.runs.folder import RunFolder
from stitching.runs.identity import identity
from stitching.runs.stopping import StopRequest

__all__ = [
    "KINDS",
    "EndedRun",
    "JobKind",
    "Pace",
    "Remember",
    "RunOptions",
    "RunRequest",
    "kind_of",
    "load_job",
    "marked_kind",
    "read_job",
    "recorded_job",
]

J = TypeVar("J", bound=JobSettings)

# The result of the function (plain data), computed once for each value of the first argument: all that it depends on,
# beside the code.
Remember = Callable[[object, Callable[[], Any]], Any]


@dataclass(frozen=True)
class RunRequest(Generic[J]):
    """A job, and the folder for its files.

    `hold` locks the folder for this process once everything is set up. It may choose another folder than was planned,
    or raise where an earlier run's result would be lost; without it `folder` is locked.
    """

    job: J
    folder: RunFolder
    hold: Callable[[], AbstractContextManager[RunFolder]] | None = None

    def locked(self) -> AbstractContextManager[RunFolder]:
        """Lock the run's folder within the body, and yield it. Raises `FolderBusy` if another process holds it."""
        return (self.hold or self.folder.locked)()


def _no_progress(done: int, total: int, words: str) -> None:
    pass


@dataclass(frozen=True)
class RunOptions:
    """How the runs of one call of `JobKind.run` start, report and stop.

    Attributes:
        resume: resume from the checkpoint in a run's folder where there is one.
        overwrite: remove the files of an earlier run, once everything is set up.
        skip_busy: skip runs that another process is training, and those that are done; else they are errors.
        on_progress: called after every step.
        stop: checked at every step boundary.
    """

    resume: bool = False
    overwrite: bool = False
    skip_busy: bool = False
    on_progress: ProgressCallback = _no_progress
    stop: StopRequest = field(default_factory=StopRequest)


class EndedRun(Protocol):
    """How a run ended: with a failure and its cause (one of `stitching.runs.causes`), or with results."""

    @property
    def folder(self) -> RunFolder: ...

    @property
    def failure(self) -> str | None: ...

    @property
    def cause(self) -> str: ...

    @property
    def final(self) -> Mapping[str, float]: ...


@dataclass(frozen=True)
class Pace:
    """How fast a job is: seconds of one process for each epoch, tests included, and its steps."""

    seconds_per_epoch: float
    steps_per_epoch: float
    device: str


class JobKind(ABC, Generic[J]):
    """One kind of job.

    Attributes:
        name: as registered; the names of a study's runs begin with it.
        key: the key of the YAML that marks a job of this kind. None for `train`, the kind of every other job.
        schema: of its YAML; `key` is one of its fields.
    """

    name: ClassVar[str]
    key: ClassVar[str | None] = None
    schema: type[J]

    def read(self, document: Document) -> J:
        """The document as a job, its paths absolute. Raises `UserError` with file, line and key."""
        return read_settings(self.schema, document)

    def identity(self, job: J) -> str:
        """What makes two jobs the same (`stitching.runs.identity`): all keys of the schema that can change a result."""
        return identity(job)

    def networks(self, job: J) -> Sequence[Any]:
        """The parts (in a config's sense) that its networks are made of: their weights are fetched before the queue."""
        return ()

    def data_sets(self, job: J) -> list[str]:
        """The data sets that it reads, by name: they are looked for before the queue."""
        return [task.dataset for task in job.train_config.task_list]

    @abstractmethod
    def check(self, job: J, remember: Remember) -> Cost | None:
        """Check the job without its data or weights, and return what its network costs.

        This is what a plan does with every job, so it must be quick: networks are built on the meta device, and what
        takes time goes through `remember`.

        Raises:
            UserError: with the keys that lead to what is wrong.
        """

    def share_key(self, job: J) -> str | None:
        """Equal for jobs that may run as a pack; None, the default, for a job that runs alone."""
        return None

    @abstractmethod
    def run(self, requests: Sequence[RunRequest[J]], options: RunOptions) -> Sequence[EndedRun]:
        """Run one job, or several whose `share_key` is equal.

        A result is the same whether a job is run alone or in a pack, and whether or not it was stopped and resumed on
        the way. Each run holds its folder (`RunRequest.locked`) while it works. It writes a metadata.yml there with
        what was in it before, `identity`, `state` (running, stopped, failed, done); with `stopped` and `failed` the
        `steps` made so far, by which a launcher sees that another start gets further; and, when done, `final` and the
        `digests` of its result (`StepLog.save`). A run that measures several networks logs a row for each, told apart
        by the column `VARIANT` of `stitching.runs.step_log`.

        Args:
            requests: the jobs, each with a folder of its own.
            options: how they start, report and stop.

        Returns:
            How each of the runs ended, in the order of `requests`.

        Raises:
            UserError: a job cannot be set up; nothing was run then.
            Interrupted: `options.stop` was asked for; every run has a checkpoint.
        """

    def pace(self, job: J) -> Pace:
        """How fast the job is here, from a few steps of it; with its data and weights. Raises `UserError`."""
        raise UserError(f"jobs of the kind {self.name} cannot be timed in advance")

    @abstractmethod
    def smoke_test(self, document: Document, progress: ProgressCallback) -> str:
        """Try everything that the job does on a little data, in a temporary folder; returns what was tried."""


KINDS: Registry[type[JobKind[Any]]] = Registry("job kind", "stitching.training.job")


def marked_kind(document: Document) -> JobKind[Any]:
    """The kind of the job in a document, by the key that marks it.

    Raises:
        UserError: there are keys of two kinds.
    """
    load_plugins(document)
    return _kind_of_keys(document)


def _kind_of_keys(document: Document) -> JobKind[Any]:
    keys = document.data if isinstance(document.data, dict) else {}
    marked_kinds = [kind for _, kind in KINDS.items() if kind.key in keys]
    if len(marked_kinds) > 1:
        names = " and ".join(f"`{kind.key}:`" for kind in marked_kinds)
        error = UserError(f"the job has the keys {names}", allowed="one of them", path=(str(marked_kinds[1].key),))
        raise document.locate(error)
    return (marked_kinds or [kind for _, kind in KINDS.items() if kind.key is None])[0]()


def kind_of(job: JobSettings) -> JobKind[Any]:
    """The kind that a job was read as."""
    return next(kind for _, kind in KINDS.items() if kind.schema is type(job))()


def read_job(document: Document) -> Any:
    """The document as a job of its kind, its paths absolute.

    Raises:
        UserError: with file, line and key, if anything is wrong with it.
    """
    return marked_kind(document).read(document)


def recorded_job(config: Any) -> Any:
    """A job from the output of its `to_yaml`; plugins that it names are not imported.

    Raises:
        ValueError: it is anything else, what another version wrote, or has a part of a plugin that is not imported.
    """
    return _kind_of_keys(Document(Path(), config)).schema.model_validate(config)


def load_job(path: str | Path) -> Any:
    """Load a job's YAML file. Raises `UserError` with file, line and key if anything is wrong with it."""
    return read_job(load_yaml(path))
