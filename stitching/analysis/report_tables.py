"""The report's tables: the best choices, the runs, what is unfinished, and the configuration."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from stitching.analysis.load import unfinished_of
from stitching.analysis.markup import Column, facts, table
from stitching.analysis.selection import setting_word
from stitching.analysis.statistics import best_adapters, grid_runs, last_epoch, stitched, varied_settings
from stitching.analysis.tables import add_measures, grid_table
from stitching.config.errors import UserError
from stitching.runs.folder import RunFolder
from stitching.runs.identity import LEFT_OUT
from stitching.runs.metadata import UnreadableMetadata, text_of
from stitching.runs.step_log import ACCURACY
from stitching.text import escape

__all__ = ["RunTable", "best_choices", "configuration", "data_sets", "not_drawn", "unfinished", "versions"]

_VERSION = re.compile(r"""^ +(\w+): ['"]?([^'"\n]{1,100})""", re.MULTILINE)
_VERSIONS = re.compile(r"^(?:versions|code):\n((?: +.*\n)*)", re.MULTILINE)  # blocks of metadata.yml
_SHOWN_VERSIONS = {"torch": "torch", "timm": "timm", "digest": "stitching's code"}


def not_drawn(error: UserError) -> str:
    """What is shown instead of something that these runs do not have."""
    return f'<p class="empty">Not here: {escape(error.problem)}. {escape(error.do or "")}</p>'


# ------------------------------------------------------------------------ the best


def best_choices(results: pd.DataFrame) -> str:
    """The best adapter of each gap, and the combinations of grid studies with the best one marked."""
    pieces = []
    if len(stitched(results)) or grid_runs(results).empty:
        try:
            pieces.append(_best_adapters(results))
        except UserError as error:
            pieces.append(not_drawn(error))
    if len(grid_runs(results)):
        pieces.append(_grid_studies(results))
    return "\n".join(pieces)


_INTERVAL = [
    Column("test accuracy", ".4f"), Column("95% over seeds: from", ".4f"), Column("to", ".4f"), Column("seeds", ".0f"),
    Column("seeds without a number", ".0f"),
]  # fmt: skip


def _best_adapters(results: pd.DataFrame) -> str:
    best = best_adapters(results)
    settings = varied_settings(stitched(results))
    columns = [Column("source"), Column("destination"), Column("blocks dropped"), Column("adapter")]
    columns += [*(Column(setting_word(key)) for key in settings), *_INTERVAL]
    names = ["source", "destination", "gap", "adapter", *settings, "mean", "low", "high", "n", "missing"]
    caption = (
        "Chosen by validation accuracy (data held out of the training data), means over seeds. The test accuracy had "
        "no part in the choice, so that it is not too good. Intervals are over "
        "seeds of the adapter, base networks fixed."
    )
    rows = best[names].itertuples(index=False, name=None)
    return f'<p class="caption">{caption}</p>' + table("best-table", columns, rows, tools=False)


def _grid_studies(results: pd.DataFrame) -> str:
    grid = grid_table(results).reset_index()
    numbers = ["mean", "low", "high", "n", "missing", "validation"]
    keys = [name for name in grid.columns if name not in (*numbers, "best")]
    columns = [Column({"arch": "study"}.get(key, setting_word(key))) for key in keys]
    columns += [*_INTERVAL, Column("validation accuracy", ".4f"), Column("best by validation")]
    grid = grid.assign(best=np.where(grid["best"], "best", ""))
    caption = (
        "One job over a grid of settings: a row for each combination, means over seeds. The best is chosen by "
        "validation accuracy alone; data sets are not chosen between."
    )
    rows = grid[[*keys, *numbers, "best"]].itertuples(index=False, name=None)
    return f'<p class="caption">{caption}</p>' + table("grid-table", columns, rows, tools=False)


# ------------------------------------------------------------------------ runs


class RunTable:
    """The finished and tested runs, as the report shows them.

    Attributes:
        frame: the columns that are shown; its index says of each run the row in the table of `load_results` that has
            its last epoch.
        columns: how they are shown.
    """

    def __init__(self, results: pd.DataFrame) -> None:
        self._results = results.assign(**{name: np.nan for name in (ACCURACY,) if name not in results})

    @cached_property
    def _shown(self) -> dict[str, tuple[Column, pd.Series]]:
        measured = add_measures(self._results.assign(result_row=np.arange(len(self._results))))
        tested = last_epoch(measured[measured["state"] == "done"]).set_index("result_row")
        absent = pd.Series(index=tested.index, dtype=object)
        tested = tested.assign(
            destination=tested.get("destination", absent).fillna(tested["base"]),
            adapter=tested.get("adapter", absent).where(tested["base"].isna(), "(base network)"),
        )
        shown: dict[str, tuple[Column, pd.Series]] = {}

        def show(name: str, label: str, form: str | None = None, *, scale: float = 1, is_long: bool = False) -> None:
            if name in tested and tested[name].notna().any():
                values = tested[name] if form is None else tested[name].astype(float) * scale
                shown[name] = (Column(label, form, is_long), values)

        if len(grid_runs(tested)):
            show("arch", "sweep")
        for name, label in (("source", "source"), ("destination", "destination"), ("gap", "blocks dropped")):
            show(name, label)
        for name in ("adapter", "control"):
            show(name, name)
        show("seed", "seed", ".0f")
        for key in varied_settings(self._results):
            show(key, setting_word(key), "g" if pd.api.types.is_numeric_dtype(tested[key]) else None)
        show(ACCURACY, "test accuracy", ".4f")
        show("penalty", "penalty (points)", ".2f", scale=100)
        for name in tested.columns:
            if name.startswith(("Overall/Test ", "Overall/Val ")) and name != ACCURACY:
                words = name.removeprefix("Overall/").replace("Val ", "validation ")
                show(name, words[0].lower() + words[1:], ".4f")
        show("parameters", "parameters", ",.0f")
        show("macs", "multiply-adds", ",.0f")
        show("Epoch", "epochs", ".0f")
        show("name", "run", is_long=True)
        show("folder", "folder", is_long=True)
        return shown

    @cached_property
    def frame(self) -> pd.DataFrame:
        return pd.DataFrame({name: values for name, (_, values) in self._shown.items()})

    @property
    def columns(self) -> list[Column]:
        return [column for column, _ in self._shown.values()]

    def html(self) -> str:
        """The table."""
        caption = (
            "Finished and tested runs, base networks and controls among them. Click a head to sort, again to reverse."
        )
        rows = self.frame.itertuples(index=False, name=None)
        return f'<p class="caption">{caption}</p>' + table("runs-table", self.columns, rows)

    def details(self) -> dict[str, Any]:
        """What a dot says of its run, with the name first; `rows` by the run's row in the results."""
        columns = self.columns
        order = sorted(range(len(columns)), key=lambda number: columns[number].label != "run")
        rows = {
            str(result_row): [escape(_words(columns[number], row[number])) for number in order]
            for result_row, row in zip(self.frame.index, self.frame.itertuples(index=False, name=None), strict=True)
        }
        return {"labels": [columns[number].label for number in order], "rows": rows}


def _words(column: Column, value: Any) -> str:
    if pd.isna(value):
        return ""
    return str(value) if column.form is None else f"{float(value):{column.form}}"


def unfinished(runs: pd.DataFrame) -> str:
    """The runs that are not done, and why."""
    rows = unfinished_of(runs)
    if rows.empty:
        return '<p class="empty">None: all runs are done.</p>'
    forms = {"gap": None, "seed": ".0f"}
    columns = [
        Column({"reason": "why"}.get(name, name), forms.get(name), is_long=name in ("name", "reason", "folder"))
        for name in map(str, rows.columns)
    ]
    return table("unfinished-table", columns, rows.itertuples(index=False, name=None))


# ------------------------------------------------------------------------ configuration


def configuration(runs: pd.DataFrame) -> str:
    """What differs between the runs, and what they share, of stitched networks or else of grid studies."""
    studied, words = stitched(runs), "stitched networks"
    if studied.empty:
        studied, words = grid_runs(runs), "runs"
    config = _first_config(studied)
    if not config:
        return f'<p class="empty">No config of the {words} was saved.</p>'
    varied = varied_settings(studied)
    for key in (*LEFT_OUT, "model", "assembly", "head", "device", "train_config.seed", *varied):
        _remove(config, key.split("."))
    pieces = []
    if varied:
        rows = [(key, ", ".join(map(str, studied[key].drop_duplicates()))) for key in varied]
        pieces.append(f'<p class="caption">What differs between the {words} beside pair, gap, adapter, seed:</p>')
        pieces.append(facts(rows))
    shared = escape(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    pieces.append(f"<details><summary>What all {words} share</summary><pre>{shared}</pre></details>")
    return "\n".join(pieces)


def _remove(config: dict[str, Any], keys: Sequence[str]) -> None:
    for key in keys[:-1]:
        config = config.get(key) or {}
    config.pop(keys[-1], None)


def data_sets(runs: pd.DataFrame) -> list[str]:
    if "train_config.dataset" in runs:
        return sorted(runs["train_config.dataset"].dropna().astype(str).unique())
    config = _first_config(runs)
    name = (config.get("train_config") or {}).get("dataset")
    return [str(name)] if name else []


def versions(runs: pd.DataFrame) -> str:
    """The versions that made the runs; all of them where they differ."""
    values: dict[str, set[str]] = {name: set() for name in _SHOWN_VERSIONS}
    readable = runs[runs["problem"].isna()]
    for folder, result in zip(readable["folder"], readable["run"], strict=True):
        versions_of_run = _versions_of(RunFolder(Path(folder), Path(result).name))
        for name in _SHOWN_VERSIONS:
            if name in versions_of_run:
                values[name].add(str(versions_of_run[name]))
    words = [
        f"{_SHOWN_VERSIONS[name]} {'differs: ' if len(used) > 1 else ''}{', '.join(sorted(used))}"
        for name, used in values.items()
        if used
    ]
    return "; ".join(words)


def _versions_of(folder: RunFolder) -> dict[str, str]:
    """The versions in a run's metadata; only these blocks, as parsing all of it takes seconds for thousands of runs."""
    try:
        blocks = _VERSIONS.findall(text_of(folder.metadata))
    except (OSError, UnreadableMetadata):
        return {}
    return {name: value for block in blocks for name, value in _VERSION.findall(block)}


def _first_config(runs: pd.DataFrame) -> dict[str, Any]:
    """The resolved config of the first run that has one."""
    for folder, result in zip(runs["folder"], runs["run"], strict=True):
        try:
            config = (RunFolder(Path(folder), Path(result).name).read_metadata() or {}).get("config")
        except UserError:
            continue
        if isinstance(config, dict):
            return config
    return {}
