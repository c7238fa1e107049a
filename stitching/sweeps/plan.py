"""Plans: everything that a sweep will do, computed without touching anything."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from stitching.config.errors import UserError
from stitching.config.identity import identity
from stitching.config.job import Job, project_root
from stitching.config.sweep import Sweep
from stitching.nets.build import BuildOptions, build_network, first_model
from stitching.nets.cost import Cost, cost
from stitching.nets.formats import Format
from stitching.nets.zoo import normalization_note
from stitching.sweeps.cells import Cell, make_cells
from stitching.sweeps.rows import subnets
from stitching.sweeps.settings import Images, Setting, make_settings
from stitching.sweeps.stitchers import Declined, Joint, stitcher
from stitching.training.files import RunFolder
from stitching.training.network_outputs import TappedOutputs

__all__ = ["Cell", "Plan", "PlannedRun", "Told", "make_plan"]

Told = Callable[[int, int, str], None]


@dataclass(frozen=True)
class PlannedRun:
    """A run of the plan, or a cell that its stitcher declines (`declined` says why, and there is no job)."""

    name: str
    cell: Cell
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)  # the grid's values
    job: Job | None = None
    identity: str | None = None  # the hash of the resolved config
    cost: Cost | None = None
    trainable: int = 0
    declined: str | None = None
    same_as: str | None = None  # the run of the same network that stands for this one

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


def make_plan(sweep: Sweep, path: Path, told: Told | None = None) -> Plan:
    """Everything that the sweep in the file `path` will do; nothing is written, downloaded or submitted.

    Raises:
        UserError: with the keys that lead to it, if the sweep does not fit the models it names.
    """
    settings = make_settings(sweep)
    cells = {images: make_cells(sweep, images.shape) for images in dict.fromkeys(each.images for each in settings)}
    labels = _labels(cell for found in cells.values() for cell in found)
    total = sum(map(len, cells.values()))
    networks: dict[str, tuple[Cost, int]] = {}
    first_of: dict[str, str] = {}  # by identity, the name of the run that came first
    made: list[PlannedRun] = []
    notes: list[str] = []
    for number, (images, cell) in enumerate((images, cell) for images, found in cells.items() for cell in found):
        if told:
            told(number, total, f"{cell.source.title} to {cell.dest.title}, gap {list(cell.gap)}")
        for setting in (each for each in settings if each.images == images):
            name = _name(path.stem, cell, setting, labels, several_seeds=len(sweep.seeds or []) > 1)
            try:
                job = Job.model_validate({**setting.data, "model": {"Assembly": {"parts": _parts(cell)}}})
                looked_at = [m.output for m in job.metrics], [term.output for term in job.train_config.aux_losses]
                key = repr((images, job.unfrozen, looked_at, job.to_yaml()["model"]))
                if key not in networks:
                    networks[key] = _try_network(job, cell, images)
            except Declined as declined:
                made.append(PlannedRun(name, cell, setting.seed, setting.values, declined=str(declined)))
                continue
            if first_in_line := first_model(job.network):
                notes += normalization_note(first_in_line, *setting.normalization)
            known_as = identity(job)
            first = first_of.setdefault(known_as, name)
            made.append(
                PlannedRun(
                    name, cell, setting.seed, setting.values, job, known_as, *networks[key],
                    same_as=None if first == name else first,
                )
            )  # fmt: skip
    _all_named_differently(made)
    root = project_root(path.parent) / "experiments" / sweep.project / path.stem
    return Plan(path.stem, Path(sweep.save_dir) if sweep.save_dir else root, made, list(dict.fromkeys(notes)))


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


def _try_network(job: Job, cell: Cell, images: Images) -> tuple[Cost, int]:
    """The network's cost and trainable parameters, from building it on the meta device."""
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
        error.path = ("stitchers",)
        error.problem = f"{cell.stitcher} over {list(cell.gap)}: {error.problem}"
        raise
    tapped = TappedOutputs(network, job)
    if tapped.names:
        network.eval()(torch.zeros(arriving.shape(1), device="meta"))
        tapped.check()
    trainable = sum(p.numel() for p in network.parameters() if p.requires_grad)
    out = network.out_format
    if out.kind != "vector" or (out.channels or 0) < images.num_classes:
        raise UserError(
            f"{cell.dest.title} ends with {out}, the data set has {images.num_classes} classes",
            do="End with a model that was trained for these classes (num_classes, ckp_path), its head included.",
            path=(cell.dest.key,),
        )  # fmt: skip
    return cost(network, arriving), trainable


# ------------------------------------------------------------------------ names


def _name(sweep_name: str, cell: Cell, setting: Setting, labels: dict[str, str], *, several_seeds: bool) -> str:
    first, last = cell.gap
    pair = f"-{labels[cell.source.title]}-to-{labels[cell.dest.title]}" if labels else ""
    name = f"train-{sweep_name}{pair}-gap-{first},{last}-adapter-{cell.stitcher}"
    for key, value in setting.values.items():
        name += f"-{key.split('.')[-1]}-{_fit_for_a_folder(str(value))}"
    return name + (f"-seed-{setting.seed}" if several_seeds else "")


def _labels(cells: Iterable[Cell]) -> dict[str, str]:
    """What each model is called in a run's name; nothing if all runs are of one pair, whose name the sweep has."""
    pairs = {(cell.source.title, cell.dest.title) for cell in cells}
    if len(pairs) < 2:
        return {}
    titles = sorted({title for pair in pairs for title in pair})
    short = {title: _fit_for_a_folder(title.split("/")[-1]) for title in titles}
    clash = len(set(short.values())) < len(titles)  # timm/resnet50 and torchvision/resnet50
    return {title: _fit_for_a_folder(title) for title in titles} if clash else short


def _fit_for_a_folder(words: str) -> str:
    return "".join(c if c.isalnum() or c in "-_.+" else "-" for c in words)


def _all_named_differently(runs: list[PlannedRun]) -> None:
    seen = set()
    for run in runs:
        if run.name in seen:
            raise UserError(
                f"two runs would share the folder {run.name}",
                do="Choose values of the grid that differ in letters and digits.", path=("grid",),
            )  # fmt: skip
        seen.add(run.name)
