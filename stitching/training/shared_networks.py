"""The frozen networks of a loop, computed once for all its runs: fronts of their networks, and whole networks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from stitching.training.frozen_networks import FrozenNetworks
from stitching.training.loop_context import LoopContext
from stitching.training.run import Run
from stitching.training.shared_prefixes import Features, SharedPrefixes

__all__ = ["SharedNetworks"]


class SharedNetworks:
    """The frozen networks of several runs, each distinct one once."""

    def __init__(self, runs: Sequence[Run], whole_networks: FrozenNetworks, context: LoopContext) -> None:
        self.context = context
        self.prefixes = SharedPrefixes(run.front for run in runs if run.front)
        self.whole_networks = whole_networks
        for module in (self.prefixes, self.whole_networks):
            context.move_to_device(module)
        if context.compile:
            self.prefixes.compile()

    def features(self, runs: Iterable[Run], images: Tensor) -> Features:
        """The features of each run's front for images (N, C, H, W)."""
        fronts = [run.front for run in runs if run.front]
        if not fronts:
            return Features(images, {})
        with self.context.autocast():
            return self.prefixes(images, fronts)

    def scores(self, images: Tensor, keys: Iterable[str | None]) -> dict[str | None, Tensor]:
        """The scores (N, classes) of the whole networks with these keys."""
        with self.context.autocast():
            return self.whole_networks(images, keys)
