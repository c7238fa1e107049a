"""Figures that are grids of cells: penalties, depths, the best adapters, progress. What is missing is blank."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_letters

import numpy as np
import pandas as pd

from stitching.analysis.checks import missing_note
from stitching.analysis.gap_study import GAP, PAIR, GapStudy, rows_with
from stitching.analysis.plots.cells import CellPanel, Cells, tint
from stitching.analysis.plots.gallery import figure
from stitching.analysis.plots.style import CONTROLS, adapter_look
from stitching.analysis.selection import gaps_in, pairs_in, short_names
from stitching.analysis.statistics import best_adapters, controls, gap_study_rows, grid_runs, stitched
from stitching.analysis.tables import adapters_in
from stitching.config.errors import UserError

__all__ = ["plot_best_adapters", "plot_depths", "plot_penalties", "plot_progress"]

_DEPTHS = ["source_depth", "destination_depth"]
_GAP_LABEL = "blocks dropped (first–last)"
_STATES = [("all done", "#9ccfb9"), ("some done", "#dcefe7"), ("none done yet", "#ececec"), ("some failed", "#f2b08a")]


@figure("penalties", "Stitching penalty by adapter and gap")
def plot_penalties(results: pd.DataFrame) -> Cells:
    """The stitching penalty (percentage points, against the destination), adapter x gap, a panel for each pair.

    Raises:
        UserError: the results hold no base network that is a destination.
    """
    study = GapStudy.of(results)
    if study.finished.empty:
        study.means(GAP)  # says what is missing
    if study.finished["penalty"].isna().all():
        raise UserError(
            "there is no base network of a destination in these results, so nothing to compare with",
            do="Load its folder, too; on the command line: --base FOLDER.",
        )
    means = study.means(GAP, "penalty")
    columns, rows = [_gap_words(gap) for gap in study.gaps], [series.label for series in study.series]
    panels = []
    for pair in study.pairs:
        ours = rows_with(means, PAIR, pair)
        values = np.array([_means_at(series.rows(ours), GAP, study.gaps) for series in study.series]) * 100
        panels.append(_panel(study.title(pair), values, ".1f", rows, columns, "points"))
    note = "Base accuracy of the destination minus stitched accuracy; means of finished runs over seeds."
    note = _with_missing(f"{note} Below 0 the stitched network is the better one.", results)
    return Cells(panels, columns, rows, _GAP_LABEL, "", note, scale="penalty (points)")


@figure("depths", "Accuracy by source and destination depth")
def plot_depths(results: pd.DataFrame) -> Cells:
    """Test accuracy (percent), source depth x destination depth, a panel for each pair and stitcher.

    Raises:
        UserError: the runs do not tell their depths.
    """
    study = GapStudy.of(results)
    means = study.means(_DEPTHS)
    sources, dests = (sorted(means[name].unique()) for name in _DEPTHS)
    depths = [(source, dest) for source in sources for dest in dests]
    rows, columns = [f"{depth:.2f}" for depth in sources], [f"{depth:.2f}" for depth in dests]
    panels = []
    for pair in study.pairs:
        for series in study.series:
            ours = series.rows(rows_with(means, PAIR, pair))
            values = np.array(_means_at(ours, _DEPTHS, depths)).reshape(len(sources), len(dests)) * 100
            if np.isfinite(values).any():
                panels.append(_panel(f"{study.title(pair)}\n{series.label}", values, ".0f", rows, columns, "%"))
    note = "Fractions of the networks' stages; means of finished runs over seeds."
    return Cells(
        panels, columns, rows, "destination depth (left out)", "source depth (used)", _with_missing(note, results),
        scale="test accuracy (%)",
    )  # fmt: skip


@figure("best-adapters", "Best adapter for each gap")
def plot_best_adapters(results: pd.DataFrame) -> Cells:
    """The best adapter of each pair and gap, chosen by validation accuracy, with its test accuracy in percent."""
    pairs, names, gaps = pairs_in(results), short_names(results), gaps_in(stitched(results))
    best = best_adapters(results)
    adapters = adapters_in(best)
    values = np.full((len(pairs), len(gaps)), np.nan)
    texts = [[""] * len(gaps) for _ in pairs]
    words: list[list[str | None]] = [[None] * len(gaps) for _ in pairs]
    for row in best.to_dict("records"):
        y, x = pairs.index((row["source"], row["destination"])), gaps.index(tuple(int(row[name]) for name in GAP))  # type: ignore[arg-type]
        number = adapters.index(row["adapter"])
        values[y, x] = number
        # The letter says it, too: some adapters share a colour.
        texts[y][x] = f"{100 * row['mean']:.1f} {ascii_letters[number % 52]}"
        words[y][x] = f"{row['adapter']}\ntest accuracy {row['mean']:.4f}, {int(row['n'])} seeds"
    colours = [tint(adapter_look(name).colour) for name in adapters]
    labels = [f"{ascii_letters[number % 52]}: {name}" for number, name in enumerate(adapters)]
    note = "Chosen by validation accuracy; the numbers are test accuracies (%)."
    return Cells(
        [CellPanel("", values, texts, words)], [_gap_words(gap) for gap in gaps],
        [f"{names[source]} → {names[dest]}" for source, dest in pairs], _GAP_LABEL, "", _with_missing(note, results),
        categories=[*zip(labels, colours, strict=True)],
    )  # fmt: skip


@figure("progress", "Progress", of_runs=True)
def plot_progress(runs: pd.DataFrame) -> Cells:
    """How many runs of each adapter and gap are done, and where some failed or are missing, a panel for each pair.

    Each control has a row of its own. What drops nothing, as self-stitches do, is in one column, `none`. A grid study
    is a row of its own, too.

    Args:
        runs: as `list_runs` gives them.
    """
    rows = _progress_rows(runs)
    if rows.empty:
        pairs_in(runs)  # says what is missing
    names, columns = (list(dict.fromkeys(rows.sort_values(f"{name}_order")[name])) for name in ("row", "column"))
    panels = []
    for title, ours in rows.groupby("panel", sort=False):
        values = np.full((len(names), len(columns)), np.nan)
        texts = [[""] * len(columns) for _ in names]
        words: list[list[str | None]] = [[None] * len(columns) for _ in names]
        for (name, column), stitch in ours.groupby(["row", "column"]):
            y, x = names.index(name), columns.index(column)
            done, failed, count = int(stitch["done"].sum()), int(stitch["failed"].sum()), len(stitch)
            values[y, x] = 3 if failed else 0 if done == count else 1 if done else 2
            texts[y][x] = f"{done}/{count}"
            words[y][x] = f"{name}, {column}\n{done} of {count} done" + (f", {failed} failed" if failed else "")
        panels.append(CellPanel(str(title), values, texts, words))
    note = "Runs done of runs that there are; blank where the sweep has none."
    return Cells(panels, columns, names, _GAP_LABEL, "", note, categories=_STATES)


def _progress_rows(runs: pd.DataFrame) -> pd.DataFrame:
    """A row for each run: `panel`, `row` and `column` where it is counted, and whether it is `done` or `failed`."""
    runs = runs.assign(done=(runs["state"] == "done") & runs["problem"].isna(), failed=runs["state"] == "failed")
    frames = []
    stitches = gap_study_rows(runs[runs["base"].isna()])
    if len(stitches):
        everything = stitches.drop(columns="control", errors="ignore")  # so that the pairs of controls are among them
        names = short_names(everything)
        kinds = [*CONTROLS, *controls(stitches).get("control", [])]
        labels = {kind: f"control: {CONTROLS.get(kind, kind)}" for kind in kinds}
        control = stitches.get("control", pd.Series(index=stitches.index, dtype=object)).map(labels)
        order = [*adapters_in(stitches[control.isna()]), *dict.fromkeys(labels.values())]
        gaps = sorted(gaps_in(stitches), key=lambda gap: (gap[1] < gap[0], gap))
        frame = stitches.assign(
            panel=[
                f"{names[a]} → {names[b]}" for a, b in zip(stitches["source"], stitches["destination"], strict=True)
            ],
            row=control.fillna(stitches["adapter"]),
            column=[_gap_words((int(a), int(b))) for a, b in stitches[GAP].itertuples(index=False)],
        )
        columns = [*dict.fromkeys(map(_gap_words, gaps))]
        frame = frame.assign(row_order=frame["row"].map(order.index), column_order=frame["column"].map(columns.index))
        frames.append(frame)
    grid = grid_runs(runs)
    if len(grid):
        name = grid["arch"].fillna("").astype(str) if "arch" in grid else ""
        after = {"row_order": len(runs), "column_order": len(runs)}
        frames.append(grid.assign(panel="grid studies", row=name, column="all", **after))
    shown = ["panel", "row", "column", "row_order", "column_order", "done", "failed"]
    return pd.concat([frame[shown] for frame in frames]) if frames else pd.DataFrame(columns=shown)


# ------------------------------------------------------------------------ shared


def _means_at(means: pd.DataFrame, by: Sequence[str], keys: Sequence[tuple[float, ...]]) -> list[float]:
    """The mean for each key (values of the columns `by`), NaN where there is none."""
    mean_of = {tuple(row[:-1]): row[-1] for row in means[[*by, "mean"]].itertuples(index=False, name=None)}
    return [float(mean_of.get(tuple(key), np.nan)) for key in keys]


def _panel(title: str, values: np.ndarray, form: str, rows: list[str], columns: list[str], unit: str) -> CellPanel:
    texts = [[f"{value:{form}}" if np.isfinite(value) else "" for value in row] for row in values]
    words = [
        [f"{rows[y]}, {columns[x]}\n{texts[y][x]} {unit}" if texts[y][x] else None for x in range(len(columns))]
        for y in range(len(rows))
    ]
    return CellPanel(title, values, texts, words)


def _with_missing(note: str, results: pd.DataFrame) -> str:
    missing = missing_note(stitched(results))
    return f"{note} {missing}." if missing else note


def _gap_words(gap: tuple[int, ...]) -> str:
    return f"{gap[0]}–{gap[1]}" if gap[0] <= gap[1] else "none"
