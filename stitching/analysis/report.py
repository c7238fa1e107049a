"""The report: one page with the figures to hover and click, and the tables, that needs nothing but a browser."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd
import yaml
from plotly.offline import get_plotlyjs

from stitching.analysis.checks import failed_checks, missing_note
from stitching.analysis.load import known_states, read_results, unfinished_of
from stitching.analysis.markup import Column, chart_section, facts, json_in_page, section, table
from stitching.analysis.plots.charts import Chart
from stitching.analysis.plots.interactive import (
    Study,
    accuracy_by_depth,
    accuracy_by_size,
    by_setting,
    depth_heatmap,
    learning_curves,
    penalty_heatmap,
)
from stitching.analysis.statistics import best_adapters, stitched
from stitching.config.errors import UserError
from stitching.runs.code import package_digest
from stitching.runs.folder import RunFolder, write_whole
from stitching.runs.identity import LEFT_OUT
from stitching.runs.metadata import UnreadableMetadata, text_of
from stitching.runs.step_log import ACCURACY
from stitching.text import escape

__all__ = ["check_output", "make_report", "save_report"]

ProgressCallback = Callable[[int, int, str], None]
_VERSION = re.compile(r"""^ +(\w+): ['"]?([^'"\n]{1,100})""", re.MULTILINE)
_VERSIONS = re.compile(r"^(?:versions|code):\n((?: +.*\n)*)", re.MULTILINE)  # blocks of metadata.yml
_TOLD_VERSIONS = {"torch": "torch", "timm": "timm", "digest": "stitching's code"}


def make_report(folders: Sequence[str | Path], *, on_progress: ProgressCallback = lambda *_: None) -> str:
    """A page (HTML) on the runs below some folders, finished or not: figures, tables, failures, configuration.

    Everything is in the page, plotly.js (4.8 MB) included: it opens without a network.

    Args:
        folders: of a sweep and of its base networks, say.
        on_progress: shows progress, in steps.

    Raises:
        UserError: there is no such folder, or nothing was logged in any of them yet.
    """
    if not folders:
        raise UserError("no folder of runs is given", do="`stitching report FOLDER -o report.html`")
    on_progress(0, 10, "reading the runs")
    results, runs = read_results(folders)
    on_progress(1, 10, "computing measures")
    study = Study(results)
    charts: dict[str, Chart] = {}
    sections: list[tuple[str, str, str]] = []  # key, title, HTML
    for key, title, make in _charts(study):
        on_progress(2 + len(sections), 10, title)
        try:
            charts[key] = make()
            sections.append((key, title, chart_section(key, title, charts[key])))
        except UserError as error:
            sections.append((key, title, section(key, title, _not_drawn(error))))
    tables = [
        ("best", "Best adapter for each gap", _best(study)),
        ("runs", "Runs", _runs_table(study)),
        ("unfinished", "Failed and unfinished runs", _unfinished(runs)),
        ("configuration", "Configuration", _configuration(study, runs)),
    ]
    sections += [(key, title, section(key, title, content)) for key, title, content in tables]
    on_progress(9, 10, "writing the page")
    title = "Stitching report: " + ", ".join(Path(folder).resolve().name for folder in folders)
    made = time.strftime("%Y-%m-%d %H:%M")
    page = files("stitching.analysis") / "page"
    contents = "".join(f'<li><a href="#{key}">{escape(title)}</a></li>' for key, title, _ in sections)
    panels = {
        key: [{"traces": one.traces, "layout": one.layout} for one in chart.panels] for key, chart in charts.items()
    }
    return Template((page / "report.html").read_text()).substitute(
        title=escape(title),
        css=(page / "report.css").read_text(),
        header=_header(title, made, folders, study, runs),
        contents=f"<ul>{contents}</ul>",
        main="\n".join(html for _, _, html in sections),
        footer=f"Made by <code>stitching report</code> on {made}; code {package_digest()}.",
        data=json_in_page({"charts": panels, "runs": _details(study)}),
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


# ------------------------------------------------------------------------ figures


def _charts(study: Study) -> list[tuple[str, str, Callable[[], Chart]]]:
    if stitched(study.ordinary).empty:
        return []
    found: list[tuple[str, str, Callable[[], Chart]]] = [
        ("depth", "Accuracy by destination depth", lambda: accuracy_by_depth(study)),
        (
            "parameters",
            "Accuracy by parameters",
            lambda: accuracy_by_size(study, "parameters", 1e6, "parameters (millions)"),
        ),
        (
            "macs",
            "Accuracy by multiply-adds",
            lambda: accuracy_by_size(study, "macs", 1e9, "multiply-adds for one image (10⁹)"),
        ),
        ("penalty", "Stitching penalty by adapter and gap", lambda: penalty_heatmap(study)),
        ("depths", "Accuracy by source and destination depth", lambda: depth_heatmap(study)),
        ("learning", "Learning curves", lambda: learning_curves(study)),
    ]
    for number, setting in enumerate(study.varied):
        word = setting.split(".")[-1].replace("_", " ")
        name = {"lr": "learning rate"}.get(word, word)
        found.append((f"setting-{number}", f"Accuracy by {name}", lambda key=setting: by_setting(study, key)))  # type: ignore[misc]
    return found


def _not_drawn(error: UserError) -> str:
    return f'<p class="empty">Not drawn: {escape(error.problem)}. {escape(error.do or "")}</p>'


# ------------------------------------------------------------------------ the top of the page


def _header(title: str, made: str, folders: Sequence[str | Path], study: Study, runs: pd.DataFrame) -> str:
    pieces = [f"<h1>{escape(title)}</h1>"]
    failed = failed_checks(study.results)
    if failed:
        items = "".join(f"<li>{escape(sentence)}</li>" for sentence in failed)
        pieces.append(
            f'<div class="alarm" role="alert"><h2>{len(failed)} failed check{"s" * (len(failed) > 1)}: do not trust '
            f"these numbers yet</h2><ul>{items}</ul></div>"
        )
    if missing := missing_note(study.results):
        pieces.append(f'<p class="missing">{escape(missing)}.</p>')
    each = runs.drop_duplicates("run")
    states = Counter(known_states(each))
    order = ("done", "running", "stopped", "failed", "unreadable", "submitted", "missing")
    shown = {state: states[state] for state in order if states[state] or state in ("done", "failed")}
    pieces.append('<ul class="counts">')
    for state, count in shown.items():
        bad = ' class="failed"' if count and state in ("failed", "unreadable") else ""
        pieces.append(f"<li{bad}><b>{count}</b>{state}</li>")
    pieces.append(f"<li><b>{study.seeds}</b>{'seed' if study.seeds == 1 else 'seeds'}</li></ul>")
    bases = int(each["base"].notna().sum())
    controls = int(each["control"].notna().sum()) if "control" in each else 0
    others = [f"{count} of {word}" for count, word in ((bases, "base networks"), (controls, "controls")) if count]
    pairs = [
        ("Folders", ", ".join(str(folder) for folder in folders)),
        ("Runs", f"{len(each)} in all" + (f", {' and '.join(others)}" if others else "")),
        ("Data set", ", ".join(_data_sets(each))),
        ("Versions", _versions(each)),
        ("Made", made),
    ]
    return "\n".join([*pieces, facts(pairs)])


def _data_sets(runs: pd.DataFrame) -> list[str]:
    if "train_config.dataset" in runs:
        return sorted(runs["train_config.dataset"].dropna().astype(str).unique())
    config = _first_config(runs)
    name = (config.get("train_config") or {}).get("dataset")
    return [str(name)] if name else []


def _versions(runs: pd.DataFrame) -> str:
    """The versions with which all runs were made; where they differ, all there are."""
    found: dict[str, set[str]] = {name: set() for name in _TOLD_VERSIONS}
    whole = runs[runs["problem"].isna()]
    for folder, result in zip(whole["folder"], whole["run"], strict=True):
        versions = _versions_of(RunFolder(Path(folder), Path(result).name))
        for name in _TOLD_VERSIONS:
            if name in versions:
                found[name].add(str(versions[name]))
    on_progress = [
        f"{_TOLD_VERSIONS[name]} {next(iter(values)) if len(values) == 1 else 'differs: ' + ', '.join(sorted(values))}"
        for name, values in found.items()
        if values
    ]
    return "; ".join(on_progress)


def _versions_of(place: RunFolder) -> dict[str, str]:
    """These blocks of the metadata: to read all of it for thousands of runs would take many seconds."""
    try:
        blocks = _VERSIONS.findall(text_of(place.metadata))
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


# ------------------------------------------------------------------------ tables


def _best(study: Study) -> str:
    try:
        best = best_adapters(study.ordinary)
    except UserError as error:
        return _not_drawn(error)
    columns = [Column("source"), Column("destination"), Column("blocks dropped"), Column("adapter")]
    names = ["source", "destination", "gap", "adapter", *study.varied]
    columns += [Column(key.split(".")[-1]) for key in study.varied]
    columns += [
        Column("test accuracy", ".4f"),
        Column("95% over seeds: from", ".4f"),
        Column("to", ".4f"),
        Column("seeds", ".0f"),
    ]
    columns += [Column("seeds without a number", ".0f")]
    rows = best[[*names, "mean", "low", "high", "n", "missing"]].itertuples(index=False, name=None)
    caption = (
        "Chosen by validation accuracy (data held out of the training data), means over seeds. The test accuracy had "
        "no part in the choice, so that it is not too good. Intervals are over "
        "seeds of the adapter, base networks fixed."
    )
    return f'<p class="caption">{caption}</p>' + table("best-table", columns, rows, tools=False)


def _runs_table(study: Study) -> str:
    frame, columns = _run_columns(study)
    caption = "Finished and tested runs, base networks and controls among them. Click a head to sort, again to reverse."
    rows = frame.itertuples(index=False, name=None)
    return f'<p class="caption">{caption}</p>' + table("runs-table", columns, rows)


def _run_columns(study: Study) -> tuple[pd.DataFrame, list[Column]]:
    """The finished runs as they are shown, and how."""
    tested = study.tested
    shown: dict[str, tuple[Column, Any]] = {}

    def show(name: str, label: str, form: str | None = None, *, scale: float = 1, long: bool = False) -> None:
        if name in tested and tested[name].notna().any():
            values = tested[name] if form is None else tested[name].astype(float) * scale
            shown[name] = (Column(label, form, long), values)

    tested = tested.assign(
        destination=(tested["destination"] if "destination" in tested else tested["base"]).fillna(tested["base"]),
        adapter=(tested["adapter"] if "adapter" in tested else tested["base"]).where(
            tested["base"].isna(), "(base network)"
        ),
    )
    for name, label in (("source", "source"), ("destination", "destination"), ("gap", "blocks dropped")):
        show(name, label)
    for name in ("adapter", "control"):
        show(name, name)
    show("seed", "seed", ".0f")
    for key in study.varied:
        show(key, key.split(".")[-1], "g" if pd.api.types.is_numeric_dtype(tested[key]) else None)
    show(ACCURACY, "test accuracy", ".4f")
    show("penalty", "penalty (points)", ".2f", scale=100)
    for name in tested.columns:
        if name.startswith(("Overall/Test ", "Overall/Val ")) and name != ACCURACY:
            words = name.removeprefix("Overall/").replace("Val ", "validation ")
            show(name, words[0].lower() + words[1:], ".4f")
    show("parameters", "parameters", ",.0f")
    show("macs", "multiply-adds", ",.0f")
    show("Epoch", "epochs", ".0f")
    show("name", "run", long=True)
    show("folder", "folder", long=True)
    frame = pd.DataFrame({name: values for name, (_, values) in shown.items()}, index=tested.index)
    return frame, [column for column, _ in shown.values()]


def _details(study: Study) -> dict[str, Any]:
    """What a dot tells of its run: as the table, with the name first."""
    frame, columns = _run_columns(study)
    order = sorted(range(len(columns)), key=lambda place: columns[place].label != "run")
    rows = [[_told(columns[place], row[place]) for place in order] for row in frame.itertuples(index=False, name=None)]
    return {"labels": [columns[place].label for place in order], "rows": rows}


def _told(column: Column, value: Any) -> str:
    if pd.isna(value):
        return ""
    return str(value) if column.form is None else f"{float(value):{column.form}}"


def _unfinished(runs: pd.DataFrame) -> str:
    left = unfinished_of(runs)
    if left.empty:
        return '<p class="empty">None: all runs are done.</p>'
    heads = {"gap": None, "seed": ".0f"}
    columns = [
        Column({"reason": "why"}.get(name, name), heads.get(name), long=name in ("name", "reason", "folder"))
        for name in map(str, left.columns)
    ]
    return table("unfinished-table", columns, left.itertuples(index=False, name=None))


def _configuration(study: Study, runs: pd.DataFrame) -> str:
    ours = stitched(runs)
    ours = ours[ours["control"].isna()] if "control" in ours else ours
    config = _first_config(ours)
    if not config:
        return '<p class="empty">No stitched network has its config on record.</p>'
    for key in (*LEFT_OUT, "model", "assembly", "head", "device", "train_config.seed", *study.varied):
        _remove(config, key.split("."))
    pieces = []
    if study.varied:
        rows = [(key, ", ".join(map(str, ours[key].drop_duplicates()))) for key in study.varied]
        pieces.append(
            '<p class="caption">What differs between the stitched networks beside pair, gap, adapter, seed:</p>'
        )
        pieces.append(facts(rows))
    shared = escape(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    pieces.append(f"<details><summary>What all stitched networks share</summary><pre>{shared}</pre></details>")
    return "\n".join(pieces)


def _remove(config: dict[str, Any], keys: Sequence[str]) -> None:
    for key in keys[:-1]:
        config = config.get(key) or {}
    config.pop(keys[-1], None)
