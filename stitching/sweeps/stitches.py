"""Stitches: every combination of a pair of models, a gap and a stitcher in a sweep."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from stitching.config.errors import ErrorCollector, UserError, at, unknown_name
from stitching.config.sweep import Gap, Sweep
from stitching.sweeps.plan_cache import PlanCache
from stitching.sweeps.staged_models import Shape, StagedModel, Stitch, declared_row, discovered_row
from stitching.sweeps.stitchers import STITCHERS

__all__ = ["make_stitches"]


def make_stitches(sweep: Sweep, image: Shape, cache: PlanCache) -> list[Stitch]:
    """Every stitch of the sweep for images of shape `image` (C, H, W), in the order of the YAML file.

    Raises:
        UserError: a model cannot be cut as asked, a gap or a declared size does not fit, a name does not exist, or
            nothing is left to stitch; several where there are several.
    """
    mistakes = ErrorCollector()
    names: list[str] = []
    pairs: list[tuple[StagedModel, StagedModel]] = []
    with mistakes.collect():
        names = _stitcher_names(sweep)
    with mistakes.collect():
        pairs = list(_pairs(sweep, image, cache))
        if not pairs:
            raise UserError("no pair is left of the models", allowed="all, self, cross or a list", path=("pairs",))
    stitches = []
    for source, dest in pairs:
        with mistakes.collect():
            gaps = list(_gaps(sweep, source, dest))
            if not gaps:
                raise UserError(
                    f"{source.title} has {len(source.stages)} stages and {dest.title} {len(dest.stages)}: there is no "
                    "gap",
                    do="A gap needs a stage before it, one in it and one behind it; `depths: blocks` cuts finer.",
                    path=("depths",) if sweep.models else (source.key,),
                )
            stitches += [Stitch(source, dest, gap, count, name) for gap, count in gaps for name in names]
    mistakes.raise_all()
    return stitches


def _pairs(sweep: Sweep, image: Shape, cache: PlanCache) -> Iterator[tuple[StagedModel, StagedModel]]:
    if sweep.models is None:
        yield from _declared_pair(sweep, image, cache)
        return
    rows: dict[str, StagedModel] = {}
    mistakes = ErrorCollector()
    for i, entry in enumerate(sweep.models):
        with mistakes.collect():
            if entry.title in rows:
                raise UserError(
                    f"{entry.title} is listed twice", do="Compare two trainings of one model in a sweep each.",
                    path=("models", i),
                )  # fmt: skip
            try:
                rows[entry.title] = discovered_row(entry, entry.cut_at or sweep.depths, image, cache)
            except UserError as error:
                key, *below = error.path or ("",)
                if key == "depths" and entry.cut_at:
                    error.path = ("models", i, "cut_at", *below)
                elif key != "depths":
                    error.path = ("models", i, *error.path)
                raise
    mistakes.raise_all()  # a misspelt model is not reported again where the pairs name it
    if isinstance(sweep.pairs, str):
        for source, dest in itertools.product(rows.values(), repeat=2):
            if sweep.pairs == "all" or (sweep.pairs == "self") == (source is dest):
                yield source, dest
        return
    for i, names in enumerate(sweep.pairs):
        for j, name in enumerate(names):
            with mistakes.collect():
                if name not in rows:
                    raise unknown_name("model in `models`", name, rows, path=("pairs", i, j))
    mistakes.raise_all()
    for names in sweep.pairs:
        yield rows[names[0]], rows[names[1]]


def _declared_pair(sweep: Sweep, image: Shape, cache: PlanCache) -> Iterator[tuple[StagedModel, StagedModel]]:
    rows, mistakes = [], ErrorCollector()
    for key in ("stages",) if sweep.stages is not None else ("src_stages", "dest_stages"):
        with mistakes.collect(), at(key):
            rows.append(declared_row(getattr(sweep, key), image, key, cache))
    mistakes.raise_all()
    yield rows[0], rows[-1]


def _stitcher_names(sweep: Sweep) -> list[str]:
    if isinstance(sweep.stitchers, str):
        return [name for name, entry in STITCHERS.items() if entry.is_default or sweep.stitchers == "all"]
    mistakes = ErrorCollector()
    for i, name in enumerate(sweep.stitchers):
        with mistakes.collect(), at("stitchers", i):
            _ = STITCHERS[name]
    mistakes.raise_all()
    return sweep.stitchers


def _gaps(sweep: Sweep, source: StagedModel, dest: StagedModel) -> Iterator[tuple[tuple[int, int], int]]:
    """The gaps of a pair, each with its number of downsamplings."""
    # A block of the source stays before the gap, and one of the destination behind it.
    last_source, last_dest = len(source.stages) - 1, len(dest.stages) - 2
    if isinstance(sweep.gaps, list):
        mistakes = ErrorCollector()
        for i, gap in enumerate(sweep.gaps):
            with mistakes.collect(), at("gaps", i):
                first, last = gap.blocks_to_drop
                if first > last_source or last > last_dest:
                    raise UserError(
                        f"[{first}, {last}] does not fit: {source.title} has {len(source.stages)} stages, {dest.title} "
                        f"has {len(dest.stages)}",
                        allowed=f"first at most {last_source}, last at most {last_dest}", path=("blocks_to_drop",),
                    )  # fmt: skip
                yield (first, last), _downsamples(gap, source, dest)
        mistakes.raise_all()
        return
    longest = math.inf if isinstance(sweep.gaps, str) else sweep.gaps.max_dropped
    for first in range(1, last_source + 1):
        for last in range(first, last_dest + 1):
            if last - first + 1 <= longest:
                yield (first, last), _downsamples(Gap(blocks_to_drop=[first, last]), source, dest)


def _downsamples(gap: Gap, source: StagedModel, dest: StagedModel) -> int:
    """How many times the image is halved between source and destination; what is declared must be true.

    Rows of one resolution have no downsamplings to count: for them a declared number is how many steps to take.
    """
    first, last = gap.blocks_to_drop
    before, after = source.stages[first - 1].out_format.spatial, dest.stages[last + 1].in_format.spatial
    counted = max(0, round(math.log2(before[0] / after[0]))) if before and after else 0
    declared = gap.num_downsamples
    if declared is None:
        return counted
    inside = [sum(stage.downsamples for stage in row.stages[first : last + 1]) for row in (source, dest)]
    if not (source.isotropic or dest.isotropic) and declared not in (counted, *inside):
        sizes = " becomes ".join("x".join(map(str, size)) if size else "no image" for size in (before, after))
        raise UserError(
            f"{declared} downsamplings declared, but {sizes} between {source.title} and {dest.title}",
            allowed=f"{counted}, or leave it out", path=("num_downsamples",),
        )  # fmt: skip
    return declared
