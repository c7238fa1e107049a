"""A sweep's `seeds:` and `grid:`: every combination of their values, and the job's config with one of them.

A value of the grid may bring more with it, as a data set that takes fewer epochs does:

    grid: {train_config.dataset: [digits, {value: cifar10, with: {train_config.epochs: 3}}]}

With `name:` beside `value:` it is called by that name in the names of runs and in tables.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from stitching.config.errors import UserError, at, unknown_name
from stitching.config.job_files import override
from stitching.config.yaml import Document, Keys

__all__ = ["Combination", "GridValue", "applied", "blamed_on_grid", "combinations", "fit_for_a_folder"]

_NOT_TO_VARY = {"save_dir", "metrics_output", "resume_from", "plugins"}  # where results are does not make another run


@dataclass(frozen=True)
class GridValue:
    """A value of one key of the grid, and what else it sets in the job, by dotted keys."""

    value: Any
    number: int  # in the grid's list
    overrides: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None

    @classmethod
    def of(cls, written: Any, number: int) -> GridValue:
        """The value as a sweep has it: plain, or `{value: ..., with: {...}, name: ...}`."""
        if isinstance(written, dict) and "value" in written:
            return cls(written["value"], number, written.get("with") or {}, written.get("name"))
        return cls(written, number)

    @property
    def shown(self) -> Any:
        """What it is called in names, tables and metadata."""
        return self.value if self.name is None else self.name


@dataclass(frozen=True)
class Combination:
    """One seed (None: the job's own) with one value of each key of the grid."""

    seed: int | None
    values: Mapping[str, GridValue]

    @property
    def shown(self) -> dict[str, Any]:
        """The grid's keys with what their values are called."""
        return {key: value.shown for key, value in self.values.items()}


def combinations(grid: Mapping[str, Sequence[Any]], seeds: Sequence[int] | None) -> Iterator[Combination]:
    """Every seed with every combination of the grid's values, the last key varying fastest."""
    columns = [[GridValue.of(value, i) for i, value in enumerate(values)] for values in grid.values()]
    for seed in seeds or (None,):
        for chosen in itertools.product(*columns):
            yield Combination(seed, dict(zip(grid, chosen, strict=True)))


def applied(job: Document, combination: Combination, keys: Collection[str], sweep: Document) -> Document:
    """A copy of the job's config with the combination's seed and values.

    Args:
        job: the config.
        combination: what to set in it.
        keys: those on top that a job has.
        sweep: the file of the grid, which relative paths in it start from.

    Raises:
        UserError: with the key in the sweep, if a key of the grid is none of a job.
    """
    document = type(job)(job.path, _copied(job.data), dict(job.locations))
    if combination.seed is not None:
        override(document, "train_config.seed", combination.seed, sweep.locations.get(("seeds",), ""))
    for key, value in combination.values.items():
        location = sweep.locations.get(("grid", key, value.number), str(sweep.path))
        own: Keys = ("grid", key)
        more = [(dotted, setting, (*own, value.number, "with", dotted)) for dotted, setting in value.overrides.items()]
        for dotted, setting, path in ((key, value.value, own), *more):
            top = dotted.split(".")[0]
            with at(*path):
                if top not in keys or top in _NOT_TO_VARY:
                    raise unknown_name("job key to vary called", dotted, set(keys) - _NOT_TO_VARY)
                try:
                    override(document, dotted, setting, location)
                except UserError as error:
                    raise UserError(f"{'.'.join(map(str, error.path))}: {error.problem}") from None
    return document


@contextmanager
def blamed_on_grid(combination: Combination) -> Iterator[None]:
    """Errors below a key that the grid sets point to the value there, not to the place that it takes in the job."""
    try:
        yield
    except UserError as error:
        path = ".".join(map(str, error.path))
        for key, value in combination.values.items():
            own: Keys = ("grid", key, value.number)
            if path == key and error.problem.startswith("unknown key"):  # whatever its values
                raise UserError(error.problem, allowed=error.allowed, path=("grid", key)) from None
            for dotted, setting, keys in (
                (key, value.shown, own), *((k, v, (*own, "with", k)) for k, v in value.overrides.items())
            ):  # fmt: skip
                if f"{path}.".startswith(f"{dotted}.") or f"{dotted}.".startswith(f"{path}."):
                    raise UserError(
                        f"{setting!r}: {error.problem}", allowed=error.allowed, do=error.do, path=keys
                    ) from None
        raise


def fit_for_a_folder(words: str) -> str:
    """`words` with a dash for each character that has no place in a folder's name."""
    return "".join(c if c.isalnum() or c in "-_.+" else "-" for c in words)


def _copied(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _copied(value) for key, value in data.items()}
    return [_copied(item) for item in data] if isinstance(data, list) else data
