"""The outputs of a network, checked against the data, and those of modules inside it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from stitching.config.errors import UserError, unknown_name
from stitching.config.job_config import Job
from stitching.cutting.subnet import CutModule
from stitching.nets.network import Network
from stitching.training.job_data import TaskData

__all__ = ["HookedOutputs", "check_outputs", "try_outputs"]

ConfigPath = tuple[str | int, ...]  # the keys of the config that name an output


class HookedOutputs:
    """The newest outputs of modules inside a job's network, by name: auxiliary losses and metrics look at them.

    Values inside cut pieces have names, too: those that torchvision's feature extraction gives them. A name may leave
    out the path of its part (`parts.0.net.layer1.0.add`) if it is in one part only.

    Raises:
        UserError: there is no such module or value, or several parts have it.
    """

    def __init__(self, network: Network, job: Job) -> None:
        modules = {name: module for name, module in network.named_modules() if name}
        self.names: dict[str, ConfigPath] = {}
        for i, term in enumerate(job.train_config.aux_losses):
            self.names[term.output] = ("train_config", "aux_losses", i, "output")
        for i, metric in enumerate(job.metrics):
            if metric.output is not None:  # else it is of the network's own output
                self.names[metric.output] = ("metrics", i, "output")
        self._outputs: dict[str, Any] = {}
        for name, path in self.names.items():
            own = name if name in modules else _name_within_part(network, name, path)
            if own in modules:
                modules[own].register_forward_hook(self._hook(name))
            else:
                piece, value = _values_inside(network)[own]
                piece.observe(value, partial(self._outputs.__setitem__, name))

    def _hook(self, name: str) -> Any:
        def keep(_module: nn.Module, _args: Any, out: Any) -> None:
            self._outputs[name] = out

        return keep

    def __getitem__(self, name: str) -> Tensor:
        return self._outputs[name]

    def check(self) -> None:
        """Raise `UserError` for a module that the network did not call, or that returned no scores (N, classes)."""
        for name, path in self.names.items():
            if name not in self._outputs:
                raise UserError(
                    f"{name!r} is not called as a whole in the cut network",
                    do="Name a layer inside it, or a part (e.g. parts.1).",
                    path=path,
                )
            output = self._outputs[name]
            if not isinstance(output, Tensor) or output.dim() != 2:
                raise UserError(
                    f"the output of {name!r} is not a row of scores for each image",
                    allowed="a tensor (N, classes)",
                    path=path,
                )


def _values_inside(network: Network) -> dict[str, tuple[CutModule, str]]:
    """The values inside cut pieces by their names in the network: the piece, and the name in it."""
    return {
        f"{path}.{name}": (piece, name)
        for path, piece in network.named_modules()
        if isinstance(piece, CutModule)
        for name in piece.value_names
    }


def _name_within_part(network: Network, name: str, path: ConfigPath) -> str:
    """The name in the network of what is called `name` there, or in one of its parts."""
    nets = [part_path for part_path, module in network.named_modules() if part_path.endswith(".net")]
    names = {*dict(network.named_modules()), *_values_inside(network)} - {""}
    if name in names:
        return name
    matching = sorted({f"{net}.{name}" for net in nets} & names)
    if len(matching) > 1:
        raise UserError(f"{len(matching)} parts have {name!r}", allowed=", ".join(matching), path=path)
    if not matching:
        raise unknown_name("module or value", name, names, path=path)
    return matching[0]


def try_outputs(network: Network, hooked_outputs: HookedOutputs, data: TaskData) -> None:
    """Run one image through the network, and check that its outputs exist and fit the labels.

    Raises:
        UserError: as `check_outputs`, or a named module does not return scores.
    """
    network.eval()
    with torch.no_grad():
        out: Any = network(torch.zeros(1, *data.image_shape))
    check_outputs(out, {name: batches.num_classes for name, batches in zip(data.names, data.train, strict=True)})
    hooked_outputs.check()


def check_outputs(out: Any, num_classes: Mapping[str, int], key: str = "model") -> None:
    """Check that a network's output fits the data.

    Args:
        out: scores (N, classes); of several tasks a list of them.
        num_classes: of each task's data set, by name.
        key: of the config, for the error.

    Raises:
        UserError: there is not one output for each task, or one has too few classes.
    """
    outputs = out if isinstance(out, list) else [out]
    if isinstance(out, list) != (len(num_classes) > 1) or len(outputs) != len(num_classes):
        raise UserError(
            f"the network has {f'{len(outputs)} outputs' if isinstance(out, list) else 'one output'}, "
            f"the data {len(num_classes)} task{'s' * (len(num_classes) > 1)}",
            do="A ParallelPart with `agg: none` and a head per task gives one output for each.",
            path=(key,),
        )
    for (name, classes), scores in zip(num_classes.items(), outputs, strict=True):
        if scores.dim() != 2 or scores.shape[1] < classes:
            raise UserError(
                f"the network's output is {list(scores.shape[1:])} for each image, and {name} has {classes} classes",
                do="End the network with `ClassifierHead: {}`, or set the model's num_classes.",
                path=(key,),
            )
