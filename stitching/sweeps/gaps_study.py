"""The study `gaps`: models x gaps x stitchers x controls, every combination a network that is stitched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from stitching.config.errors import ErrorCollector, UserError
from stitching.config.job_config import Job
from stitching.config.parts import PartField
from stitching.config.sweep import ModelEntry, Sweep, folder_of, read_sweep
from stitching.config.yaml import Document
from stitching.cutting.cost import Cost, cost
from stitching.models.building import normalization_note
from stitching.models.traced_models import model_spec
from stitching.progress import ProgressCallback
from stitching.runs.identity import identity, network_digest, part_digest, settings_digest
from stitching.sweeps.grid_values import blamed_on_grid
from stitching.sweeps.names import Names
from stitching.sweeps.networks import controls_of, network_of, whole_model, whole_networks
from stitching.sweeps.plan import Plan, PlannedRun, check_names
from stitching.sweeps.plan_cache import PlanCache
from stitching.sweeps.staged_models import StagedModel, subnets
from stitching.sweeps.stitchers import STITCHERS, Declined
from stitching.sweeps.stitches import Stitch, make_stitches
from stitching.sweeps.studies import STUDIES, Study
from stitching.sweeps.variants import Variant, evaluation_only, make_variants
from stitching.training.job_checks import (
    Images,
    Normalization,
    check_hooked_outputs,
    check_teacher,
    images_of,
    meta_network,
)  # fmt: skip

__all__ = ["PART", "GapsStudy", "StitchRun"]

PART: TypeAdapter[Any] = TypeAdapter(PartField)


@dataclass(frozen=True, kw_only=True)
class StitchRun(PlannedRun):
    """A run of a stitch, or a stitch that its stitcher declines."""

    stitch: Stitch

    @property
    def only_tests(self) -> bool:
        return self.stitch.only_tests

    @property
    def is_check(self) -> bool:
        return self.stitch.control == "self"

    @property
    def subject(self) -> dict[str, Any]:
        stitch, (first, last) = self.stitch, self.stitch.gap
        if stitch.control == "base":
            return {}
        return {
            **({"control": stitch.control} if stitch.control else {}),
            "source": stitch.source.title,
            "destination": stitch.dest.title,
            "first_deleted_block": first,
            "last_deleted_block": last,
            "source_depth": first / len(stitch.source.stages),
            "destination_depth": (last + 1) / len(stitch.dest.stages),
            "num_downsamples": stitch.num_downsamples,
            "adapter": stitch.stitcher,
        }

    @property
    def row(self) -> dict[str, str]:
        source, dest, (first, last) = self.stitch.source.title, self.stitch.dest.title, self.stitch.gap
        control = self.stitch.control
        gap, stitcher = f"{first}-{last}", self.stitch.stitcher + (f" ({control})" if control else "")
        if control == "base":
            source, gap, stitcher = "", "", "alone (only tested)"
        elif control == "self":
            gap, stitcher = f"at {first}", "identity (self, only tested)"
        return {"source": source, "destination": dest, "gap": gap, "stitcher": stitcher}

    @property
    def starts_from(self) -> str:
        return self.stitch.source.title

    @property
    def pace_key(self) -> tuple[str, ...]:
        return self.stitch.source.title, self.stitch.dest.title

    def metadata(self, arch: str) -> dict[str, Any]:
        costs = {"macs": self.cost.macs} if self.cost else {}
        seed = {} if self.stitch.control == "base" else {"seed": self.seed}
        return {"name": self.name, "arch": arch, **self.subject, **seed, **self.settings, **costs}

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "source": self.stitch.source.title,
            "destination": self.stitch.dest.title,
            "gap": list(self.stitch.gap),
            "num_downsamples": self.stitch.num_downsamples,
            "stitcher": self.stitch.stitcher,
            "control": self.stitch.control,
            **super().as_json(),
        }


@STUDIES.register("gaps")
class GapsStudy(Study):
    """How the accuracy of stitched networks falls as more blocks are skipped, and which adapter bridges the gap."""

    marks = ("models", "stages", "src_stages", "dest_stages")
    schema = Sweep
    has_gaps = True

    def plan(self, document: Document, on_progress: ProgressCallback, cache: PlanCache) -> Plan:
        """All wrong models, gaps, names and variants are reported at once; if these are right, all wrong networks."""
        sweep, path = read_sweep(document), document.path
        mistakes = ErrorCollector()
        groups: dict[Images, list[tuple[Variant, str]]] = {}  # each with its digest
        for variant in make_variants(sweep, document, mistakes):
            groups.setdefault(variant.images, []).append((variant, settings_digest(variant.job)))
        stitches = _stitches(sweep, list(groups), cache, mistakes)
        names = Names(path.stem, [stitch for _, stitch in stitches], seeds_named=sweep.seeds is not None)
        first_of: dict[str, str] = {}  # by identity, the name of the run that came first
        entries: list[StitchRun] = []
        wrong: dict[object, list[tuple[UserError, Stitch]]] = {}  # by what is wrong
        notes: dict[str, None] = {}
        for number, (images, stitch) in enumerate(stitches):
            on_progress(number, len(stitches), f"{stitch.source.title} to {stitch.dest.title}, gap {list(stitch.gap)}")
            try:
                for run in _runs_of(stitch, groups[images], images, names, cache):
                    if run.identity is not None:
                        first = first_of.setdefault(run.identity, run.name)
                        run = run if first == run.name else replace(run, same_as=first)
                    entries.append(run)
                for normalized in dict.fromkeys(variant.normalization for variant, _ in groups[images]):
                    notes |= dict.fromkeys(_notes(stitch, normalized))
            except UserError as error:
                wrong.setdefault((error.path, error.problem), []).append((error, stitch))
        for errors in wrong.values():
            with mistakes.collect():
                raise _of_stitches(errors)
        mistakes.raise_all()
        check_names(entries)
        return Plan(path.stem, folder_of(sweep, path), entries, list(notes))

    def folder(self, document: Document) -> Path:
        return folder_of(read_sweep(document), document.path)


def _stitches(
    sweep: Sweep, images_of_variants: list[Images], cache: PlanCache, mistakes: ErrorCollector
) -> list[tuple[Images, Stitch]]:
    """Every stitch for images of each kind, and what they are compared with. Raises all that is wrong so far."""
    stitches = []
    if not images_of_variants:  # no variant is right, and yet the models can be looked at
        with suppress(UserError):
            images_of_variants = [images_of(sweep)]
    for images in images_of_variants:
        with mistakes.collect():
            ordinary = make_stitches(sweep, images.shape, cache)
            compared = [*whole_networks(ordinary), *controls_of(ordinary, sweep.controls)]
            stitches += [(images, stitch) for stitch in (*ordinary, *compared)]
    mistakes.raise_all()
    return stitches


def _runs_of(
    stitch: Stitch, variants: list[tuple[Variant, str]], images: Images, names: Names, cache: PlanCache
) -> Iterator[StitchRun]:
    """The runs of a stitch, one for each variant that matters to it, or what stands for them where it is declined."""
    if stitch.only_tests:
        images = _taken(stitch.dest, images)
        variants = _tested(variants, images)
    try:
        model = PART.validate_python(network_of(stitch))
    except Declined as declined:
        model, reason = None, str(declined)
    reference = _reference(stitch, images)
    network: str | None = None  # the digest of both
    for variant, digest in variants:
        run = StitchRun(name=names.of(stitch, variant), stitch=stitch, seed=variant.seed, settings=variant.values)
        if model is None:
            yield replace(run, declined=reason)
            continue
        job = Job.model_construct(**{**dict(variant.job), "model": model, "reference": reference})
        network = network or network_digest(job)
        with blamed_on_grid(variant.combination):
            if job.lacks_teacher:
                raise _no_teacher(job, stitch, images)
            hooked = [m.output for m in job.metrics], [term.output for term in job.train_config.aux_losses]
            digests = network, part_digest(job.teacher)
            made_from = ("network", images, job.unfrozen, job.reformat_options, hooked, digests, stitch.stitcher)
            size = cache.get(made_from, lambda job=job: _size(job, stitch, images))  # type: ignore[misc]
        if isinstance(size, str):
            yield replace(run, declined=size)
            continue
        yield replace(run, job=job, identity=identity(job, settings=digest, network=network), cost=Cost(**size))


def _tested(variants: list[tuple[Variant, str]], images: Images) -> list[tuple[Variant, str]]:
    """The variants for a network that is only tested: one, unless they differ in what has a part in a test."""
    by_digest: dict[str, Variant] = {}
    for variant, _ in variants:
        tested = evaluation_only(variant, images)
        by_digest.setdefault(settings_digest(tested.job), tested)
    return [(variant, digest) for digest, variant in by_digest.items()]


def _taken(model: StagedModel, images: Images) -> Images:
    """The images that a whole model takes: the sweep's, or as they were made for it if it cannot take those."""
    channels, size = model.stages[0].in_format.channels, model.stages[0].in_format.spatial
    return replace(images, shape=(channels or images.shape[0], *(size or images.shape[1:])))


def _reference(stitch: Stitch, images: Images) -> Any:
    """The destination on its own, with whose predictions those of a stitched network are compared, if it can be."""
    model = whole_model(stitch.dest)
    if model is None or stitch.control == "base" or _taken(stitch.dest, images) != images:
        return None
    return PART.validate_python({"Net": model})


def _no_teacher(job: Job, stitch: Stitch, images: Images) -> UserError:
    """Of a job that would learn from its destination, and cannot (`_reference`)."""
    assert job.objective is not None
    name, dest = job.objective.registered_name, stitch.dest
    if whole_model(dest) is None:
        reason = "its stages are not those of one whole model"
    else:
        theirs, ours = ("x".join(map(str, shape)) for shape in (_taken(dest, images).shape, images.shape))
        reason = f"it takes images of {theirs}, and these are of {ours}"
    return UserError(
        f"no teacher is named, and {dest.title}, the destination, cannot be it: {reason}",
        allowed=f"`{name}: {{teacher: NAME}}`, a network for the sweep's images", path=("objective", name),
    )  # fmt: skip


def _of_stitches(errors: list[tuple[UserError, Stitch]]) -> UserError:
    """One error for all stitches in which the same is wrong."""
    error, stitch = errors[0]
    if error.path == ("stitchers",):
        others = f" and {len(errors) - 1} other stitches" if len(errors) > 1 else ""
        error.problem = f"{stitch.stitcher} over {list(stitch.gap)}{others}: {error.problem}"
    return error


def _size(job: Job, stitch: Stitch, images: Images) -> dict[str, int] | str:
    """What the network costs, or why the stitch is declined in words."""
    try:
        network = meta_network(job, images)
    except UserError as error:
        recipe = STITCHERS[stitch.stitcher] if not stitch.only_tests else None
        if recipe and recipe.at_source_size:  # window attention, a pooled head: not every destination runs at all
            return f"the destination does not run at the source's size: {error.problem}"
        if recipe and recipe.is_fitted and not job.unfrozen:  # a destination for images of another size
            return error.problem
        error.path = ("stitchers",)
        raise
    check_hooked_outputs(network, job, images)
    check_teacher(job, network, images)
    out, classes = network.out_format, images.num_classes or 0
    if out.kind != "vector" or (out.channels or 0) < classes:
        raise UserError(
            f"{stitch.dest.title} ends with {out}, the data set has {classes} classes",
            do="End with a model that was trained for these classes (num_classes, ckp_path), its head included.",
            path=(stitch.dest.key,),
        )  # fmt: skip
    return asdict(cost(network, images.format))


def _notes(stitch: Stitch, normalized: Normalization) -> list[str]:
    (part,) = subnets(stitch.source.stages[:1], frozen=True)
    return normalization_note(model_spec(ModelEntry.model_validate(part["Subnet"])), *normalized)
