"""Where the smallest model of every timm family and every torchvision classifier can be cut: docs/cut-points.md.

To write the page again (an hour on two cores; rows that are on the page already are kept, so remove those to renew):

    PYTHONPATH=. python tests/cutting/model_table.py
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import astuple, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from stitching.config.errors import UserError
from stitching.cutting.blocks import Boundary, boundaries
from stitching.cutting.cut_points import CutPoint, TracedModel, cut_points, extract, resolve, trace
from stitching.cutting.graph_passes import main_output
from stitching.cutting.tracing import Shape3
from stitching.models.building import build
from stitching.models.spec import ModelSpec

PAGE = Path(__file__).parents[2] / "docs" / "cut-points.md"
SIDES = (64, 96, 128, 160, 224)  # of images, to save time where a model takes smaller ones than its own
HEADING = (
    "| model | images | blocks | cut | as a tuple | exact | what crosses elsewhere |\n"
    "| --- | --- | --- | --- | --- | --- | --- |\n"
)


@dataclass(frozen=True)
class Row:
    """What the table says of a model. `exact` is yes, no, or why the model cannot be traced."""

    model: str
    image: str
    blocks: str
    cut: str
    tuples: str
    exact: str
    elsewhere: str

    def __str__(self) -> str:
        return "| " + " | ".join(astuple(self)) + " |"


def smallest_models() -> list[str]:
    """The model with the fewest parameters of each module of timm, and all classifiers of torchvision."""
    titles = []
    for module in timm.list_modules():
        if names := timm.list_models(module=module):
            titles.append("timm/" + min(names, key=_num_parameters))
    return [*titles, *(f"torchvision/{name}" for name in torchvision.models.list_models(module=torchvision.models))]


class _WithoutStartValues(TorchDispatchMode):
    """Leaves new weights as they are, which saves most of the time."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func._schema.is_mutable and args else func(*args, **(kwargs or {}))


def _num_parameters(name: str) -> int:
    with torch.device("meta"), _WithoutStartValues():
        return sum(parameter.numel() for parameter in timm.create_model(name).parameters())


def row_of(title: str) -> Row:
    """Cut a model at the ends of all its blocks, and compare the pieces in a row with the model."""
    try:
        traced = trace(without_dropout(build(ModelSpec.parse(title, pretrained=False))))
    except UserError as error:
        return Row(f"`{title}`", "", "", "", "", f"no: {error.problem}", "")
    channels, *own = traced.input_shape
    for side in SIDES:
        if side < min(own):
            with suppress(Exception):  # models raise anything for sizes that they cannot take
                return _row(title, traced, (channels, side, side))
    return _row(title, traced, traced.input_shape)


def _row(title: str, traced: TracedModel, shape: Shape3) -> Row:
    ends = boundaries(traced, shape)
    tuples = tuple_points(traced, ends, shape)
    points = [end.point for end in ends if end.point]
    is_exact = rejoins_exactly(traced, [*points, *tuples], shape)
    numbers = ["x".join(map(str, shape)), *(str(len(row)) for row in (ends, points, tuples))]
    return Row(f"`{title}`", *numbers, "yes" if is_exact else "no", crossings(ends))


def tuple_points(traced: TracedModel, ends: list[Boundary], shape: Shape3) -> list[CutPoint]:
    """The ends of blocks where several values cross, and a cut carries them as a tuple."""
    points = []
    for end in ends:
        if end.point is None:
            with suppress(UserError):
                points.append(resolve(traced, end.block, "output", shape, as_tuple=True))
    return points


def without_dropout(model: nn.Module) -> nn.Module:
    """`model` with all its dropout and stochastic depth at zero."""
    for module in model.modules():
        for name in ("p", "drop_prob", "drop_rate"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


def rejoins_exactly(traced: TracedModel, ends: list[CutPoint], shape: Shape3) -> bool:
    """Whether the pieces between these cut points, in a row, compute what the model computes, in both modes."""
    graph = traced.graphs[False]
    first, *_, last = cut_points(traced, shape)
    by_position = {graph.position[graph.by_name[point.name]]: point for point in [first, *ends, last]}
    points = [by_position[position] for position in sorted(by_position)]
    pieces = [extract(traced, start, end) for start, end in pairwise(points)]
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    for training in (False, True):  # eval first, as train moves the statistics
        value = images
        for piece in pieces:
            value = _run(piece, value, training)
        expected = main_output(None, None, _run(traced.model, images, training))
        if not torch.equal(value.nan_to_num(), expected.nan_to_num()):
            return False
    return True


def _run(model: nn.Module, x: Any, training: bool) -> Any:
    with torch.no_grad():
        return model.train(training)(x)


def crossings(ends: list[Boundary]) -> str:
    """What crosses at the ends that are no cut points: those of the first in full."""
    uncut = [end for end in ends if end.point is None]
    if not uncut:
        return ""
    sizes = ["x".join(map(str, shape)) if shape else "of another kind" for shape in uncut[0].shapes]
    values = [f"`{name}` {size}" for name, size in zip(uncut[0].crossing, sizes, strict=True)]
    more = f", and several at {len(uncut) - 1} more" if len(uncut) > 1 else ""
    return f"{' and '.join(values)} at the end of `{uncut[0].block}`{more}"


def rows_on(page: str) -> dict[str, Row]:
    """The rows of the table on a page, by the model."""
    rows = [Row(*(cell.strip() for cell in line[2:-2].split(" | "))) for line in re.findall(r"^\| `.*$", page, re.M)]
    return {row.model.strip("`"): row for row in rows}


def page_of(rows: list[Row]) -> str:
    """The page with the table."""
    exact = [row for row in rows if row.exact == "yes"]
    single = [row for row in exact if row.cut == row.blocks]
    tuples = [row for row in exact if int(row.cut) + int(row.tuples) == int(row.blocks)]
    counts = [f"{len(part)} ({100 * len(part) / len(rows):.1f}%)" for part in (exact, single, tuples)]
    return _PAGE.format(len(rows), *counts) + HEADING + "\n".join(map(str, rows)) + "\n"


_PAGE = """\
<!-- not run: a table that tests/cutting/test_model_table.py checks -->
# Where models can be cut

The model with the fewest parameters of each of timm's modules, and all classifiers of torchvision: {0} models. {1} of them
rejoin bit for bit, in eval mode and in train mode without dropout, when they are cut at the ends of their blocks. {2} can be
cut at the end of every block with one tensor, {3} if a cut may carry a tuple.

- *blocks*: the repeated modules of the model. A row of modules inside a larger one, most of whose ends are no cut points, is a
  branch of the larger one (the layers of a dense block, say), and the larger one is the block.
- *cut*: at how many of their ends one tensor carries everything that depends on the images' content. What follows from the
  size of the images (sizes, masks, tables of positions) does not count: a piece computes it again. A piece that needs sizes
  which its input does not show is for images of one size (`sized_for`) and refuses others.
- *as a tuple*: at how many more ends several tensors cross (the last column names those of the first such end), and pieces take and
  return them together: `out_format: tuple` of a Subnet and `in_format: tuple` of the next; in Python
  `cut(model, output="blocks.0", as_tuple=True)`.
- *images*: channels and sides of the images that the cuts were tried with.

`stitching inspect MODEL --stages` says the same of any model. To write this page again:
`PYTHONPATH=. python tests/cutting/model_table.py` (an hour on two cores; rows that are there are kept).

"""


def main() -> None:
    """Write the page, row by row."""
    rows = rows_on(PAGE.read_text()) if PAGE.exists() else {}
    titles = smallest_models()
    for number, title in enumerate(titles, 1):
        rows[title] = rows.get(title) or row_of(title)
        print(f"{number}/{len(titles)} {rows[title]}", flush=True)
        PAGE.write_text(page_of([rows[t] for t in titles if t in rows]))


if __name__ == "__main__":
    main()
