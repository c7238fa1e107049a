"""The commands for what runs have left: results, plot, report, collect."""

from __future__ import annotations

from collections import Counter
from math import isnan
from pathlib import Path
from typing import Annotated, Any

import typer

from stitching.cli.console import app, err, out, print_table
from stitching.config.errors import UserError
from stitching.progress import shown_progress

_LISTED = 10  # runs that are not in a table, with the reason


@app.command(epilog="Examples: `stitching results experiments/demo/digits --figure digits.png`")
def results(
    folder: Annotated[Path, typer.Argument(help="A folder of runs.")],
    base: Annotated[
        list[Path] | None, typer.Option("--base", help="The folder of a base network's run; may be repeated.")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Write a figure of accuracy by gap here (.png, .pdf or .svg).")
    ] = None,
) -> None:
    """Print the accuracies of finished runs by pair, gap and stitcher; of cross tests by encoder and head."""
    import pandas as pd

    from stitching.analysis.checks import failed_checks
    from stitching.analysis.load import unfinished_runs
    from stitching.analysis.plots import FIGURES, save_figure
    from stitching.analysis.statistics import cross_tests, gap_study_rows, grid_runs, stitched
    from stitching.analysis.tables import load_bases, load_runs

    runs = load_runs(folder)
    if base:
        runs = pd.concat([runs, load_bases(base)], ignore_index=True)
    if len(stitched(gap_study_rows(runs))) or len(grid_runs(runs)) + len(cross_tests(runs)) == 0:
        _print_stitched(folder, runs)
    if len(grid_runs(runs)):
        _print_grid(folder, runs)
    print_cross_tests(runs)
    _print_left_out(runs, unfinished_runs(folder))
    if figure:
        save_figure(FIGURES["gap"](runs), figure)
        out.print(f"Figure: {figure}", soft_wrap=True)
    _shout(failed_checks(runs))


def _print_stitched(folder: Path, runs: Any) -> None:
    """The accuracies of stitched networks: pairs and gaps below each other, stitchers beside each other."""
    from stitching.analysis.statistics import stitched
    from stitching.analysis.tables import base_networks, stitched_accuracies

    bases = base_networks(runs)["accuracy"].to_dict()
    tables = stitched_accuracies(runs)
    numbers = (table.to_numpy() for table in (tables.mean, tables.low, tables.high, tables.missing))
    rows = []
    for index, *of_row in zip(tables.mean.index, *numbers, strict=True):
        source, dest, *others = index
        alone = [f"{bases[title]:.3f}" if title in bases else "" for title in (source, dest)]
        accuracies = (_number(*of_stitcher) for of_stitcher in zip(*of_row, strict=True))
        rows.append([source, alone[0], dest, alone[1], *map(str, others), *accuracies])
    columns = ["source", "alone", "destination", "alone", *tables.mean.index.names[2:], *tables.mean.columns]
    seeds = stitched(runs)["seed"].nunique()
    title = f"Test accuracy of the stitched networks in {folder}"
    if seeds > 1:
        title += f", means over {seeds} seeds of the adapter, base networks fixed"
    if tables.interval_over:
        title += f", with 95% intervals over {tables.interval_over}"
    print_table(title, columns, rows)


def _print_grid(folder: Path, runs: Any) -> None:
    """The accuracies of grid studies: a row for each combination of settings."""
    from stitching.analysis.selection import setting_word, worded
    from stitching.analysis.tables import grid_table

    table = grid_table(runs).reset_index()
    numbers = ["mean", "low", "high", "n", "missing", "validation", "best"]
    keys = [name for name in table.columns if name not in numbers]
    rows = [
        [
            *(worded(row[key]) for key in keys), _number(row["mean"], row["low"], row["high"], row["missing"]),
            str(row["n"]),
            "" if isnan(row["validation"]) else f"{row['validation']:.3f}", "best" if row["best"] else "",
        ]
        for row in table.to_dict("records")
    ]  # fmt: skip
    columns = ["study" if key == "arch" else setting_word(key) for key in keys]
    columns += ["test accuracy", "seeds", "validation", "chosen"]
    intervals = ", with 95% intervals over seeds" * bool(table["low"].notna().any())
    print_table(f"Test accuracy of the grid studies in {folder}{intervals}, best by validation", columns, rows)


def print_cross_tests(runs: Any) -> None:
    """The accuracies of each cross test: encoders below each other, heads beside each other."""
    from stitching.analysis.statistics import cross_tests
    from stitching.analysis.tables import cross_table

    all_tests = cross_tests(runs)
    for name, tests in all_tests.groupby("arch") if len(all_tests) else ():
        table = cross_table(tests)
        rows = [
            [encoder, *("" if isnan(value) else f"{value:.3f}" for value in values)]
            for encoder, *values in table.itertuples()
        ]
        columns = ["encoder", *(f"head: {head}" for head in table.columns)]
        print_table(f"Test accuracy of {name}: encoders with heads, on the heads' data sets", columns, rows)


def _number(mean: float, low: float, high: float, missing: int) -> str:
    """A mean with its interval, and of how many runs more the test gave no number."""
    number = "" if isnan(mean) else f"{mean:.3f}"
    number += "" if isnan(low) else f" [{low:.3f}, {high:.3f}]"
    return f"{number} ({missing} NaN)".strip() if missing else number


def _print_left_out(finished: Any, unfinished: Any) -> None:
    """What the means are not of: runs that are not done, by state and cause, and finished ones without a number."""
    from stitching.analysis.checks import missing_note

    if note := missing_note(finished):
        out.print(f"note: {note}", soft_wrap=True)
    if not len(unfinished):
        return
    runs = unfinished.reindex(columns=["name", "state", "cause", "reason"]).astype(object).fillna("")
    counts = Counter(
        f"{state} ({cause})" if cause else state for state, cause in zip(runs["state"], runs["cause"], strict=True)
    )
    words = ", ".join(f"{count} {state}" for state, count in counts.items())
    out.print(f"note: not in the table: {words}", soft_wrap=True)
    explained = runs[runs["reason"] != ""]
    for name, reason in explained[["name", "reason"]].head(_LISTED).itertuples(index=False, name=None):
        out.print(f"  {name}: {reason.partition(chr(10))[0]}", soft_wrap=True)
    if len(explained) > _LISTED:
        out.print(f"  and {len(explained) - _LISTED} more: `stitching status` lists them all", soft_wrap=True)


def _shout(failed: list[str]) -> None:
    """Say what is wrong with the numbers, so that it is not overlooked."""
    for sentence in failed:
        err.print(
            f"CHECK FAILED, do not trust these numbers: {sentence}", style="bold red", markup=False, soft_wrap=True
        )


@app.command(
    epilog="Examples: `stitching plot --list`, `stitching plot experiments/demo/digits --figure depth -o depth.pdf`, "
    "`stitching plot FOLDER --base experiments/digits/resnet --figure penalties -o penalties.png`"
)
def plot(
    folders: Annotated[list[Path] | None, typer.Argument(help="Folders of runs, at any depth.")] = None,
    figure: Annotated[str, typer.Option(help="Which figure; --list names them.")] = "gap",
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Write it here (.png, .pdf or .svg; without an ending: PDF and PNG)."),
    ] = Path("figure.png"),
    base: Annotated[
        list[Path] | None, typer.Option("--base", help="The folder of a base network's run; may be repeated.")
    ] = None,
    setting: Annotated[str | None, typer.Option(help="For the figure `setting`: which key, `lr` for example.")] = None,
    names: Annotated[bool, typer.Option("--list", help="List the figures.")] = False,
) -> None:
    """Draw one figure of a folder's runs, finished or not."""
    from stitching.analysis.checks import failed_checks
    from stitching.analysis.load import read_tables
    from stitching.analysis.plots.gallery import FIGURES, draw
    from stitching.analysis.plots.style import save_figure

    if names:
        print_table("Figures", ["name", "shows"], [[name, figure.about] for name, figure in FIGURES.items()])
        return
    if not folders:
        raise UserError("no folder of runs is given", do="`stitching plot FOLDER --figure NAME -o FILE`")
    for path in save_figure(draw(figure, [*folders, *(base or [])], setting=setting), output):
        out.print(f"Figure: {path}", markup=False, soft_wrap=True)
    logged, _ = read_tables([*folders, *(base or [])])  # which is in the cache now, and may be empty
    _shout(failed_checks(logged))


@app.command(
    epilog="""
Examples: `stitching report experiments/demo/digits -o report.html`,
`stitching report FOLDER OTHER --base experiments/digits/resnet --base experiments/digits/vit -o report.html`
"""
)
def report(
    folders: Annotated[list[Path] | None, typer.Argument(help="Folders of runs, at any depth.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Write the page here.")] = Path("report.html"),
    base: Annotated[
        list[Path] | None, typer.Option("--base", help="The folder of a base network's run; may be repeated.")
    ] = None,
) -> None:
    """Write one interactive HTML page about a folder's runs, finished or not.

    It has figures, sortable tables, the failed runs and the configuration, and needs no network.
    """
    from stitching.analysis.checks import failed_checks
    from stitching.analysis.load import load_results
    from stitching.analysis.report import check_output, make_report, save_report

    if not folders:
        raise UserError("no folder of runs is given", do="`stitching report FOLDER -o report.html`")
    check_output(output)
    with shown_progress(err, "steps") as on_progress:
        page = make_report([*folders, *(base or [])], on_progress=on_progress)
    save_report(page, output)
    out.print(f"Report: {output}", markup=False, soft_wrap=True)
    _shout(failed_checks(load_results([*folders, *(base or [])])))


@app.command(
    "collect",
    epilog="Examples: `stitching collect experiments/demo -o all.parquet`, `stitching collect FOLDER -o x.csv --steps`",
)
def collect_runs(
    folder: Annotated[Path, typer.Argument(help="A folder of runs, at any depth.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Write the table here (.parquet or .csv).")],
    steps: Annotated[bool, typer.Option("--steps", help="Write a row for every step, not for every epoch.")] = False,
) -> None:
    """Write everything that runs have logged to one table, a row for each run and epoch."""
    from stitching.analysis.collect import check_ending, save_table
    from stitching.analysis.load import read_results

    check_ending(output)
    table, runs = read_results(folder, steps=steps)
    save_table(table, output)
    for run_folder, reason in runs.dropna(subset="problem").drop_duplicates("run")[["folder", "problem"]].to_numpy():
        err.print(f"left out {run_folder}: {reason}", markup=False, soft_wrap=True)
    out.print(f"{len(table)} rows of {table['run'].nunique()} runs in {output}", markup=False, soft_wrap=True)
