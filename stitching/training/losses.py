"""Losses by name, and their means over batches that are split over several processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from stitching.config.errors import UserError, reason_of, shortened
from stitching.config.registries import Registry
from stitching.training.distributed import ProcessGroup

__all__ = ["LOSSES", "Loss", "make_loss", "mse_of_labels", "share_of_mean"]

# An entry is a function of scores (N, classes), labels (N) and arguments of its own that gives the loss of each image
# (N); or a subclass of `Loss`, for a mean over the batch of another kind.
LOSSES: Registry[Callable[..., Tensor] | type[Loss]] = Registry("loss")


class Loss:
    """A loss with its arguments: the mean over a batch, weighted where the classes have weights."""

    function: ClassVar[Callable[..., Tensor]]
    training_only: ClassVar[tuple[str, ...]] = ("label_smoothing", "weight")  # arguments that tests ignore

    def __init__(self, arguments: dict[str, Any]) -> None:
        self.arguments = arguments
        self._by_device: dict[torch.device, dict[str, Any]] = {}

    def __call__(self, scores: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of scores (N, classes) for labels (N)."""
        return self.values(scores, labels, "mean")

    def values(self, scores: Tensor, labels: Tensor, reduction: str) -> Tensor:
        """The mean or the sum of the images' losses."""
        arguments = self.arguments_on(scores.device)
        return type(self).function(scores.float(), labels, **{**arguments, "reduction": reduction})

    @property
    def plain(self) -> Loss:
        """The loss of tests: without the arguments that only help training, label smoothing and weights of classes."""
        return type(self)({key: value for key, value in self.arguments.items() if key not in self.training_only})

    def share(self, scores: Tensor, labels: Tensor, world: ProcessGroup) -> Tensor:
        """What this process's images of a batch add to the mean loss of the whole batch; N may be 0.

        It is not a mean of the processes' means: they differ in size, and in the weights of their labels.
        """
        if world.size == 1:
            return self(scores, labels)
        divisor = world.sum(self.divisor(labels))
        if not len(labels):
            return scores.sum()  # not all losses of torch are 0 for no image
        return self.values(scores, labels, "sum") / divisor

    def divisor(self, labels: Tensor) -> Tensor:
        """The divisor of the sum over a batch in its mean."""
        return torch.tensor(float(len(labels)), device=labels.device)

    def arguments_on(self, device: torch.device) -> dict[str, Any]:
        """The arguments, tensors on `device`."""
        if device not in self._by_device:
            self._by_device[device] = {
                key: value.to(device) if isinstance(value, Tensor) else value for key, value in self.arguments.items()
            }
        return self._by_device[device]


def mse_of_labels(scores: Tensor, labels: Tensor, reduction: str = "none") -> Tensor:
    """The squared errors of N images, each the mean over the classes: shape (N), or their mean or sum.

    Args:
        scores: (N, classes).
        labels: (N), as vectors of zeros and a one.
        reduction: none, mean or sum.
    """
    errors = (scores - F.one_hot(labels, scores.shape[1])).square().mean(1)
    return errors if reduction == "none" else errors.mean() if reduction == "mean" else errors.sum()


@LOSSES.register("multi_margin_loss")
class MultiMarginLoss(Loss):
    """torch's: the mean over the images, whatever their weights."""

    function = F.multi_margin_loss


@LOSSES.register("nll_loss")
class NLLLoss(Loss):
    """torch's: the mean is weighted by the classes' weights, without labels to ignore."""

    function = F.nll_loss

    def divisor(self, labels: Tensor) -> Tensor:
        arguments = self.arguments_on(labels.device)
        labels = labels[labels != arguments.get("ignore_index", -100)]
        weights = arguments.get("weight")
        return super().divisor(labels) if weights is None else weights[labels].sum()


@LOSSES.register("cross_entropy")
class CrossEntropy(NLLLoss):
    """torch's: of scores before the softmax."""

    function = F.cross_entropy


@LOSSES.register("mse_loss")
class MSELoss(Loss):
    """torch's, of scores and labels as vectors of zeros and a one: the mean over the images and classes."""

    function = staticmethod(mse_of_labels)


class _LossOfEachImage(Loss):
    """A registered function that gives the loss of each image."""

    def values(self, scores: Tensor, labels: Tensor, reduction: str) -> Tensor:
        losses = type(self).function(scores.float(), labels, **self.arguments_on(scores.device))
        if losses.shape != labels.shape:
            raise ValueError(f"it gave {list(losses.shape)} for {len(labels)} images, not a loss for each")
        return losses.mean() if reduction == "mean" else losses.sum()


def share_of_mean(losses: Tensor, world: ProcessGroup) -> Tensor:
    """What the losses (N) of this process's images add to the mean over the whole batch; N may be 0."""
    if world.size == 1:
        return losses.mean()
    return losses.sum() / world.sum(torch.tensor(float(len(losses)), device=losses.device))


def _class_of(name: str) -> type[Loss]:
    entry = LOSSES[name]
    if isinstance(entry, type):
        return entry
    return type(name, (_LossOfEachImage,), {"function": staticmethod(entry)})


def make_loss(name: str, arguments: dict[str, Any], num_classes: int | None = None) -> Loss:
    """The loss `name` with its arguments bound, tried once on scores for `num_classes`.

    Raises:
        UserError: there is no such loss, or it does not take the arguments.
    """
    try:
        cls = _class_of(name)
    except UserError as error:
        error.path = ("loss_fn",)
        raise
    if arguments.get("reduction", "mean") != "mean":
        raise UserError(
            f"found {shortened(arguments['reduction'])}", allowed="mean: a step's loss is one number",
            path=("loss_fn_args", "reduction"),
        )  # fmt: skip
    try:
        tensors = {
            key: torch.tensor(value, dtype=torch.float32) if isinstance(value, list) else value
            for key, value in arguments.items()
            if key != "reduction"
        }
        loss = cls(tensors)
        weights = tensors.get("weight")
        classes = num_classes or (len(weights) if isinstance(weights, Tensor) and weights.dim() == 1 else 2)
        loss(torch.zeros(1, classes), torch.zeros(1, dtype=torch.long))
    except Exception as error:  # whatever it raises, it is about the arguments
        raise UserError(
            f"{name} does not take {shortened(arguments, 200)}: {reason_of(error)}", path=("loss_fn_args",)
        ) from None
    return loss
