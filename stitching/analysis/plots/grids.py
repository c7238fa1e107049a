"""The numbers of the figures that are grids, each in its place: what heatmaps and the report draw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from stitching.analysis.selection import gaps_in, pairs_in, series_in
from stitching.analysis.statistics import last_epoch, stitched, summarize
from stitching.analysis.tables import add_measures
from stitching.config.errors import UserError

__all__ = ["depth_grids", "penalty_grids"]

_GAP = ["first_deleted_block", "last_deleted_block"]
_DEPTHS = ["source_depth", "destination_depth"]
Pair = tuple[str, str]


def penalty_grids(results: pd.DataFrame) -> dict[Pair, np.ndarray]:
    """The stitching penalty in percentage points, against the destination, means over seeds; NaN where there is none.

    Returns:
        For each pair an array (series, gaps), as `series_in` and `gaps_in` order them.

    Raises:
        UserError: the results hold no base network that is a destination.
    """
    measured = stitched(add_measures(last_epoch(results)))
    pairs = pairs_in(results)
    if measured["penalty"].isna().all():
        raise UserError(
            "there is no base network of a destination in these results, so nothing to compare with",
            do="Load its folder, too; on the command line: --base FOLDER.",
        )
    series, gaps = series_in(results), gaps_in(stitched(results))
    grids = {}
    for source, dest in pairs:
        pair = measured[(measured["source"] == source) & (measured["destination"] == dest)]
        grids[source, dest] = np.array([_means(one.rows(pair), _GAP, "penalty", gaps) for one in series]) * 100
    return grids


def depth_grids(results: pd.DataFrame) -> tuple[list[float], list[float], dict[tuple[Pair, str], np.ndarray]]:
    """Test accuracies in percent, means over seeds; NaN where there is none.

    Returns:
        The depths of the sources and of the destinations (fractions), and for each pair and label of a series an array
        (source depths, destination depths).

    Raises:
        UserError: the runs do not tell their depths.
    """
    runs = stitched(results)
    if not set(_DEPTHS) <= set(runs.columns):
        raise UserError(
            "these runs do not tell their depths", do="Run them again: metadata.yml of newer runs has them."
        )
    pairs, series = pairs_in(results), series_in(results)
    sources, dests = (sorted(runs[name].dropna().unique()) for name in _DEPTHS)
    flat = [(s, d) for s in sources for d in dests]
    grids = {}
    for source, dest in pairs:
        pair = runs[(runs["source"] == source) & (runs["destination"] == dest)]
        for one in series:
            found = np.array(_means(one.rows(pair), _DEPTHS, "", flat)) * 100
            grids[(source, dest), one.label] = found.reshape(len(sources), len(dests))
    return sources, dests, grids


def _means(runs: pd.DataFrame, by: Sequence[str], value: str, places: Sequence[tuple[float, ...]]) -> list[float]:
    """The mean over seeds at each place, NaN where there is none."""
    done = runs[runs["state"] == "done"]
    found = summarize(done, by, value=value) if value else summarize(done, by)
    means = {tuple(row[:-1]): row[-1] for row in found[[*by, "mean"]].itertuples(index=False, name=None)}
    return [float(means.get(tuple(place), np.nan)) for place in places]
