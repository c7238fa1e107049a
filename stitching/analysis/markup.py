"""The pieces of the report's HTML: every word from a run is escaped here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from stitching.analysis.plots import Chart
from stitching.text import escape

__all__ = ["Column", "chart_section", "facts", "json_in_page", "section", "table"]


@dataclass(frozen=True)
class Column:
    """A column of a table: its head, the form of its numbers (none: it is text), and whether it may be long."""

    label: str
    form: str | None = None
    is_long: bool = False


def section(key: str, title: str, *content: str) -> str:
    return f'<section id="{key}">\n<h2>{escape(title)}</h2>\n' + "\n".join(content) + "\n</section>"


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and what they stand for."""
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs if value)
    return f'<dl class="facts">{rows}</dl>'


def chart_section(key: str, title: str, chart: Chart) -> str:
    """A figure: its caption, and an empty box for it, which the page's script fills."""
    return section(
        key,
        title,
        f'<p class="caption">{escape(chart.caption)}</p>',
        f'<div class="scroll"><div class="plot" data-chart="{key}" role="img" aria-label="{escape(title)}" '
        f'style="height:{chart.height}px"></div></div>',
    )


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
    return ' class="number"' if column.form is not None else ' class="long"' if column.is_long else ""


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
