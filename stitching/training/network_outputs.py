"""What a network gives: its outputs held against the data, and the outputs of modules inside it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stitching.config.errors import UserError, unknown_name
from stitching.config.job_config import Job
from stitching.nets.network import Network
from stitching.training.job_data import TaskData

__all__ = ["HookedOutputs", "try_outputs"]

Place = tuple[str | int, ...]  # the keys of the config that ask for an output


class HookedOutputs:
    """The newest outputs of modules inside a job's network, by name: auxiliary losses and metrics look at them.

    Raises:
        UserError: there is no such module.
    """

    def __init__(self, network: Network, job: Job) -> None:
        modules = {name: module for name, module in network.named_modules() if name}
        asked: list[tuple[Place, str | None]] = [
            *(
                (("train_config", "aux_losses", i, "output"), t.output)
                for i, t in enumerate(job.train_config.aux_losses)
            ),
            *((("metrics", i, "output"), metric.output) for i, metric in enumerate(job.metrics)),
        ]
        self.names = {name: place for place, name in asked if name is not None}  # None: the network's own output
        self._outputs: dict[str, Any] = {}
        for name, place in self.names.items():
            if name not in modules:
                raise unknown_name("module", name, modules, path=place)
            modules[name].register_forward_hook(self._keeper(name))

    def _keeper(self, name: str) -> Any:
        def keep(_module: nn.Module, _args: Any, out: Any) -> None:
            self._outputs[name] = out

        return keep

    def __getitem__(self, name: str) -> Tensor:
        return self._outputs[name]

    def check(self) -> None:
        """Raise `UserError` for a module that the network did not call, or that gives no scores (N, classes)."""
        for name, place in self.names.items():
            if name not in self._outputs:
                raise UserError(
                    f"{name!r} is not called as a whole in the cut network",
                    do="Name a layer inside it, or a part (e.g. parts.1).",
                    path=place,
                )
            seen = self._outputs[name]
            if not isinstance(seen, Tensor) or seen.dim() != 2:
                raise UserError(
                    f"the output of {name!r} is no row of scores for each image",
                    allowed="a tensor (N, classes)",
                    path=place,
                )


def try_outputs(network: Network, hooked_outputs: HookedOutputs, data: TaskData) -> None:
    """Run one image through the network: are all outputs there, and do they fit the labels?

    Raises:
        UserError: the network has not one output for each task, or too few classes, or one inside it is not there.
    """
    network.eval()
    with torch.no_grad():
        out: Any = network(torch.zeros(1, *data.image_shape))
    tasks = len(data.names)
    heads = len(out) if isinstance(out, list) else 1
    if isinstance(out, list) != (tasks > 1) or heads != tasks:
        raise UserError(
            f"the network has {f'{heads} outputs' if isinstance(out, list) else 'one output'}, "
            f"the data {tasks} task{'s' * (tasks > 1)}",
            do="A ParallelPart with `agg: none` and a head per task gives one output for each.",
            path=("model",),
        )
    for name, scores, batches in zip(data.names, out if tasks > 1 else [out], data.train, strict=True):
        if scores.dim() != 2 or scores.shape[1] < batches.num_classes:
            raise UserError(
                f"the network's output is {list(scores.shape[1:])} for each image, and {name} has "
                f"{batches.num_classes} classes",
                do="End the network with `ClassifierHead: {}`, or set the model's num_classes.",
                path=("model",),
            )
    hooked_outputs.check()
