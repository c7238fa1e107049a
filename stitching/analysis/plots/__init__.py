"""Figures of results.

A figure is a function from the tidy table to the numbers drawn (`Lines`, `Cells`, or an object of your own), registered
with `@figure`. The numbers know how matplotlib and plotly draw them; the command `plot`, Python, the notebooks and the
report read the registry `FIGURES`. The modules imported last are the families of figures, in the order of the gallery.
"""

from stitching.analysis.plots.cells import CellPanel, Cells
from stitching.analysis.plots.chart import AxisScale, Chart
from stitching.analysis.plots.gallery import FIGURES, draw, figure
from stitching.analysis.plots.lines import Line, LinePanel, Lines, Reference
from stitching.analysis.plots.style import Look, adapter_look, save_figure

from stitching.analysis.plots import accuracy, curves, heatmaps, cross_tests  # noqa: F401  # isort: skip

__all__ = [
    "FIGURES", "AxisScale", "CellPanel", "Cells", "Chart", "Line", "LinePanel", "Lines", "Look", "Reference",
    "adapter_look", "draw", "figure", "save_figure",
]  # fmt: skip
