"""The schema of a sweep: models, where they are cut, gaps, stitchers, seeds, and the job keys that every run gets."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BeforeValidator, Field, model_validator

from stitching.config.bounds import Blocks, Downsamplings, PathText, Seed
from stitching.config.errors import UserError, shortened
from stitching.config.job_config import JobSettings
from stitching.config.job_files import project_root, read_settings
from stitching.config.parts import ModelFields, PartField
from stitching.config.registries import NameIn
from stitching.config.schema import OrText, Schema, complaint, one_of
from stitching.config.script_text import ScriptText
from stitching.config.yaml import Document

__all__ = ["Gap", "ModelEntry", "StudyKeys", "Sweep", "folder_of", "read_sweep"]

PairField = Annotated[list[str], Field(min_length=2, max_length=2)]
T = TypeVar("T")
Several = Annotated[list[T], Field(min_length=1)]
StitcherName = Annotated[str, NameIn("stitching.sweeps.stitchers:STITCHERS")]


MOST_COMBINATIONS = 10_000  # of seeds and values of the grid


class Gap(Schema):
    """Which blocks of the row are dropped, first and last included, and how many downsamplings lie among them."""

    blocks_to_drop: Annotated[list[Blocks], Field(min_length=2, max_length=2)]
    """The first and the last one, counted from 1: block 0 stays."""
    num_downsamples: Downsamplings | None = None
    """How many downsamplings lie among them; by default it is found out."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        first, last = self.blocks_to_drop
        if not 1 <= first <= last:
            raise complaint(
                f"blocks_to_drop is [{first}, {last}]", "[first, last] with 1 <= first <= last: block 0 stays",
                key="blocks_to_drop",
            )  # fmt: skip
        return self


class GapRule(Schema):
    """All gaps, up to a length."""

    max_dropped: Annotated[Blocks, Field(ge=1)]
    """At most so many blocks are dropped."""


class ModelEntry(ModelFields):
    """A model to stitch, as a name or with its arguments and checkpoint."""

    cut_at: one_of(text=Literal["stages", "blocks"], list=Several[str]) | None = None  # type: ignore[valid-type]
    """Where this model is cut, if not as the sweep's `depths` says."""


def _named_model(value: Any) -> Any:
    return {"model_name": value} if isinstance(value, str) else value


ModelField = Annotated[ModelEntry, BeforeValidator(_named_model), OrText]


class StudyKeys(Schema):
    """The keys of a sweep of any study: seeds, a grid of job keys, and the folder of its runs."""

    seeds: Annotated[list[Seed], Field(min_length=1)] | None = None
    """Seeds of the training; every run is done with each of them. By default `train_config.seed`."""
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    """Dotted job keys with lists of values, such as `train_config.optimizer_args.lr: [1e-3, 2e-3]`; every combination
    is run. A value may be `{value: ..., with: {KEY: ...}, name: ...}`, with other keys that go with it.
    """
    project: ScriptText | None = None
    """Folder of `experiments/` that the runs are in."""
    save_dir: ScriptText | None = None
    """Folder for the runs, instead of experiments/PROJECT."""
    plugins: list[PathText] = []
    """Python files of your own, as in a job."""

    @model_validator(mode="after")
    def _seeds_and_grid(self) -> Self:
        if self.seeds and "train_config.seed" in self.grid:
            raise complaint("seeds are given by `seeds` and by `grid`", "one of them", key="grid")
        if self.project is not None and ("/" in self.project or self.project in ("", ".", "..")):
            raise complaint(f"project is {self.project!r}", "the name of one folder", key="project")
        _check_all_different(self.seeds or [], "seeds", "seeds")
        combinations = prod([len(values) for values in self.grid.values()], start=len(self.seeds or [0]))
        if combinations > MOST_COMBINATIONS:
            raise complaint(
                f"seeds and grid have {combinations:,} combinations", f"at most {MOST_COMBINATIONS:,}", key="grid"
            )
        for key, values in self.grid.items():
            _check_all_different(values, f"grid.{key}", "grid")
            for value in values:
                _check_overrides(key, value)
        return self


def _check_overrides(key: str, value: Any) -> None:
    """Raise for a value of the grid that is neither plain nor `{value: ..., with: {...}, name: ...}`."""
    if not isinstance(value, dict) or "value" not in value:
        if isinstance(value, dict) and "with" in value:
            raise complaint(f"grid.{key} has `with:` without `value:`", "{value: ..., with: {KEY: ...}}", key="grid")
        return
    unknown = sorted(map(str, value.keys() - {"value", "with", "name"}))
    if unknown:
        raise complaint(f"a value of grid.{key} has the key {unknown[0]!r}", "value, with, name", key="grid")
    if not isinstance(value.get("with") or {}, dict):
        raise complaint(f"`with:` of a value of grid.{key} is {shortened(value['with'])}", "KEY: VALUE", key="grid")
    if not isinstance(value.get("name") or "", str):
        raise complaint(f"`name:` of a value of grid.{key} is {shortened(value['name'])}", "text", key="grid")


class Sweep(JobSettings, StudyKeys):
    """A sweep over stitching gaps: stages typed out, or models whose stages are found."""

    src_stages: list[PartField] | None = None
    """Stages of the source, typed out (`Subnet`), together with `dest_stages`."""
    dest_stages: list[PartField] | None = None
    """Stages of the destination."""
    stages: list[PartField] | None = None
    """Stages of a model that is stitched to itself."""
    models: Annotated[list[ModelField], Field(min_length=1)] | None = None
    """Models whose stages are found, by name such as `timm/resnet50.a1_in1k`, or with arguments."""
    pairs: one_of(text=Literal["all", "self", "cross"], list=Several[PairField]) = "all"  # type: ignore[valid-type]
    """Which of the models are stitched to which: `self` to themselves, `cross` to each other, or a list of [source,
    destination].
    """
    depths: one_of(text=Literal["stages", "blocks"], list=Several[str]) = "stages"  # type: ignore[valid-type]
    """Where models are cut: into stages of a resolution, into blocks, or at the modules of a list."""
    gaps: one_of(text=Literal["all"], mapping=GapRule, list=Several[Gap]) = "all"  # type: ignore[valid-type]
    """Which blocks are dropped."""
    stitchers: one_of(text=Literal["default", "all"], list=Several[StitcherName]) = "default"  # type: ignore[valid-type]
    """Recipes that bridge the gaps, by name."""
    controls: list[Literal["self", "random_source", "random_dest", "adapter_only"]] = []
    """Networks to compare with: a model stitched to itself by the identity, a random source, a random destination, and
    the adapter with a head and no destination.
    """
    project: ScriptText = "across-scales"
    """Folder of `experiments/` that the runs are in."""
    save_dir: ScriptText | None = None
    """Folder for the runs, instead of experiments/PROJECT."""

    @model_validator(mode="after")
    def _one_way_to_name_stages(self) -> Self:
        keys = [name for name in ("models", "stages", "src_stages") if getattr(self, name) is not None]
        if len(keys) != 1 or (self.src_stages is None) != (self.dest_stages is None):
            found_keys = ", ".join([*keys, *(["dest_stages"] if self.dest_stages is not None else [])]) or "nothing"
            raise complaint(
                f"the networks are given by {found_keys}",
                "one of: models; stages; src_stages together with dest_stages; or `job:` for a grid over one job",
            )
        for name in ("stages", "src_stages", "dest_stages"):
            for part in getattr(self, name) or []:
                if not part.is_subnet:
                    raise complaint(f"a stage is a {part.kind} here", "Subnet", key=name)
        for name in ("pairs", "depths"):
            if self.models is None and name in self.model_fields_set:
                raise complaint(f"{name} is given, models is not", "pairs and depths with `models:` only", key=name)
        if self.resume_from:
            raise complaint(
                "a checkpoint to resume from is of one run", do="`submit` resumes every run from its own.",
                key="resume_from",
            )  # fmt: skip
        return self

    @model_validator(mode="after")
    def _nothing_twice(self) -> Self:
        gaps = [gap.blocks_to_drop for gap in self.gaps] if isinstance(self.gaps, list) else []
        lists: dict[str, list[Any]] = {"gaps": gaps, "controls": self.controls}
        lists |= {name: value for name in ("pairs", "stitchers") if isinstance(value := getattr(self, name), list)}
        for key, values in lists.items():
            _check_all_different(values, key, key)
        return self


def _check_all_different(values: list[Any], name: str, key: str) -> None:
    for i, value in enumerate(values):
        if value in values[:i]:
            raise complaint(f"{shortened(value)} is repeated in {name}", "each of them once", key=key)


def read_sweep(document: Document) -> Sweep:
    """The document as a sweep. Raises `UserError` with file, line and key if anything is wrong with it."""
    sweep = read_settings(Sweep, document)
    for key in ("data_path", "load_from", "load_head_from"):
        for number, value in enumerate(sweep.grid.get(key, [])):
            # A run is named after its values, so they stay as they are written; elsewhere paths start from the file.
            if isinstance(value, str) and not Path(value).is_absolute():
                raise document.locate(
                    UserError(f"{value!r} is a relative path", allowed="absolute paths", path=("grid", key, number))
                )
    return sweep


def folder_of(sweep: Sweep, path: Path) -> Path:
    """Where the sweep in the file `path` keeps its runs."""
    root = project_root(path.parent) / "experiments" / (sweep.project or "across-scales") / path.stem
    return Path(sweep.save_dir) if sweep.save_dir else root
