"""What the runs of a sweep are called, and so their folders."""

from __future__ import annotations

from collections.abc import Iterable

from stitching.sweeps.grid_values import fit_for_a_folder
from stitching.sweeps.staged_models import Stitch
from stitching.sweeps.variants import Variant

__all__ = ["Names"]


class Names:
    """What the runs of a sweep are called: by its name, the pair if there are several, the gap, and so on.

    Where all are of one pair, the sweep's name stands for it.

    A seed is part of the name where the sweep lists its seeds, be it one: adding another renames nothing.
    """

    def __init__(self, sweep: str, stitches: list[Stitch], *, seeds_named: bool) -> None:
        self.sweep = sweep
        self.labels = _labels(stitches)
        self.pairs_named = (
            len({(stitch.source.title, stitch.dest.title) for stitch in stitches if not stitch.only_tests}) > 1
        )
        self.seeds_named = seeds_named

    def of(self, stitch: Stitch, variant: Variant) -> str:
        """The name of the stitch's run with a variant."""
        first, last = stitch.gap
        source, dest = self.labels[stitch.source.title], self.labels[stitch.dest.title]
        pair = f"-{source}-to-{dest}" if self.pairs_named else ""
        name = f"train-{self.sweep}{pair}-gap-{first},{last}-adapter-{stitch.stitcher}"
        if stitch.control == "base":
            name = f"base-{self.sweep}-{dest}"
        elif stitch.control == "self":
            name = f"self-{self.sweep}-{dest}-cut-{first}"
        elif stitch.control:
            name += f"-control-{stitch.control}"
        for key, value in variant.values.items():
            name += "-" + fit_for_a_folder(f"{key.split('.')[-1]}-{value}")
        return name + (f"-seed-{variant.seed}" if self.seeds_named and not stitch.only_tests else "")


def _labels(stitches: Iterable[Stitch]) -> dict[str, str]:
    """What each model is called in a run's name."""
    titles = sorted({row.title for stitch in stitches for row in (stitch.source, stitch.dest)})
    short = {title: fit_for_a_folder(title.split("/")[-1]) for title in titles}
    clash = len(set(short.values())) < len(titles)  # timm/resnet50 and torchvision/resnet50
    return {title: fit_for_a_folder(title) for title in titles} if clash else short
