"""Losses by name, and their means over batches that lie in shares in several processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stitching.config.errors import UserError, reason_of, shortened, unknown_name
from stitching.training.distributed import ProcessGroup

__all__ = ["Loss", "make_loss"]

# What of torch.nn.functional takes scores (N, classes) and labels (N,), and averages over the batch.
_LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "nll_loss": F.nll_loss,
    "multi_margin_loss": F.multi_margin_loss,
}


class Loss:
    """A loss with its arguments: the mean over a batch, a weighted one where the classes have weights."""

    def __init__(self, name: str, arguments: dict[str, Any]) -> None:
        self.name = name
        self.arguments = arguments

    def __call__(self, scores: Tensor, labels: Tensor) -> Tensor:
        """The loss of scores (N, classes) for labels (N)."""
        return _LOSSES[self.name](scores.float(), labels, **self._placed(scores.device))

    @property
    def plain(self) -> Loss:
        """The loss of tests: without what is there to train better, label smoothing and weights of classes."""
        given = {key: value for key, value in self.arguments.items() if key not in ("label_smoothing", "weight")}
        return Loss(self.name, given)

    def part(self, scores: Tensor, labels: Tensor, world: ProcessGroup) -> Tensor:
        """What this process's share of a batch adds to the loss of the whole batch; N may be 0.

        The mean is not a mean of the shares' means: they differ in size, and in the weights of their labels.
        """
        if world.size == 1:
            return self(scores, labels)
        arguments = self._placed(scores.device)
        whole = world.sum(self._weight(labels, arguments))
        if not len(labels):
            return scores.sum()  # torch's own losses do not all give 0 for nothing
        return _LOSSES[self.name](scores.float(), labels, **{**arguments, "reduction": "sum"}) / whole

    def _weight(self, labels: Tensor, arguments: dict[str, Any]) -> Tensor:
        """What torch divides by in the mean."""
        if self.name == "multi_margin_loss":
            return torch.tensor(float(len(labels)), device=labels.device)
        labels = labels[labels != arguments.get("ignore_index", -100)]
        weights = arguments.get("weight")
        return torch.tensor(float(len(labels)), device=labels.device) if weights is None else weights[labels].sum()

    def _placed(self, device: torch.device) -> dict[str, Any]:
        return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in self.arguments.items()}


def make_loss(name: str, arguments: dict[str, Any], num_classes: int | None = None) -> Loss:
    """The loss `name` with its arguments bound, tried once on scores for `num_classes`.

    Raises:
        UserError: there is no such loss, or it does not take the arguments.
    """
    if name not in _LOSSES:
        raise unknown_name("loss", name, _LOSSES, path=("loss_fn",))
    if arguments.get("reduction", "mean") != "mean":
        raise UserError(
            f"found {shortened(arguments['reduction'])}", allowed="mean: a step's loss is one number",
            path=("loss_fn_args", "reduction"),
        )  # fmt: skip
    try:
        given = {
            key: torch.tensor(value, dtype=torch.float32) if isinstance(value, list) else value
            for key, value in arguments.items()
        }
        loss = Loss(name, given)
        weights = given.get("weight")
        classes = num_classes or (len(weights) if isinstance(weights, Tensor) and weights.dim() == 1 else 2)
        loss(torch.zeros(1, classes), torch.zeros(1, dtype=torch.long))
    except Exception as error:  # whatever it raises, it is about the arguments
        raise UserError(
            f"{name} does not take {shortened(arguments, 200)}: {reason_of(error)}", path=("loss_fn_args",)
        ) from None
    return loss
