"""What tables and figures show: pairs of networks, gaps, and series (what is drawn alike)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from stitching.analysis.statistics import gap_study_rows, grid_runs, stitched, varied_settings
from stitching.analysis.tables import adapters_in
from stitching.config.errors import UserError
from stitching.text import printable

__all__ = ["Series", "gaps_in", "pairs_in", "series_in", "setting_word", "short_names", "worded"]


@dataclass(frozen=True)
class Series:
    """What is drawn alike: a stitcher with one choice of the varied settings; in a grid study the choice alone."""

    adapter: str | None  # None: of a grid study
    number: int  # of the choice of settings
    settings: dict[str, Any]

    @property
    def label(self) -> str:
        """What a legend calls it."""
        return ", ".join(filter(None, (self.adapter, self.choice))) or "all runs"

    @property
    def choice(self) -> str:
        """Its settings in words: `lr=0.01, weight_decay=0.05`."""
        return ", ".join(f"{setting_word(key)}={worded(value)}" for key, value in self.settings.items())

    def rows(self, results: pd.DataFrame) -> pd.DataFrame:
        """The rows of `results` that belong to it."""
        if self.adapter is None:
            results = grid_runs(results)
            is_own = pd.Series(True, index=results.index)
        else:
            is_own = results["adapter"] == self.adapter
        for key, value in self.settings.items():
            is_own &= results[key].isna() if pd.isna(value) else results[key] == value
        return results[is_own]


def series_in(results: pd.DataFrame, *, but: str | None = None) -> list[Series]:
    """Each stitcher with each choice of the varied settings, then each choice of grid studies.

    Args:
        but: a setting that is shown in another way, such as along an axis.
    """
    series = []
    for runs, adapters in ((stitched(results), adapters_in(stitched(results))), (grid_runs(results), [None])):
        varied = [key for key in varied_settings(runs) if key != but]
        choices = _choices(runs, varied) if varied else [()]
        for adapter in adapters:
            for number, values in enumerate(choices):
                candidate = Series(adapter, number, dict(zip(varied, values, strict=True)))
                if not candidate.rows(runs).empty:
                    series.append(candidate)
    return series


def _choices(runs: pd.DataFrame, varied: list[str]) -> list[tuple[Any, ...]]:
    """The values of the varied settings that go together, the most frequent ones first."""
    counts = runs.groupby(varied, dropna=False, sort=False).size().sort_values(ascending=False, kind="stable")
    return list(counts.reset_index()[varied].itertuples(index=False, name=None))


def setting_word(key: str) -> str:
    """The last word of a setting's dotted key: `lr`."""
    return key.split(".")[-1]


def worded(value: Any) -> str:
    """A setting's value as figures show it."""
    if pd.isna(value):
        return "unset"
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return f"{value:g}" if is_number else printable(str(value))


def pairs_in(results: pd.DataFrame) -> list[tuple[str, str]]:
    """The pairs of source and destination, in the order of the rows.

    Raises:
        UserError: no row is of a stitched network with a stitcher.
    """
    runs = stitched(gap_study_rows(results))
    if runs.empty:
        raise UserError("there are no runs of a sweep to draw: none names a source, a destination and a stitcher")
    return list(dict.fromkeys(zip(runs["source"], runs["destination"], strict=True)))


def short_names(results: pd.DataFrame) -> dict[str, str]:
    """What each model is called in a figure: `resnet50`, with as much more of its title as tells it from others."""
    titles = list(dict.fromkeys(title for pair in pairs_in(results) for title in pair))
    for short in (lambda title: title.split("/")[-1].split(".")[0], lambda title: title.split("/")[-1]):
        names = {title: short(title) for title in titles}
        if len(set(names.values())) == len(titles):
            return names
    return {title: title for title in titles}


def gaps_in(runs: pd.DataFrame) -> list[tuple[int, int]]:
    """The gaps (first and last deleted block) in order."""
    gaps = runs[["first_deleted_block", "last_deleted_block"]].dropna().to_numpy()
    return sorted({(int(a), int(b)) for a, b in gaps})
