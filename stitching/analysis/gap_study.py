"""What figures of gap studies are drawn from: pairs, series, base networks, finished runs and controls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from stitching.analysis.selection import gaps_in, pairs_in, series_in, short_names
from stitching.analysis.statistics import gap_study_rows, last_epoch, stitched, summarize, varied_settings
from stitching.analysis.tables import add_measures, base_networks
from stitching.config.errors import UserError
from stitching.runs.step_log import ACCURACY

__all__ = ["GAP", "PAIR", "GapStudy", "rows_with", "shared"]

PAIR = ["source", "destination"]
GAP = ["first_deleted_block", "last_deleted_block"]
_SIZES = ("source_depth", "destination_depth", "parameters", "macs")


class GapStudy:
    """The stitched networks in a table of `load_results`, their base networks and their controls.

    Attributes:
        rows: stitched networks with a pair, gap and adapter, by epoch.
        finished: their finished and tested runs, a row each, with penalties and relative accuracies.
        controls: finished and tested controls; without self-stitches, which are a check of the code.
        series: what is drawn alike.
    """

    def __init__(self, results: pd.DataFrame) -> None:
        absent = {name: np.nan for name in (ACCURACY, "control") if name not in results}
        # `result_row`, a row's number, leads from a figure's mark to its run in the report's table.
        self._results = gap_study_rows(results.assign(**absent, result_row=np.arange(len(results))))
        self.pairs = pairs_in(self._results)
        self.rows = stitched(self._results)
        self.series = series_in(self.rows)

    @cached_property
    def _tested(self) -> pd.DataFrame:
        measured = add_measures(self._results)
        return last_epoch(measured[measured["state"] == "done"])

    @classmethod
    def of(cls, results: pd.DataFrame) -> GapStudy:
        """The study of these results; within `shared` it is made once."""
        shared = _SHARED.get()
        if shared is None or shared[0] is not results:
            return cls(results)
        if len(shared) == 1:
            shared.append(cls(results))
        return shared[1]

    @cached_property
    def finished(self) -> pd.DataFrame:
        runs = stitched(self._tested)
        keys = [*PAIR, *GAP, "adapter", *varied_settings(self.rows), *_SIZES, "penalty", "seed", "state", "result_row"]
        keys += ["run", "name", "base", "control", "epoch", "Epoch", "test_images"]
        numbers = [name for name in runs.columns if name.startswith("Overall/")]
        return runs[[name for name in dict.fromkeys([*keys, *numbers]) if name in runs]]  # few columns are fast

    @cached_property
    def controls(self) -> pd.DataFrame:
        runs = self._tested[self._tested["control"].notna()]
        return runs[runs["control"] != "self"].dropna(subset=ACCURACY)

    @cached_property
    def bases(self) -> pd.DataFrame:
        """As `base_networks` gives them."""
        return base_networks(self._results)

    @cached_property
    def gaps(self) -> list[tuple[int, int]]:
        return gaps_in(self.rows)

    def title(self, pair: tuple[str, str]) -> str:
        names = self._names
        return f"{names[pair[0]]} → {names[pair[1]]}"

    @cached_property
    def _names(self) -> dict[str, str]:
        return short_names(self._results)

    def means(self, by: Sequence[str], value: str = ACCURACY, *, but: str | None = None) -> pd.DataFrame:
        """`summarize` for each pair, adapter and choice of settings (`but` one), and `by`, in the order of `by`.

        Raises:
            UserError: no run tells `value` or one of `by`.
        """
        rows = self.finished if value in self.finished else self.rows
        for name in (value, *by):
            if name not in rows or rows[name].isna().all():
                self._fail(name)
        settings = [key for key in varied_settings(self.rows) if key != but]
        return (
            summarize(rows, [*PAIR, "adapter", *settings, *by], value=value)
            .dropna(subset=list(by))
            .sort_values(list(by))
        )

    def _fail(self, name: str) -> None:
        if self.finished.empty:
            raise UserError("no stitched network has been trained to the end and tested yet")
        raise UserError(f"these runs do not tell {name!r}", do="Run them again: metadata.yml of newer runs has it.")

    def control_means(self, by: Sequence[str], value: str = ACCURACY) -> pd.DataFrame:
        """The mean over seeds of each control, for each pair, adapter, choice of settings and `by`."""
        columns = [*PAIR, "control", "adapter", *varied_settings(self.rows), *by]
        if value not in self.controls or self.controls.empty or not set(by) <= set(self.controls.columns):
            return pd.DataFrame(columns=[*columns, "mean"])
        runs = self.controls.dropna(subset=[value, *by])
        return runs.groupby(columns, sort=False, dropna=False)[value].mean().rename("mean").reset_index()


_SHARED: ContextVar[list[Any] | None] = ContextVar("shared", default=None)  # results, and their study if there is one


@contextmanager
def shared(results: pd.DataFrame) -> Iterator[None]:
    """Within the body all figures of these results, which must not change, are drawn from one study."""
    token = _SHARED.set([results])
    try:
        yield
    finally:
        _SHARED.reset(token)


def rows_with(frame: pd.DataFrame, names: Sequence[str], values: Sequence[Any]) -> pd.DataFrame:
    """The rows whose columns `names` have `values`."""
    is_match = np.ones(len(frame), dtype=bool)
    for name, value in zip(names, values, strict=True):
        is_match &= (frame[name] == value).fillna(False).to_numpy(dtype=bool)
    return frame[is_match]
