"""The whole networks that stitched ones are compared with, each computed once however many runs it is compared with."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from stitching.config.errors import UserError, at
from stitching.config.job_config import Job
from stitching.cutting.formats import Format
from stitching.models.spec import ModelSpec
from stitching.models.traced_models import first_model
from stitching.nets.build import BuildOptions, build_network

__all__ = ["References", "reference_of"]


def reference_of(job: Job) -> ModelSpec | None:
    """What stands for the job's reference among `References`; None without one."""
    return first_model(job.reference) if job.reference else None


class References(nn.Module):
    """The references of `jobs`, which share a loop, in eval mode and without gradients.

    Args:
        jobs: each with the number of classes that its network tells apart.
        image_shape: (C, H, W) of every image.

    Raises:
        UserError: a reference does not take these images, or tells apart other classes than the job's own network.
    """

    def __init__(self, jobs: Iterable[tuple[Job, int | None]], image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.places: dict[ModelSpec, int] = {}
        self.networks = nn.ModuleList()
        self.classes: list[int | None] = []
        channels, height, width = image_shape
        for job, classes in jobs:
            spec = reference_of(job)
            if spec is None or job.reference is None:
                continue
            with at("reference"):
                if spec not in self.places:
                    options = BuildOptions(seed=job.train_config.seed)
                    network = build_network(job.reference, Format("img", channels, (height, width)), options)
                    self.places[spec] = len(self.networks)
                    self.classes.append(network.out_format.channels)
                    self.networks.append(network.requires_grad_(False))
                theirs = self.classes[self.places[spec]]
                if theirs != classes:
                    raise UserError(
                        f"it tells {theirs} classes apart, the network that is compared with it {classes}",
                        allowed="a network for the same classes",
                    )

    @torch.no_grad()
    def forward(self, images: Tensor, wanted: Iterable[ModelSpec | None]) -> dict[ModelSpec | None, Tensor]:
        """The scores (N, classes) of the wanted references for images (N, C, H, W)."""
        self.eval()
        return {spec: self.networks[self.places[spec]](images) for spec in dict.fromkeys(wanted) if spec is not None}
