"""The figure of cross tests: encoders and heads of fine-tuned networks in all combinations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from stitching.analysis.plots.cells import CellPanel, Cells
from stitching.analysis.plots.gallery import figure
from stitching.analysis.statistics import cross_tests
from stitching.analysis.tables import cross_table

__all__ = ["plot_cross_tests"]


_TITLE = "Encoders with heads of fine-tuned networks"


def _where_there_are_some(results: pd.DataFrame) -> list[tuple[str, dict[str, Any]]]:
    return [(_TITLE, {})] if len(cross_tests(results)) else []


@figure("cross-test", _TITLE, variants=_where_there_are_some)
def plot_cross_tests(results: pd.DataFrame) -> Cells:
    """Test accuracy (percent) of every encoder with every head on the head's data set, a panel for each cross test.

    Raises:
        UserError: no run of a cross test is finished.
    """
    tests = cross_tests(results)
    studies = [str(name) for name in tests["arch"].unique()] if len(tests) else []
    tables = {name: cross_table(tests[tests["arch"] == name]) for name in studies}
    if not tables:
        cross_table(tests)  # says what is missing
    rows = list(dict.fromkeys(row for table in tables.values() for row in table.index))
    heads = list(dict.fromkeys(head for table in tables.values() for head in table.columns))
    panels = [_panel(name, table.reindex(index=rows, columns=heads)) for name, table in tables.items()]
    note = "Each head is tested on the data set that it was trained on; blank where it does not fit or is not done."
    return Cells(panels, heads, rows, "head", "encoder", note, scale="test accuracy (%)")


def _panel(title: str, table: pd.DataFrame) -> CellPanel:
    values = table.to_numpy() * 100
    texts = [[f"{value:.1f}" if np.isfinite(value) else "" for value in row] for row in values]
    heads = list(table.columns)
    words: list[list[str | None]] = [
        [f"encoder {encoder}, head {heads[x]}\n{text} %" if text else None for x, text in enumerate(row)]
        for encoder, row in zip(table.index, texts, strict=True)
    ]
    return CellPanel(title, values, texts, words)
