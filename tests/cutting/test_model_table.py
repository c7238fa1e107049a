"""The table of docs/cut-points.md: which models rejoin bit for bit, and where they can be cut."""

from __future__ import annotations

import pytest
import timm
import torchvision
from model_table import PAGE, page_of, row_of, rows_on, smallest_models

ROWS = rows_on(PAGE.read_text())


def test_the_table_holds_every_family_and_what_it_promises():
    modules = {name: module for module in timm.list_modules() for name in timm.list_models(module=module)}
    families = [modules[title.removeprefix("timm/")] for title in ROWS if title.startswith("timm/")]
    assert sorted(families) == sorted(set(modules.values()))
    classifiers = {f"torchvision/{name}" for name in torchvision.models.list_models(module=torchvision.models)}
    assert classifiers == {title for title in ROWS if title.startswith("torchvision/")}
    assert PAGE.read_text() == page_of(list(ROWS.values()))
    exact = [row for row in ROWS.values() if row.exact == "yes"]
    everywhere = [row for row in exact if int(row.cut) + int(row.tuples) == int(row.blocks)]
    assert len(exact) >= 0.98 * len(ROWS)
    assert len(everywhere) >= 0.95 * len(ROWS)


@pytest.mark.slow
def test_the_models_are_the_smallest_of_their_families():
    assert smallest_models() == list(ROWS)


@pytest.mark.slow
@pytest.mark.parametrize("title", ROWS)
def test_a_row_of_the_table(title):
    row = row_of(title)
    print(row)
    assert row == ROWS[title]
