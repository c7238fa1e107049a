"""What the runs of a sweep are called, and so their folders."""

from __future__ import annotations

from collections.abc import Iterable

from stitching.sweeps.stitches import Stitch
from stitching.sweeps.variants import Variant

__all__ = ["Names"]


class Names:
    """What the runs of a sweep are called: by its name, the pair if there are several, the gap, and so on.

    Where all are of one pair, the sweep's name stands for it.

    A seed is part of the name where the sweep lists its seeds, be it one: adding another renames nothing.
    """

    def __init__(self, sweep: str, cells: list[Stitch], *, seeds_named: bool) -> None:
        self.sweep = sweep
        self.labels = _labels(cells)
        self.pairs_named = len({(cell.source.title, cell.dest.title) for cell in cells if not cell.only_tests}) > 1
        self.seeds_named = seeds_named

    def of(self, cell: Stitch, setting: Variant) -> str:
        """The name of the cell's run with a setting."""
        first, last = cell.gap
        source, dest = self.labels[cell.source.title], self.labels[cell.dest.title]
        pair = f"-{source}-to-{dest}" if self.pairs_named else ""
        name = f"train-{self.sweep}{pair}-gap-{first},{last}-adapter-{cell.stitcher}"
        if cell.control == "base":
            name = f"base-{self.sweep}-{dest}"
        elif cell.control == "self":
            name = f"self-{self.sweep}-{dest}-cut-{first}"
        elif cell.control:
            name += f"-control-{cell.control}"
        for key, value in setting.values.items():
            name += "-" + _fit_for_a_folder(f"{key.split('.')[-1]}-{value}")
        return name + (f"-seed-{setting.seed}" if self.seeds_named and not cell.only_tests else "")


def _labels(cells: Iterable[Stitch]) -> dict[str, str]:
    """What each model is called in a run's name."""
    titles = sorted({row.title for cell in cells for row in (cell.source, cell.dest)})
    short = {title: _fit_for_a_folder(title.split("/")[-1]) for title in titles}
    clash = len(set(short.values())) < len(titles)  # timm/resnet50 and torchvision/resnet50
    return {title: _fit_for_a_folder(title) for title in titles} if clash else short


def _fit_for_a_folder(words: str) -> str:
    return "".join(c if c.isalnum() or c in "-_.+" else "-" for c in words)
