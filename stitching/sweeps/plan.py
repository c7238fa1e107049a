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
from stitching.config.parts import PartField
from stitching.config.script_text import ALLOWED, WHY, unfit_character
from stitching.config.sweep import ModelEntry, Sweep, folder_of
from stitching.cutting.cost import Cost, cost
from stitching.cutting.formats import Format
from stitching.models.building import normalization_note
from stitching.models.traced_models import model_spec
from stitching.nets.build import BuildOptions
from stitching.runs.folder import RunFolder
from stitching.runs.identity import identity, network_digest, settings_digest
from stitching.runs.state import ExpectedRun
from stitching.similarity.least_squares import build_stitched_network
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
    """A run of the plan, or a stitch that its stitcher declines (`declined` says why, and there is no job)."""

    name: str
    stitch: Stitch
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
        first, last = self.stitch.gap
        costs = {"macs": self.cost.macs} if self.cost else {}
        if self.stitch.control == "base":
            return {"name": self.name, "arch": arch, **self.settings, **costs}
        return {
            "name": self.name,
            "arch": arch,
            **({"control": self.stitch.control} if self.stitch.control else {}),
            "source": self.stitch.source.title,
            "destination": self.stitch.dest.title,
            "first_deleted_block": first,
            "last_deleted_block": last,
            "source_depth": first / len(self.stitch.source.stages),
            "destination_depth": (last + 1) / len(self.stitch.dest.stages),
            "num_downsamples": self.stitch.num_downsamples,
            "adapter": self.stitch.stitcher,
            "seed": self.seed,
            **self.settings,
            **costs,
        }

    def as_json(self) -> dict[str, Any]:
        """The run as `--json` prints it."""
        return {
            "name": self.name,
            "source": self.stitch.source.title,
            "destination": self.stitch.dest.title,
            "gap": list(self.stitch.gap),
            "num_downsamples": self.stitch.num_downsamples,
            "stitcher": self.stitch.stitcher,
            "control": self.stitch.control,
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
    """A sweep's runs, and the stitches that have none."""

    name: str
    folder: Path
    entries: list[PlannedRun]
    notes: list[str] = field(default_factory=list)  # what a user should know before running it

    @property
    def runs(self) -> list[PlannedRun]:
        """What there is to train: each network once."""
        return [run for run in self.entries if run.job is not None and run.same_as is None]

    @property
    def declined(self) -> list[PlannedRun]:
        return [run for run in self.entries if run.declined is not None]

    def folder_of(self, run: PlannedRun) -> RunFolder:
        """Where a run of this plan keeps its files."""
        assert run.job is not None
        return RunFolder(self.folder / run.name, run.job.metrics_output)

    def expected(self, run: PlannedRun) -> ExpectedRun:
        """What a finished result of the run must be."""
        return ExpectedRun(self.folder_of(run), run.identity)

    def metadata(self, run: PlannedRun) -> dict[str, Any]:
        """What the analysis groups `run` by, with the other stitches that it stands for."""
        also = [entry.metadata(self.name) for entry in self._same_as.get(run.name, [])]
        return run.metadata(self.name) | ({"also": also} if also else {})

    @cached_property
    def _same_as(self) -> dict[str, list[PlannedRun]]:
        """The stitches that have no run of their own, by the name of the run that stands for them."""
        found: dict[str, list[PlannedRun]] = {}
        for entry in self.entries:
            if entry.same_as is not None:
                found.setdefault(entry.same_as, []).append(entry)
        return found


def make_plan(
    sweep: Sweep, path: Path, on_progress: ProgressCallback | None = None, cache: PlanCache | None = None
) -> Plan:
    """Everything that the sweep in the file `path` will do; nothing is written, downloaded or submitted.

    Args:
        sweep: what to plan.
        path: its file, whose name names the sweep and whose place says which project it is of.
        on_progress: shows progress.
        cache: what earlier plans found out; the plan is the same without it.

    Raises:
        UserError: with the keys that lead to it, if the sweep does not fit the models it names. Everything that is
            wrong is reported at once: all models, gaps, names and settings, and if these are right, all networks.
    """
    cache = cache or PlanCache()
    mistakes = ErrorCollector()
    with mistakes.collect():
        _check_file_name(path)
    settings = make_variants(sweep, mistakes)
    groups: dict[Images, list[tuple[Variant, str]]] = {}  # each with its digest
    for variant in settings:
        groups.setdefault(variant.images, []).append((variant, settings_digest(variant.job)))
    stitches: list[tuple[Images, Stitch]] = []  # and what they are compared with
    wanted = list(groups)
    if not wanted:  # no variant is right, and yet the models can be looked at
        with suppress(UserError):
            wanted = [images_of(sweep)]
    for images in wanted:
        with mistakes.collect():
            ordinary = make_stitches(sweep, images.shape, cache)
            compared = [*whole_networks(ordinary), *controls_of(ordinary, sweep.controls)]
            stitches += [(images, stitch) for stitch in (*ordinary, *compared)]
    mistakes.raise_all()
    names = Names(path.stem, [stitch for _, stitch in stitches], seeds_named=sweep.seeds is not None)
    first_of: dict[str, str] = {}  # by identity, the name of the run that came first
    made: list[PlannedRun] = []
    wrong: dict[object, list[tuple[UserError, Stitch]]] = {}  # by what is wrong
    notes: dict[str, None] = {}
    for number, (images, stitch) in enumerate(stitches):
        if on_progress:
            on_progress(number, len(stitches), f"{stitch.source.title} to {stitch.dest.title}, gap {list(stitch.gap)}")
        try:
            for run in _runs_of(stitch, groups[images], images, names, cache):
                if run.identity is not None:
                    first = first_of.setdefault(run.identity, run.name)
                    run = run if first == run.name else replace(run, same_as=first)
                made.append(run)
            for normalized in dict.fromkeys(variant.normalization for variant, _ in groups[images]):
                notes |= dict.fromkeys(_notes(stitch, normalized))
        except UserError as error:
            wrong.setdefault((error.path, error.problem), []).append((error, stitch))
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


def _runs_of(
    stitch: Stitch, settings: list[tuple[Variant, str]], images: Images, names: Names, cache: PlanCache
) -> Iterator[PlannedRun]:
    """The runs of a stitch, one for each variant that matters to it, or what stands for them where it is declined."""
    try:
        model = PART.validate_python(network_of(stitch))
    except Declined as declined:
        for variant, _ in settings:
            yield PlannedRun(names.of(stitch, variant), stitch, variant.seed, variant.values, declined=str(declined))
        return
    if stitch.only_tests:
        images = _taken(stitch.dest, images)
        settings = _tested(settings, images)
    network = model.model_dump(mode="json")
    reference = _reference(stitch, images)
    networks: str | None = None  # the digest of both
    for variant, digest in settings:
        name = names.of(stitch, variant)
        job = Job.model_construct(**{**dict(variant.job), "model": model, "reference": reference})
        looked_at = [m.output for m in job.metrics], [term.output for term in job.train_config.aux_losses]
        made_from = ("network", images, job.unfrozen, job.reformat_options, looked_at, network, stitch.stitcher)
        size = cache.get(made_from, lambda job=job: _size(job, stitch, images))  # type: ignore[misc]
        if isinstance(size, str):
            yield PlannedRun(name, stitch, variant.seed, variant.values, declined=size)
            continue
        networks = networks or network_digest(job)
        run_identity = identity(job, settings=digest, network=networks)
        yield PlannedRun(name, stitch, variant.seed, variant.values, job, run_identity, Cost(**size))


def _tested(settings: list[tuple[Variant, str]], images: Images) -> list[tuple[Variant, str]]:
    """The settings for a network that is only tested: one, unless they differ in what has a part in a test."""
    by_digest: dict[str, Variant] = {}
    for variant, _ in settings:
        tested = evaluation_only(variant, images)
        by_digest.setdefault(settings_digest(tested.job), tested)
    return [(variant, digest) for digest, variant in by_digest.items()]


def _taken(row: StagedModel, images: Images) -> Images:
    """The images that a whole model takes: the sweep's, or as they were made for it if it cannot take those."""
    channels, size = row.stages[0].in_format.channels, row.stages[0].in_format.spatial
    return replace(images, shape=(channels or images.shape[0], *(size or images.shape[1:])))


def _reference(stitch: Stitch, images: Images) -> Any:
    """The destination on its own, with whose predictions those of a stitched network are compared, if it can be."""
    model = whole_model(stitch.dest)
    if model is None or stitch.control == "base" or _taken(stitch.dest, images) != images:
        return None
    return PART.validate_python({"Net": model})


def _of_cells(errors: list[tuple[UserError, Stitch]]) -> UserError:
    """One error for all stitches in which the same is wrong."""
    error, stitch = errors[0]
    if error.path == ("stitchers",):
        others = f" and {len(errors) - 1} other stitches" if len(errors) > 1 else ""
        error.problem = f"{stitch.stitcher} over {list(stitch.gap)}{others}: {error.problem}"
    return error


def _size(job: Job, stitch: Stitch, images: Images) -> dict[str, int] | str:
    """What the network costs, or why the stitch is declined in words."""
    try:
        return asdict(_try_network(job, stitch, images))
    except Declined as declined:
        return str(declined)


def _notes(stitch: Stitch, normalized: tuple[tuple[float, ...], tuple[float, ...]]) -> list[str]:
    (part,) = subnets(stitch.source.stages[:1], frozen=True)
    return normalization_note(model_spec(ModelEntry.model_validate(part["Subnet"])), *normalized)


def _try_network(job: Job, stitch: Stitch, images: Images) -> Cost:
    """The network's cost, from building it on the meta device."""
    options = BuildOptions(
        num_classes=images.num_classes, class_token=job.reformat_options.class_token, unfrozen=job.unfrozen, meta=True
    )
    arriving = Format.of("img", (1, *images.shape))
    try:
        network = build_stitched_network(job.network, arriving, options)
    except UserError as error:
        # At the source's size a destination of fixed size (window attention, a pooled head) may not run at all.
        if stitch.stitcher.endswith("no_downsample"):
            raise Declined(f"the destination does not run at the source's size: {error.problem}") from None
        if stitch.stitcher == LEAST_SQUARES and not job.unfrozen:  # a destination for images of another size
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
            f"{stitch.dest.title} ends with {out}, the data set has {images.num_classes} classes",
            do="End with a model that was trained for these classes (num_classes, ckp_path), its head included.",
            path=(stitch.dest.key,),
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
