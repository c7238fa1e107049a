"""Plans: everything that a sweep will do, computed without touching anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from stitching.config.errors import ErrorCollector, UserError
from stitching.config.job_config import Job
from stitching.config.job_files import project_root
from stitching.config.parts import PartField
from stitching.config.script_text import ALLOWED, WHY, unfit_character
from stitching.config.sweep import ModelEntry, Sweep
from stitching.cutting.cost import Cost, cost
from stitching.cutting.formats import Format
from stitching.models.sources import normalization_note
from stitching.nets.build import BuildOptions, build_network, model_spec
from stitching.runs.folder import RunFolder
from stitching.runs.identity import identity_of, network_digest, settings_digest
from stitching.runs.state import ExpectedRun
from stitching.sweeps.names import Names
from stitching.sweeps.networks import controls_of, network_of, whole_model, whole_networks
from stitching.sweeps.plan_cache import PlanCache
from stitching.sweeps.staged_models import StagedModel, subnets
from stitching.sweeps.stitchers import LEAST_SQUARES, Declined
from stitching.sweeps.stitches import Stitch, make_stitches
from stitching.sweeps.variants import Images, Variant, evaluation_only, images_of, make_variants
from stitching.training.network_outputs import HookedOutputs

__all__ = ["Plan", "PlannedRun", "ProgressCallback", "Stitch", "folder_of", "make_plan"]

ProgressCallback = Callable[[int, int, str], None]
PART: TypeAdapter[Any] = TypeAdapter(PartField)


@dataclass(frozen=True)
class PlannedRun:
    """A run of the plan, or a cell that its stitcher declines (`declined` says why, and there is no job)."""

    name: str
    cell: Stitch
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)  # the grid's values
    job: Job | None = None
    identity: str | None = None  # the hash of the resolved config
    cost: Cost | None = None
    declined: str | None = None
    same_as: str | None = None  # the run of the same network that stands for this one

    @property
    def trainable(self) -> int:
        """How many parameters are trained."""
        return self.cost.trainable if self.cost else 0

    def metadata(self, arch: str) -> dict[str, Any]:
        """What the analysis groups by."""
        first, last = self.cell.gap
        costs = {"macs": self.cost.macs} if self.cost else {}
        if self.cell.control == "base":
            return {"name": self.name, "arch": arch, **self.settings, **costs}
        return {
            "name": self.name,
            "arch": arch,
            **({"control": self.cell.control} if self.cell.control else {}),
            "source": self.cell.source.title,
            "destination": self.cell.dest.title,
            "first_deleted_block": first,
            "last_deleted_block": last,
            "source_depth": first / len(self.cell.source.stages),
            "destination_depth": (last + 1) / len(self.cell.dest.stages),
            "num_downsamples": self.cell.num_downsamples,
            "adapter": self.cell.stitcher,
            "seed": self.seed,
            **self.settings,
            **costs,
        }

    def as_json(self) -> dict[str, Any]:
        """The run as `--json` prints it."""
        return {
            "name": self.name,
            "source": self.cell.source.title,
            "destination": self.cell.dest.title,
            "gap": list(self.cell.gap),
            "num_downsamples": self.cell.num_downsamples,
            "stitcher": self.cell.stitcher,
            "control": self.cell.control,
            "seed": self.seed,
            "settings": self.settings,
            "declined": self.declined is not None,
            "reason": self.declined,
            "same_as": self.same_as,
            "identity": self.identity,
            "network": self.job.to_yaml()["model"] if self.job else None,
            "parameters": self.cost.params if self.cost else None,
            "trainable_parameters": self.trainable if self.cost else None,
            "macs": self.cost.macs if self.cost else None,
        }


@dataclass(frozen=True)
class Plan:
    """A sweep's runs, and the cells that have none."""

    name: str
    folder: Path
    cells: list[PlannedRun]
    notes: list[str] = field(default_factory=list)  # what a user should know before running it

    @property
    def runs(self) -> list[PlannedRun]:
        """What there is to train: each network once."""
        return [run for run in self.cells if run.job is not None and run.same_as is None]

    @property
    def declined(self) -> list[PlannedRun]:
        return [run for run in self.cells if run.declined is not None]

    def folder_of(self, run: PlannedRun) -> RunFolder:
        """Where a run of this plan keeps its files."""
        assert run.job is not None
        return RunFolder(self.folder / run.name, run.job.metrics_output)

    def expected(self, run: PlannedRun) -> ExpectedRun:
        """What a finished result of the run must be."""
        return ExpectedRun(self.folder_of(run), run.identity)

    def metadata(self, run: PlannedRun) -> dict[str, Any]:
        """What the analysis groups `run` by, with the other cells that it stands for."""
        also = [cell.metadata(self.name) for cell in self._same_as.get(run.name, [])]
        return run.metadata(self.name) | ({"also": also} if also else {})

    @cached_property
    def _same_as(self) -> dict[str, list[PlannedRun]]:
        """The cells that have no run of their own, by the name of the run that stands for them."""
        found: dict[str, list[PlannedRun]] = {}
        for cell in self.cells:
            if cell.same_as is not None:
                found.setdefault(cell.same_as, []).append(cell)
        return found


def make_plan(
    sweep: Sweep, path: Path, on_progress: ProgressCallback | None = None, known: PlanCache | None = None
) -> Plan:
    """Everything that the sweep in the file `path` will do; nothing is written, downloaded or submitted.

    Args:
        sweep: what to plan.
        path: its file, whose name names the sweep and whose place says which project it is of.
        on_progress: shows progress.
        known: what earlier plans found out; the plan is the same without it.

    Raises:
        UserError: with the keys that lead to it, if the sweep does not fit the models it names. Everything that is
            wrong is reported at once: all models, gaps, names and settings, and if these are right, all networks.
    """
    known = known or PlanCache()
    mistakes = ErrorCollector()
    with mistakes.collect():
        _check_file_name(path)
    settings = make_variants(sweep, mistakes)
    groups: dict[Images, list[tuple[Variant, str]]] = {}  # each with its digest
    for setting in settings:
        groups.setdefault(setting.images, []).append((setting, settings_digest(setting.job)))
    cells: list[tuple[Images, Stitch]] = []  # and what they are compared with
    wanted = list(groups)
    if not wanted:  # no setting is right, and yet the models can be looked at
        with suppress(UserError):
            wanted = [images_of(sweep)]
    for images in wanted:
        with mistakes.collect():
            ordinary = make_stitches(sweep, images.shape, known)
            compared = [*whole_networks(ordinary), *controls_of(ordinary, sweep.controls)]
            cells += [(images, cell) for cell in (*ordinary, *compared)]
    mistakes.raise_all()
    names = Names(path.stem, [cell for _, cell in cells], seeds_named=sweep.seeds is not None)
    first_of: dict[str, str] = {}  # by identity, the name of the run that came first
    made: list[PlannedRun] = []
    wrong: dict[object, list[tuple[UserError, Stitch]]] = {}  # by what is wrong
    notes: dict[str, None] = {}
    for number, (images, cell) in enumerate(cells):
        if on_progress:
            on_progress(number, len(cells), f"{cell.source.title} to {cell.dest.title}, gap {list(cell.gap)}")
        try:
            for run in _runs_of(cell, groups[images], images, names, known):
                if run.identity is not None:
                    first = first_of.setdefault(run.identity, run.name)
                    run = run if first == run.name else replace(run, same_as=first)
                made.append(run)
            for normalized in dict.fromkeys(setting.normalization for setting, _ in groups[images]):
                notes |= dict.fromkeys(_notes(cell, normalized))
        except UserError as error:
            wrong.setdefault((error.path, error.problem), []).append((error, cell))
    for errors in wrong.values():
        with mistakes.collect():
            raise _of_cells(errors)
    mistakes.raise_all()
    _all_named_differently(made)
    return Plan(path.stem, folder_of(sweep, path), made, list(notes))


def _check_file_name(path: Path) -> None:
    """The name of a sweep's file names folders, and these stand in batch scripts."""
    character = unfit_character(path.stem)
    if character is not None:
        raise UserError(
            f"the file's name {path.name!r} has the character {character!r}", allowed=ALLOWED, do=f"{WHY} Rename it."
        )


def folder_of(sweep: Sweep, path: Path) -> Path:
    """Where the sweep in the file `path` keeps its runs."""
    root = project_root(path.parent) / "experiments" / sweep.project / path.stem
    return Path(sweep.save_dir) if sweep.save_dir else root


def _runs_of(
    cell: Stitch, settings: list[tuple[Variant, str]], images: Images, names: Names, known: PlanCache
) -> Iterator[PlannedRun]:
    """The runs of a cell, one for each setting that matters to it, or what stands for them where it is declined."""
    try:
        model = PART.validate_python(network_of(cell))
    except Declined as declined:
        for setting, _ in settings:
            yield PlannedRun(names.of(cell, setting), cell, setting.seed, setting.values, declined=str(declined))
        return
    if cell.only_tests:
        images = _taken(cell.dest, images)
        settings = _tested(settings, images)
    network = model.model_dump(mode="json")
    reference = _reference(cell, images)
    networks: str | None = None  # the digest of both
    for setting, digest in settings:
        name = names.of(cell, setting)
        job = Job.model_construct(**{**dict(setting.job), "model": model, "reference": reference})
        looked_at = [m.output for m in job.metrics], [term.output for term in job.train_config.aux_losses]
        made_from = ("network", images, job.unfrozen, job.reformat_options, looked_at, network, cell.stitcher)
        size = known.get(made_from, lambda job=job: _size(job, cell, images))  # type: ignore[misc]
        if isinstance(size, str):
            yield PlannedRun(name, cell, setting.seed, setting.values, declined=size)
            continue
        networks = networks or network_digest(job)
        run_identity = identity_of(digest, networks)
        yield PlannedRun(name, cell, setting.seed, setting.values, job, run_identity, Cost(**size))


def _tested(settings: list[tuple[Variant, str]], images: Images) -> list[tuple[Variant, str]]:
    """The settings for a network that is only tested: one, unless they differ in what has a part in a test."""
    by_digest: dict[str, Variant] = {}
    for setting, _ in settings:
        tested = evaluation_only(setting, images)
        by_digest.setdefault(settings_digest(tested.job), tested)
    return [(setting, digest) for digest, setting in by_digest.items()]


def _taken(row: StagedModel, images: Images) -> Images:
    """The images that a whole model takes: the sweep's, or as they were made for it if it cannot take those."""
    channels, size = row.stages[0].in_format.channels, row.stages[0].in_format.spatial
    return replace(images, shape=(channels or images.shape[0], *(size or images.shape[1:])))


def _reference(cell: Stitch, images: Images) -> Any:
    """The destination on its own, with whose predictions those of a stitched network are compared, if it can be."""
    model = whole_model(cell.dest)
    if model is None or cell.control == "base" or _taken(cell.dest, images) != images:
        return None
    return PART.validate_python({"Net": model})


def _of_cells(errors: list[tuple[UserError, Stitch]]) -> UserError:
    """One error for all cells in which the same is wrong."""
    error, cell = errors[0]
    if error.path == ("stitchers",):
        others = f" and {len(errors) - 1} other cells" if len(errors) > 1 else ""
        error.problem = f"{cell.stitcher} over {list(cell.gap)}{others}: {error.problem}"
    return error


def _size(job: Job, cell: Stitch, images: Images) -> dict[str, int] | str:
    """What the network costs, or why the cell is declined in words."""
    try:
        return asdict(_try_network(job, cell, images))
    except Declined as declined:
        return str(declined)


def _notes(cell: Stitch, normalized: tuple[tuple[float, ...], tuple[float, ...]]) -> list[str]:
    (part,) = subnets(cell.source.stages[:1], frozen=True)
    return normalization_note(model_spec(ModelEntry.model_validate(part["Subnet"])), *normalized)


def _try_network(job: Job, cell: Stitch, images: Images) -> Cost:
    """The network's cost, from building it on the meta device."""
    options = BuildOptions(
        num_classes=images.num_classes, class_token=job.reformat_options.class_token, unfrozen=job.unfrozen, meta=True
    )
    arriving = Format.of("img", (1, *images.shape))
    try:
        network = build_network(job.network, arriving, options)
    except UserError as error:
        # At the source's size a destination of fixed size (window attention, a pooled head) may not run at all.
        if cell.stitcher.endswith("no_downsample"):
            raise Declined(f"the destination does not run at the source's size: {error.problem}") from None
        if cell.stitcher == LEAST_SQUARES and not job.unfrozen:  # a destination for images of another size
            raise Declined(error.problem) from None
        error.path = ("stitchers",)
        raise
    hooked_outputs = HookedOutputs(network, job)
    if hooked_outputs.names:
        network.eval()(torch.zeros(arriving.shape(1), device="meta"))
        hooked_outputs.check()
    out = network.out_format
    if out.kind != "vector" or (out.channels or 0) < images.num_classes:
        raise UserError(
            f"{cell.dest.title} ends with {out}, the data set has {images.num_classes} classes",
            do="End with a model that was trained for these classes (num_classes, ckp_path), its head included.",
            path=(cell.dest.key,),
        )  # fmt: skip
    return cost(network, arriving)


def _all_named_differently(runs: list[PlannedRun]) -> None:
    seen = set()
    for run in runs:
        if run.name in seen:
            raise UserError(
                f"two runs would share the folder {run.name}",
                do="Choose values of the grid that differ in letters and digits.", path=("grid",),
            )  # fmt: skip
        seen.add(run.name)
