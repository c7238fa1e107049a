"""The report: one HTML page with interactive figures and tables, which needs nothing but a browser."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

import pandas as pd
from plotly.offline import get_plotlyjs

from stitching.analysis.checks import failed_checks, missing_note
from stitching.analysis.gap_study import shared
from stitching.analysis.load import known_states, read_results
from stitching.analysis.markup import chart_section, facts, json_in_page, section
from stitching.analysis.plots import FIGURES, Chart
from stitching.analysis.report_tables import RunTable, best_choices, configuration, data_sets, unfinished, versions
from stitching.analysis.statistics import grid_runs, stitched
from stitching.config.errors import UserError
from stitching.progress import ProgressCallback
from stitching.runs.code import package_digest
from stitching.runs.folder import write_whole
from stitching.text import escape

__all__ = ["check_output", "make_report", "save_report"]


def make_report(folders: Sequence[str | Path], *, on_progress: ProgressCallback = lambda *_: None) -> str:
    """A page (HTML) on the runs below some folders, finished or not: figures, tables, failures, configuration.

    It has every registered figure that can be drawn of these runs. Everything is in the page, plotly.js (4.8 MB)
    included, so it opens offline.

    Args:
        folders: of a sweep and of its base networks, say.
        on_progress: shows progress, in steps.

    Raises:
        UserError: there is no such folder, or nothing was logged in any of them yet.
    """
    if not folders:
        raise UserError("no folder of runs is given", do="`stitching report FOLDER -o report.html`")
    steps = len(FIGURES) + 3
    on_progress(0, steps, "reading the runs")
    results, runs = read_results(folders)
    charts: dict[str, Chart] = {}
    sections: list[tuple[str, str, str]] = []  # key, title, HTML
    left_out: list[str] = []
    with shared(results):
        for number, name in enumerate(FIGURES):
            on_progress(1 + number, steps, FIGURES[name].title)
            for key, title, drawn in _drawn(name, results, runs):
                if isinstance(drawn, Chart):
                    charts[key] = drawn
                    sections.append((key, title, chart_section(key, title, drawn)))
                else:
                    left_out.append(f"<li>{escape(title)}: {escape(drawn.problem)}. {escape(drawn.do or '')}</li>")
    if left_out:
        content = f'<ul class="empty">{"".join(left_out)}</ul>'
        sections.append(("not-drawn", "Not drawn", section("not-drawn", "Not drawn", content)))
    on_progress(steps - 2, steps, "tables")
    run_table = RunTable(results)
    tables = [
        ("best", "Best choices", best_choices(results)),
        ("runs", "Runs", run_table.html()),
        ("unfinished", "Failed and unfinished runs", unfinished(runs)),
        ("configuration", "Configuration", configuration(runs)),
    ]
    sections += [(key, title, section(key, title, content)) for key, title, content in tables]
    on_progress(steps - 1, steps, "writing the page")
    title = "Stitching report: " + ", ".join(Path(folder).resolve().name for folder in folders)
    now = time.strftime("%Y-%m-%d %H:%M")
    page = files("stitching.analysis") / "page"
    contents = "".join(f'<li><a href="#{key}">{escape(title)}</a></li>' for key, title, _ in sections)
    return Template((page / "report.html").read_text()).substitute(
        title=escape(title),
        css=(page / "report.css").read_text(),
        header=_header(title, now, folders, results, runs),
        contents=f"<ul>{contents}</ul>",
        main="\n".join(html for _, _, html in sections),
        footer=f"Made by <code>stitching report</code> on {now}; code {package_digest()}.",
        data=json_in_page(
            {"charts": {key: chart.as_data() for key, chart in charts.items()}, "runs": run_table.details()}
        ),
        plotly=get_plotlyjs(),
        script=(page / "report.js").read_text(),
    )


def check_output(path: Path) -> None:
    """Raise `UserError` if the page cannot be written to `path`, before time is spent on making it."""
    if path.is_dir():
        raise UserError(f"{path} is a folder", allowed="the name of a file: `-o report.html`")
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent} to write {path.name} to")


def save_report(html: str, path: Path) -> None:
    """Write the page, whole or not at all. Raises `UserError` if that cannot be done."""
    check_output(path)
    write_whole(path, lambda file: file.write(html.encode()))


def _drawn(name: str, results: pd.DataFrame, runs: pd.DataFrame) -> list[tuple[str, str, Chart | UserError]]:
    """A figure with each of its variants: its key in the page, its heading, and what is drawn or why it is not."""
    figure = FIGURES[name]
    drawn: list[tuple[str, str, Chart | UserError]] = []
    for number, (title, options) in enumerate(figure.variants(results)):
        key = f"{name}-{number}" if number else name
        try:
            drawn.append((key, title, figure.numbers(runs if figure.of_runs else results, **options).plotly()))
        except UserError as error:
            drawn.append((key, title, error))
    return drawn


def _header(title: str, now: str, folders: Sequence[str | Path], results: pd.DataFrame, runs: pd.DataFrame) -> str:
    """The top of the page: failed checks, how many runs there are in which state, and of what."""
    pieces = [f"<h1>{escape(title)}</h1>"]
    failed = failed_checks(results)
    if failed:
        items = "".join(f"<li>{escape(sentence)}</li>" for sentence in failed)
        pieces.append(
            f'<div class="alarm" role="alert"><h2>{len(failed)} failed check{"s" * (len(failed) > 1)}: do not trust '
            f"these numbers yet</h2><ul>{items}</ul></div>"
        )
    if missing := missing_note(results):
        pieces.append(f'<p class="missing">{escape(missing)}.</p>')
    unique_runs = runs.drop_duplicates("run")
    states = Counter(known_states(unique_runs))
    order = ("done", "running", "stopped", "failed", "unreadable", "submitted", "missing")
    shown = {state: states[state] for state in order if states[state] or state in ("done", "failed")}
    pieces.append('<ul class="counts">')
    for state, count in shown.items():
        bad = ' class="failed"' if count and state in ("failed", "unreadable") else ""
        pieces.append(f"<li{bad}><b>{count}</b>{state}</li>")
    studied = pd.concat([stitched(results), grid_runs(results)])
    seeds = int(studied["seed"].nunique()) if "seed" in studied else 0
    pieces.append(f"<li><b>{seeds}</b>{'seed' if seeds == 1 else 'seeds'}</li></ul>")
    bases = int(unique_runs["base"].notna().sum())
    controls = int(unique_runs["control"].notna().sum()) if "control" in unique_runs else 0
    others = [f"{count} of {word}" for count, word in ((bases, "base networks"), (controls, "controls")) if count]
    pairs = [
        ("Folders", ", ".join(str(folder) for folder in folders)),
        ("Runs", f"{len(unique_runs)} in all" + (f", {' and '.join(others)}" if others else "")),
        ("Data set", ", ".join(data_sets(unique_runs))),
        ("Versions", versions(unique_runs)),
        ("Made", now),
    ]
    return "\n".join([*pieces, facts(pairs)])
