"""The study `datasets`: a job's config with a list of data sets, which is a grid over the data set of this job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from stitching.config.errors import UserError, UserErrors, shortened
from stitching.config.job_config import Job
from stitching.config.job_files import canonical_key
from stitching.config.schema import one_of
from stitching.config.script_text import ScriptText
from stitching.config.sweep import StudyKeys
from stitching.config.train_config import TrainConfig
from stitching.config.yaml import Document, Keys
from stitching.progress import ProgressCallback
from stitching.sweeps.grid_study import GridStudy
from stitching.sweeps.plan import Plan
from stitching.sweeps.plan_cache import PlanCache
from stitching.sweeps.studies import STUDIES

__all__ = ["DatasetsStudy", "DatasetsSweep"]

_KEY = "train_config.dataset"
_OF_THE_STUDY = set(StudyKeys.model_fields) - {"plugins"}  # the job's own plugins do


class DatasetsSweep(Job, StudyKeys):
    """A job on each of a list of data sets."""

    datasets: Annotated[list[one_of(text=str, mapping=dict[str, Any])], Field(min_length=1)]  # type: ignore[valid-type]
    """Names of data sets, or mappings: `{dataset: NAME, KEY: VALUE}` or `{NAME: {KEY: VALUE}}` with keys that this data
    set has instead, those of the job or of its train_config; mappings are merged. With `name:` a run is called by it.
    """
    project: ScriptText | None = None
    """Folder of `experiments/` that the runs are in."""
    save_dir: ScriptText | None = None
    """Folder for the runs, instead of experiments/PROJECT."""


@STUDIES.register("datasets")
class DatasetsStudy(GridStudy):
    """One job on each of a list of data sets, with what each of them overrides."""

    marks = ("datasets",)
    schema = DatasetsSweep

    def plan(self, document: Document, on_progress: ProgressCallback, cache: PlanCache) -> Plan:
        with _as_grid(document) as grid:
            return super().plan(grid, on_progress, cache)

    def folder(self, document: Document) -> Path:
        with _as_grid(document) as grid:
            return super().folder(grid)


@contextmanager
def _as_grid(document: Document) -> Iterator[Document]:
    """The document as that of a grid study; errors of the body have the keys and lines of the document itself."""
    data: dict[str, Any] = {key: value for key, value in document.data.items() if key in _OF_THE_STUDY}
    data["job"] = {key: value for key, value in document.data.items() if key not in {*_OF_THE_STUDY, "datasets"}}
    own_keys: dict[Keys, Keys] = {}  # in the document, of keys of the grid study
    grid = Document(document.path, data, {})
    try:
        if not isinstance(document.data["datasets"], list) or not document.data["datasets"]:
            raise UserError(
                f"found {shortened(document.data['datasets'])}", allowed="a list of data sets", path=("datasets",)
            )
        own_keys[("grid", _KEY)] = ("datasets",)
        values = [_value(number, entry, own_keys) for number, entry in enumerate(document.data["datasets"])]
        for number, value in enumerate(values):
            if value in values[:number]:
                raise UserError(f"{value['value']} is repeated", allowed="each of them once", path=("datasets", number))
        data["grid"] = {_KEY: values, **(document.data.get("grid") or {})}
        for keys, place in document.locations.items():
            grid.locations[keys if keys[:1] and keys[0] in _OF_THE_STUDY else ("job", *keys)] = place
        for keys, own in own_keys.items():
            grid.locations[keys] = _place(document, own)
        yield grid
    except UserError as error:
        for item in error.errors if isinstance(error, UserErrors) else [error]:
            item.path = _own(item.path, own_keys)
        raise


def _value(number: int, entry: Any, own_keys: dict[Keys, Keys]) -> dict[str, Any]:
    """An entry of `datasets:` as a value of a grid."""
    at: Keys = ("datasets", number)
    if isinstance(entry, str):
        entry = {"dataset": entry}
    elif isinstance(entry, dict) and len(entry) == 1 and isinstance(next(iter(entry.values())), dict | None):
        ((name, more),) = entry.items()
        at = (*at, name)
        entry = {"dataset": name, **(more or {})}
    if not isinstance(entry, dict) or not isinstance(entry.get("dataset"), str):
        raise UserError(
            f"{shortened(entry)} names no data set", path=at,
            allowed="NAME, {dataset: NAME, KEY: VALUE} or {NAME: {KEY: VALUE}}",
        )  # fmt: skip
    own_keys["grid", _KEY, number] = at
    overrides: dict[str, Any] = {}
    for key, value in entry.items():
        if key not in ("dataset", "name"):
            in_training = str(key).split(".")[0] in TrainConfig.model_fields
            _flatten(f"train_config.{key}" if in_training else str(key), value, (*at, key), overrides, own_keys, number)
    named = {"name": entry["name"]} if "name" in entry else {}
    return {"value": entry["dataset"], "with": overrides, **named}


def _flatten(
    key: str, value: Any, own: Keys, overrides: dict[str, Any], own_keys: dict[Keys, Keys], number: int
) -> None:
    """Add a key of an entry to `overrides`: of mappings in train_config each key, so that the others stay."""
    if isinstance(value, dict) and value and key.startswith("train_config"):
        for inner, item in value.items():
            _flatten(f"{key}.{inner}", item, (*own, inner), overrides, own_keys, number)
        return
    key = canonical_key(key)
    overrides[key] = value
    own_keys["grid", _KEY, number, "with", key] = own


def _own(keys: Keys, own_keys: dict[Keys, Keys]) -> Keys:
    """The keys of the document that keys of the grid study come from."""
    if keys[:1] == ("job",):
        return keys[1:]
    for length in range(len(keys), 0, -1):
        if keys[:length] in own_keys:
            return (*own_keys[keys[:length]], *keys[length:])
    return keys


def _place(document: Document, keys: Keys) -> str:
    while keys and keys not in document.locations:
        keys = keys[:-1]
    return document.locations.get(keys, str(document.path))
