"""What figures and tables are made of: series (a stitcher with one choice of settings), pairs of networks, gaps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from stitching.analysis.statistics import placed, stitched, varied_settings
from stitching.analysis.tables import adapters_in
from stitching.config.errors import UserError
from stitching.text import printable

__all__ = ["Series", "gaps_in", "pairs_in", "series_in", "short_names", "worded"]

_LINES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Series:
    """What is drawn alike: a stitcher with one choice of the settings that vary."""

    label: str
    adapter: str
    line: str
    number: int  # of the choice of settings
    settings: dict[str, Any]

    def rows(self, results: pd.DataFrame) -> pd.DataFrame:
        """The rows of `results` that belong to it."""
        ours = results["adapter"] == self.adapter
        for key, value in self.settings.items():
            ours &= (results[key] == value) | (pd.isna(value) & results[key].isna())
        return results[ours]


def series_in(results: pd.DataFrame, *, but: str | None = None) -> list[Series]:
    """Each stitcher with each choice of the settings that vary, but one that is shown otherwise."""
    varied = [key for key in varied_settings(results) if key != but]
    runs = stitched(results)
    choices = list(runs[varied].drop_duplicates().itertuples(index=False, name=None)) if varied else [()]
    found = []
    for adapter in adapters_in(runs):
        for number, values in enumerate(choices):
            words = [f"{key.split('.')[-1]}={worded(value)}" for key, value in zip(varied, values, strict=True)]
            settings = dict(zip(varied, values, strict=True))
            one = Series(", ".join([adapter, *words]), adapter, _LINES[number % len(_LINES)], number, settings)
            if not one.rows(runs).empty:
                found.append(one)
    return found


def pairs_in(results: pd.DataFrame) -> list[tuple[str, str]]:
    """The pairs of source and destination, in the order of the rows.

    Raises:
        UserError: no row is of a stitched network with a stitcher.
    """
    runs = stitched(placed(results))
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


def worded(value: Any) -> str:
    """A setting's value as figures show it."""
    if pd.isna(value):
        return "unset"
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return f"{value:g}" if number else printable(str(value))
