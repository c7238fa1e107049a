"""The pieces of the report's HTML: every word from a run is escaped here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from stitching.analysis.plots.charts import Chart, Entry
from stitching.text import escape

__all__ = ["Column", "chart_section", "facts", "json_in_page", "section", "table"]

_SHAPES = {  # around 0, 0
    "circle": "M-4.5 0A4.5 4.5 0 1 0 4.5 0A4.5 4.5 0 1 0-4.5 0Z",
    "square": "M-4-4H4V4H-4Z",
    "diamond": "M0-5.5L5.5 0L0 5.5L-5.5 0Z",
    "triangle-up": "M0-5L5 4H-5Z",
    "triangle-down": "M0 5L5-4H-5Z",
    "cross": "M-1.8-5H1.8V-1.8H5V1.8H1.8V5H-1.8V1.8H-5V-1.8H-1.8Z",
    "x": "M-5-2.5L-2.5-5L0-2.5L2.5-5L5-2.5L2.5 0L5 2.5L2.5 5L0 2.5L-2.5 5L-5 2.5L-2.5 0Z",
    "star": "M0-6L1.5-2H6L2.4.7L3.7 5L0 2.4L-3.7 5L-2.4.7L-6-2H-1.5Z",
    "asterisk": "M-4-4L4 4M-4 4L4-4M0-5V5M-5 0H5",
    "x-thin": "M-4-4L4 4M-4 4L4-4",
    "cross-thin": "M0-5V5M-5 0H5",
    "y-up": "M-4 4L0 0L4 4M0 0V-5",
    "hash": "M-5-2H5M-5 2H5M-2-5V5M2-5V5",
}
_DASHES = {"solid": "", "dash": "5 3", "dot": "1.5 2.5", "dashdot": "5 2 1.5 2"}


@dataclass(frozen=True)
class Column:
    """A column of a table: its head, the form of its numbers (none: it is text), and whether it may be long."""

    label: str
    form: str | None = None
    long: bool = False


def section(key: str, title: str, *content: str) -> str:
    return f'<section id="{key}">\n<h2>{escape(title)}</h2>\n' + "\n".join(content) + "\n</section>"


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and what they stand for."""
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs if value)
    return f'<dl class="facts">{rows}</dl>'


def chart_section(key: str, title: str, chart: Chart) -> str:
    """A figure: caption, legend, and a place for each panel, which the page's script fills."""
    legend = "".join(
        f'<li><button type="button" aria-pressed="true" data-chart="{key}" data-group="{escape(entry.group)}">'
        f"{_swatch(entry)}{escape(entry.label)}</button></li>"
        for entry in chart.legend
    )
    pieces = [f'<p class="caption">{escape(chart.caption)}</p>']
    if legend:
        pieces.append(f'<ul class="legend" aria-label="Legend: click to hide">{legend}</ul>')
    if chart.scale:
        low, high, unit = chart.scale
        pieces.append(f'<p class="scale">{low:.1f} <i aria-hidden="true"></i> {high:.1f} {escape(unit)}</p>')
    panels = "".join(
        f'<figure class="panel"><h3>{escape(panel.title)}</h3><div class="scroll">'
        f'<div class="plot" data-chart="{key}" data-panel="{number}" role="img" '
        f'aria-label="{escape(title)}: {escape(panel.title)}" style="height:{panel.layout["height"]}px"></div>'
        f"</div></figure>"
        for number, panel in enumerate(chart.panels)
    )
    pieces.append(
        f'<div class="panels" style="--panel:{max(chart.width, chart.wide)}px;--wide:{chart.wide}px">{panels}</div>'
    )
    return section(key, title, *pieces)


def _swatch(entry: Entry) -> str:
    """What stands before a legend's words: the line and the marker."""
    line = shape = ""
    if entry.dash:
        line = f'<path d="M1 8H29" stroke-dasharray="{_DASHES[entry.dash]}" stroke-width="1.6"/>'
    if entry.symbol:
        inside = "none" if entry.group.startswith("control") else entry.inside
        shape = f'<path transform="translate(15 8)" d="{_SHAPES[entry.symbol]}" fill="{inside}" stroke-width="1.4"/>'
    return f'<svg width="30" height="16" aria-hidden="true" fill="none" stroke="{entry.colour}">{line}{shape}</svg>'


def table(key: str, columns: Sequence[Column], rows: Iterable[Sequence[Any]], *, tools: bool = True) -> str:
    """A table that is sorted by a click on the head of a column, with a filter above it."""
    heads = "".join(
        f'<th scope="col" aria-sort="none"{_kind(column)}><button type="button">{escape(column.label)}</button></th>'
        for column in columns
    )
    body = "\n".join(
        "<tr>" + "".join(_cell(column, value) for column, value in zip(columns, row, strict=True)) + "</tr>"
        for row in rows
    )
    filtering = (
        f'<div class="tools"><label>Filter <input type="search" data-filters="{key}" data-counts="{key}-count" '
        f'placeholder="words, all of which a row has"></label><span id="{key}-count" aria-live="polite"></span></div>'
    )
    return (
        f'{filtering if tools else ""}<div class="rows" tabindex="0" role="region" aria-label="Table">'
        f'<table class="sortable" id="{key}"><thead><tr>{heads}</tr></thead><tbody>\n{body}\n</tbody></table></div>'
    )


def _kind(column: Column) -> str:
    return ' class="number"' if column.form is not None else ' class="long"' if column.long else ""


def _cell(column: Column, value: Any) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return f"<td{_kind(column)}></td>"
    if column.form is not None:
        return f'<td{_kind(column)} data-value="{float(value)!r}">{float(value):{column.form}}</td>'
    return f"<td{_kind(column)}>{escape(str(value))}</td>"


def json_in_page(data: Any) -> str:
    """JSON that can stand in a script element: nothing in it ends the element or begins another."""
    text = json.dumps(_plain(data), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _plain(data: Any) -> Any:
    """Numbers of numpy and pandas as Python's, what is not a number as None; accuracies keep six digits."""
    if isinstance(data, dict):
        return {key: _plain(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_plain(value) for value in data]
    if data is None or data is pd.NA:
        return None
    if isinstance(data, (bool, np.bool_)):
        return bool(data)
    if isinstance(data, (int, np.integer)):
        return int(data)
    if isinstance(data, (float, np.floating)):
        return float(f"{data:.7g}") if math.isfinite(data) else None
    return str(data)
