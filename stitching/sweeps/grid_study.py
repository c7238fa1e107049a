"""The study `grid`: one job over seeds and a grid of its keys, such as learning rates, replicates or data sets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from stitching.config.bounds import PathText
from stitching.config.errors import ErrorCollector, UserError, at
from stitching.config.job_config import JobSettings
from stitching.config.job_files import project_root
from stitching.config.paths import check_regular_file, resolved_path
from stitching.config.schema import Schema, one_of, validated
from stitching.config.sweep import StudyKeys
from stitching.config.user_code import resolved_code
from stitching.config.yaml import Document, Keys, load_yaml, located
from stitching.progress import ProgressCallback
from stitching.runs.kinds import JobKind, kind_of, marked_kind
from stitching.sweeps.grid_values import Combination, applied, blamed_on_grid, combinations, fit_for_a_folder
from stitching.sweeps.plan import Plan, PlannedRun, check_names
from stitching.sweeps.plan_cache import PlanCache
from stitching.sweeps.studies import STUDIES, Study

__all__ = ["GridRun", "GridStudy", "GridSweep", "folder_of_study"]


class GridSweep(StudyKeys):
    """A sweep over one job: its config (or the path of its config.yml), and the seeds and keys that vary."""

    job: one_of(text=str, mapping=dict[str, Any])  # type: ignore[valid-type]
    """The path of a config.yml, `!include config.yml`, or the job's keys themselves."""
    data_path: PathText | None = None
    """Folder of the data sets, instead of the job's own."""


@dataclass(frozen=True, kw_only=True)
class GridRun(PlannedRun):
    """One job with one seed and one combination of the grid's values."""

    job: JobSettings

    @property
    def subject(self) -> dict[str, Any]:
        return {"study": "grid"}

    @property
    def row(self) -> dict[str, str]:
        """A column for each key of the grid, by the last word of it where that is enough."""
        short = [key.split(".")[-1] for key in self.settings]
        names = short if len(set(short)) == len(short) else list(self.settings)
        return dict(zip(names, map(str, self.settings.values()), strict=True))

    @property
    def starts_from(self) -> str:
        return ""

    @property
    def pace_key(self) -> tuple[str, ...]:
        return *kind_of(self.job).data_sets(self.job), str(self.cost.macs if self.cost else "")

    def metadata(self, arch: str) -> dict[str, Any]:
        costs = {"macs": self.cost.macs} if self.cost else {}
        return {"name": self.name, "arch": arch, **self.subject, "seed": self.seed, **self.settings, **costs}

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "study": "grid", "kind": kind_of(self.job).name, **super().as_json()}


@STUDIES.register("grid")
class GridStudy(Study):
    """One job of any kind with `seeds:` and `grid:`; without both it is one run."""

    marks = ("job",)
    schema: ClassVar[type[Schema]] = GridSweep

    def plan(self, document: Document, on_progress: ProgressCallback, cache: PlanCache) -> Plan:
        sweep, path = validated(GridSweep, document), document.path
        job_document = _job_document(sweep, document)
        with located(job_document):
            kind = marked_kind(job_document)
        keys = set(kind.schema.model_fields)
        mistakes = ErrorCollector()
        runs: list[GridRun] = []
        first_of: dict[str, str] = {}  # by identity, the name of the run that came first
        chosen = list(combinations(sweep.grid, sweep.seeds))
        for number, combination in enumerate(chosen):
            on_progress(number, len(chosen), _name(kind, path.stem, combination))
            with mistakes.collect():
                changed = applied(job_document, combination, keys, document)
                with blamed_on_grid(combination), located(changed):
                    run = _run(kind, path.stem, changed, combination, cache)
                first = first_of.setdefault(str(run.identity), run.name)
                runs.append(run if first == run.name else replace(run, same_as=first))
        mistakes.raise_all()
        check_names(runs)
        return Plan(path.stem, folder_of_study(sweep, document), runs)

    def folder(self, document: Document) -> Path:
        return folder_of_study(validated(GridSweep, document), document)


class _JobDocument(Document):
    """The config inside a sweep: a relative path in it starts from the file that it is written in."""

    def folder_of(self, keys: Keys) -> Path:
        while keys and keys not in self.locations:
            keys = keys[:-1]
        file, _, line = self.locations.get(keys, "").rpartition(":")
        return Path(file).parent if file and line.isdigit() else self.folder


def _job_document(sweep: GridSweep, document: Document) -> Document:
    """The job's config, with the places of its values: in the sweep, in what it includes, or in a file of its own."""
    if isinstance(sweep.job, str):
        with located(document), at("job"):
            path = resolved_path(sweep.job, document.folder)
            check_regular_file(path)
        job = load_yaml(path)
        job = _JobDocument(job.path, job.data, job.locations)
    else:
        locations = {keys[1:]: location for keys, location in document.locations.items() if keys[:1] == ("job",)}
        job = _JobDocument(document.path, document.data["job"], locations)
    if isinstance(job.data, dict):
        job.remove(("save_dir",))  # each run has a folder of its own
        if job.data.get("resume_from"):
            raise job.locate(
                UserError(
                    "a checkpoint to resume from is of one run", do="`submit` resumes every run from its own.",
                    path=("resume_from",),
                )
            )  # fmt: skip
        if sweep.plugins:
            own = job.data.get("plugins") or []
            theirs = [resolved_code(name, job.folder_of(("plugins", i))) for i, name in enumerate(own)]
            job.override(("plugins",), [resolved_code(name, document.folder) for name in sweep.plugins] + theirs, "")
        if sweep.data_path:
            job.override(("data_path",), str(resolved_path(sweep.data_path, document.folder)), "data_path of the sweep")
    return job


def _run(kind: JobKind[Any], sweep: str, document: Document, combination: Combination, cache: PlanCache) -> GridRun:
    job = kind.read(document)
    cost = kind.check(job, cache.get)
    return GridRun(
        name=_name(kind, sweep, combination), seed=job.train_config.seed, settings=combination.shown, job=job,
        identity=kind.identity(job), cost=cost,
    )  # fmt: skip


def _name(kind: JobKind[Any], sweep: str, combination: Combination) -> str:
    values = (f"-{key.split('.')[-1]}-{value}" for key, value in combination.shown.items())
    seed = "" if combination.seed is None else f"-seed-{combination.seed}"
    return f"{kind.name}-{sweep}{''.join(map(fit_for_a_folder, values))}{seed}"


def folder_of_study(sweep: StudyKeys, document: Document) -> Path:
    """`save_dir`, else `experiments/<project>/<sweep>`; the project's name is by default that of the sweep's folder."""
    if sweep.save_dir:
        return resolved_path(sweep.save_dir, document.folder)
    root, folder = project_root(document.folder), document.folder.resolve()
    project = sweep.project or ("studies" if folder == root else fit_for_a_folder(folder.name))
    return root / "experiments" / project / document.path.stem
