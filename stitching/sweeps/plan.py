"""Plans: everything that a sweep will do, computed without touching anything."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from stitching.data.registry import dataset_info
from stitching.nets.cost import Cost, cost
from stitching.nets.formats import Format

from stitching.config.errors import UserError, at, nearest, unknown_name
from stitching.config.identity import identity
from stitching.config.job import Job, JobSettings, project_root
from stitching.config.sweep import Gap, Sweep
from stitching.nets.build import BuildOptions, build_network
from stitching.sweeps.rows import Row, declared_row, discovered_row, subnets
from stitching.sweeps.stitchers import DEFAULT_STITCHERS, STITCHERS, Declined, Joint, stitcher

__all__ = ["Plan", "PlannedRun", "make_plan"]

Told = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Cell:
    """One place in a sweep's table: a pair, a gap and a stitcher."""

    source: Row
    dest: Row
    gap: tuple[int, int]
    num_downsamples: int
    stitcher: str


@dataclass(frozen=True)
class PlannedRun:
    """A run of the plan, or a cell that its stitcher declines (`declined` says why, and there is no job)."""

    name: str
    cell: Cell
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)  # the grid's values
    job: Job | None = None
    cost: Cost | None = None
    trainable: int = 0
    declined: str | None = None
    same_as: str | None = None  # the run of the same network that stands for this one

    @property
    def identity(self) -> str | None:
        """The hash of the resolved config."""
        return identity(self.job) if self.job else None

    def metadata(self, arch: str) -> dict[str, Any]:
        """What the analysis groups by."""
        first, last = self.cell.gap
        return {
            "name": self.name,
            "arch": arch,
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
            **({"macs": self.cost.macs} if self.cost else {}),
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
            "seed": self.seed,
            "settings": self.settings,
            "declined": self.declined is not None,
            "reason": self.declined,
            "same_as": self.same_as,
            "identity": self.identity,
            "parts": self.job.to_yaml()["model"]["Assembly"]["parts"] if self.job else [],
            "parameters": self.cost.params if self.cost else None,
            "trainable_parameters": self.trainable if self.job else None,
            "macs": self.cost.macs if self.cost else None,
        }


@dataclass(frozen=True)
class Plan:
    """A sweep's runs, and the cells that have none."""

    name: str
    folder: Path
    cells: list[PlannedRun]

    @property
    def runs(self) -> list[PlannedRun]:
        """What there is to train: each network once."""
        return [run for run in self.cells if run.job is not None and run.same_as is None]

    @property
    def declined(self) -> list[PlannedRun]:
        return [run for run in self.cells if run.declined is not None]

    def metadata(self, run: PlannedRun) -> dict[str, Any]:
        """What the analysis groups `run` by, with the other cells that it stands for."""
        also = [cell.metadata(self.name) for cell in self.cells if cell.same_as == run.name]
        return run.metadata(self.name) | ({"also": also} if also else {})


def make_plan(sweep: Sweep, path: Path, told: Told | None = None) -> Plan:
    """Everything that the sweep in the file `path` will do; nothing is written, downloaded or submitted.

    Raises:
        UserError: with the keys that lead to it, if the sweep does not fit the models it names.
    """
    image, classes = _images(sweep)
    pairs = list(_pairs(sweep, image))
    names = _stitcher_names(sweep)
    cells = []
    for source, dest in pairs:
        for gap, downsamples in _gaps(sweep, source, dest):
            cells += [Cell(source, dest, gap, downsamples, name) for name in names]
    settings = list(_settings(sweep))
    made: list[PlannedRun] = []
    seen: dict[str, str] = {}
    several_pairs = len({(id(source), id(dest)) for source, dest in pairs}) > 1
    networks: dict[str, tuple[Cost, int]] = {}
    for number, cell in enumerate(cells):
        if told:
            told(number, len(cells), f"{cell.source.label} to {cell.dest.label}, gap {cell.gap}")
        for seed, values in settings:
            name = _name(path.stem, cell, seed, values, sweep, several_pairs)
            try:
                job = _job(sweep, cell, seed, values)
                key = repr(job.to_yaml()["model"])
                if key not in networks:
                    networks[key] = _try_network(job, cell, image, classes)
            except Declined as declined:
                made.append(PlannedRun(name, cell, seed, values, declined=str(declined)))
                continue
            same = seen.setdefault(identity(job), name)
            spent, trainable = networks[key]
            made.append(
                PlannedRun(name, cell, seed, values, job, spent, trainable, same_as=None if same == name else same)
            )
    folder = (
        Path(sweep.save_dir)
        if sweep.save_dir
        else project_root(path.parent) / "experiments" / sweep.project / path.stem
    )
    return Plan(path.stem, folder, made)


def _images(sweep: Sweep) -> tuple[tuple[int, int, int], int | None]:
    """The shape (C, H, W) of the images and the number of classes, from what is known of the data set."""
    config = sweep.train_config
    with at("train_config"):
        infos = [dataset_info(task.dataset, sweep.data_path) for task in config.task_list]
    size = config.data_preprocessing.image_size or infos[0].image_size
    channels = config.data_preprocessing.channels or infos[0].channels
    return (channels, size, size), infos[0].num_classes if len(infos) == 1 else None


def _pairs(sweep: Sweep, image: tuple[int, int, int]) -> Iterator[tuple[Row, Row]]:
    if sweep.models is None:
        if sweep.stages is not None:
            with at("stages"):
                row = declared_row(sweep.stages, image)  # type: ignore[arg-type]
            yield row, row
            return
        with at("src_stages"):
            source = declared_row(sweep.src_stages or [], image)  # type: ignore[arg-type]
        with at("dest_stages"):
            yield source, declared_row(sweep.dest_stages or [], image)  # type: ignore[arg-type]
        return
    rows: dict[str, Row] = {}
    for i, entry in enumerate(sweep.models):
        with at("models", i):
            if entry.title in rows:
                raise UserError(f"{entry.title} is listed twice")
            rows[entry.title] = discovered_row(entry, sweep.depths, image)
    if isinstance(sweep.pairs, str):
        for source, dest in itertools.product(rows.values(), repeat=2):
            if sweep.pairs == "all" or (sweep.pairs == "self") == (source is dest):
                yield source, dest
        return
    for i, names in enumerate(sweep.pairs):
        for j, name in enumerate(names):
            if name not in rows:
                raise unknown_name("model in `models`", name, rows, path=("pairs", i, j))
        yield rows[names[0]], rows[names[1]]


def _stitcher_names(sweep: Sweep) -> list[str]:
    if sweep.stitchers == "default":
        return list(DEFAULT_STITCHERS)
    if sweep.stitchers == "all":
        return list(STITCHERS)
    for i, name in enumerate(sweep.stitchers):
        with at("stitchers", i):
            stitcher(name)
    return list(dict.fromkeys(sweep.stitchers))


def _gaps(sweep: Sweep, source: Row, dest: Row) -> Iterator[tuple[tuple[int, int], int]]:
    """The gaps of a pair, each with its number of downsamplings."""
    last_source, last_dest = len(source.stages) - 1, len(dest.stages) - 2
    if isinstance(sweep.gaps, list):
        for i, gap in enumerate(sweep.gaps):
            with at("gaps", i):
                first, last = gap.blocks_to_drop
                if first > last_source or last > last_dest:
                    raise UserError(
                        f"[{first}, {last}] does not fit {len(source.stages)} source and {len(dest.stages)} destination "
                        "stages",
                        allowed=f"first at most {last_source}, last at most {last_dest}", path=("blocks_to_drop",),
                    )  # fmt: skip
                yield (first, last), _downsamples(gap, source, dest)
        return
    longest = math.inf if sweep.gaps == "all" else sweep.gaps.max_dropped
    for first in range(1, last_source + 1):
        for last in range(first, last_dest + 1):
            if last - first + 1 <= longest:
                yield (first, last), _downsamples(Gap(blocks_to_drop=[first, last]), source, dest)


def _downsamples(gap: Gap, source: Row, dest: Row) -> int:
    """How many times the image is halved between source and destination; what is declared must be true.

    Rows of one resolution have no downsamplings to count: for them a declared number is how many steps to take.
    """
    first, last = gap.blocks_to_drop
    before, after = source.stages[first - 1].out_format.spatial, dest.stages[last + 1].in_format.spatial
    found = max(0, round(math.log2(before[0] / after[0]))) if before and after else 0
    declared = gap.num_downsamples
    if declared is None:
        return found
    inside = [sum(stage.downsamples for stage in row.stages[first : last + 1]) for row in (source, dest)]
    if not (source.isotropic or dest.isotropic) and declared not in (found, *inside):
        raise UserError(
            f"{declared} downsamplings declared, but {before[0] if before else '?'} pixels become "
            f"{after[0] if after else '?'} between {source.title} and {dest.title}",
            allowed=f"{found}, or leave it out", path=("num_downsamples",),
        )  # fmt: skip
    return declared


def _settings(sweep: Sweep) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every seed with every combination of the grid's values."""
    for seed in sweep.seeds or [sweep.train_config.seed]:
        for values in itertools.product(*sweep.grid.values()):
            yield seed, dict(zip(sweep.grid, values, strict=True))


def _job(sweep: Sweep, cell: Cell, seed: int, values: dict[str, Any]) -> Job:
    data = sweep.model_dump(mode="json", include=set(JobSettings.model_fields) - {"save_dir"}, exclude_none=True)
    data["train_config"]["seed"] = seed
    data["model"] = {"Assembly": {"parts": _parts(cell)}}
    with at("grid"):
        for key, value in values.items():
            _set(data, key, value)
        try:
            return Job.model_validate(data)
        except ValidationError as error:
            if not values:
                raise
            details = error.errors(include_url=False)[0]
            words = details.get("ctx", {}).get("problem", details["msg"])
            raise UserError(f"{values}: {'.'.join(map(str, details['loc']))}: {words}") from None


def _set(data: dict[str, Any], dotted: str, value: Any) -> None:
    *inner, last = dotted.split(".")
    if (inner[:1] and inner[0] not in JobSettings.model_fields) or (not inner and last not in JobSettings.model_fields):
        best = nearest(dotted.split(".")[0], JobSettings.model_fields)
        raise UserError(f"there is no job key {dotted!r}; did you mean {best!r}?", path=(dotted,))
    for key in inner:
        data = data.setdefault(key, {})
        if not isinstance(data, dict):
            raise UserError(f"{dotted}: {key} is no mapping", path=(dotted,))
    data[last] = value


def _parts(cell: Cell) -> list[dict[str, Any]]:
    """The network of a cell: src[:a] + adapter + dest[b+1:]."""
    first, last = cell.gap
    front, back = cell.source.stages[:first], cell.dest.stages[last + 1 :]
    recipe = stitcher(cell.stitcher)
    if recipe is None:
        kept = tuple(stage for stage in cell.dest.stages[first : last + 1] if stage.downsamples)
        row = (*front, *kept, *back)
        for left, right in itertools.pairwise(row):
            if left.out_format != right.in_format:
                raise Declined(f"sizes do not meet: {left.out_format} before {right.in_format}")
        return subnets(row, frozen=False)
    bridge = recipe(Joint(front[-1].out_format, back[0].in_format, cell.num_downsamples))
    return [
        *subnets(front, frozen=True),
        *bridge.parts,
        *subnets(back, frozen=True, in_format=bridge.dest_format),
    ]


def _try_network(job: Job, cell: Cell, image: tuple[int, int, int], classes: int | None) -> tuple[Cost, int]:
    """What the job's network costs, counted on the meta device; that it can be built at all is the other result."""
    options = BuildOptions(num_classes=classes, class_token=job.reformat_options.class_token, meta=True)
    arriving = Format("img", image[0], image[1:])
    try:
        network = build_network(job.network, arriving, options)
    except UserError as error:
        # At the source's size a destination of fixed size (window attention, a pooled head) may not run at all.
        if cell.stitcher.endswith("no_downsample"):
            raise Declined(f"the destination does not run at the source's size: {error.problem}") from None
        error.path = ("stitchers",)
        error.problem = f"{cell.stitcher} over {list(cell.gap)}: {error.problem}"
        raise
    trainable = sum(p.numel() for p in network.parameters() if p.requires_grad)
    out = network.out_format
    if classes is not None and (out.channels or 0) < classes:
        raise UserError(
            f"{cell.dest.title} ends with {out}, the data set has {classes} classes", path=("models",),
            do="Name a model that was trained for these classes (num_classes, ckp_path).",
        )  # fmt: skip
    return cost(network, arriving), trainable


def _name(sweep_name: str, cell: Cell, seed: int, values: dict[str, Any], sweep: Sweep, several_pairs: bool) -> str:
    first, last = cell.gap
    pair = f"-{cell.source.label}-to-{cell.dest.label}" if several_pairs else ""
    name = f"train-{sweep_name}{pair}-gap-{first},{last}-adapter-{cell.stitcher}"
    for key, value in values.items():
        words = "".join(c if c.isalnum() or c in "-_.+" else "-" for c in str(value))
        name += f"-{key.split('.')[-1]}-{words}"
    return name + (f"-seed-{seed}" if sweep.seeds and len(sweep.seeds) > 1 else "")
