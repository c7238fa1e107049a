"""Metrics by name, and the agreement of two networks' predictions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
import torch.nn.functional as F
from torch import Tensor

from stitching.config.errors import UserError, at, reason_of, shortened, unknown_name
from stitching.config.job_config import Metric
from stitching.config.registries import Registry
from stitching.training.losses import mse_of_labels

__all__ = ["METRICS", "BoundMetric", "agreement", "comparison", "kl_divergence", "make_metrics", "predicts"]

# An entry is a function of scores (N, classes), labels (N) and arguments of its own. It gives a value for each image
# (N) by the name of a column; the column's number is the mean over the images.
METRICS: Registry[Callable[..., dict[str, Tensor]]] = Registry("metric")


def predicts(scores: Tensor) -> Tensor:
    """For each of N rows of scores (N, classes), whether it predicts a class: with a NaN, or infinities on top, none.

    torch would call NaN the highest score of all, and a broken network right as often as chance.
    """
    return scores.amax(1).isfinite()


def _correct_in_top(scores: Tensor, labels: Tensor, k: int) -> Tensor:
    """Which of N images have their label among the k highest of their scores (N, classes)."""
    k = min(k, scores.shape[1])
    is_among = scores.topk(k, dim=1).indices.eq(labels.unsqueeze(1)).any(1)
    return is_among & predicts(scores)


@METRICS.register("accuracy")
def accuracy(scores: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Whether the label has the highest score."""
    return {"Accuracy": _correct_in_top(scores, labels, 1)}


@METRICS.register("topk_accuracy")
def topk_accuracy(scores: Tensor, labels: Tensor, topk: int | Sequence[int] = (1, 5)) -> dict[str, Tensor]:
    """Whether the label is among the k highest scores, for each k."""
    if type(topk) is int:
        topk = (topk,)
    if not isinstance(topk, Sequence) or not topk or not all(type(k) is int and k > 0 for k in topk):
        raise UserError(
            f"found {shortened(topk)}",
            allowed="a whole number above zero, or a list of them",
            path=("metric_fn_args", "topk"),
        )
    return {f"Top-{k} Accuracy": _correct_in_top(scores, labels, k) for k in topk}


@METRICS.register("cross_entropy")
def cross_entropy(scores: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> dict[str, Tensor]:
    """The cross entropy of the softmax of the scores with the label."""
    values = F.cross_entropy(scores.float(), labels, reduction="none", label_smoothing=label_smoothing)
    return {"Cross Entropy": values}


@METRICS.register("mse_loss")
def mse_loss(scores: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The squared error of the scores, with the label as a vector of zeros and a one: the mean over the classes."""
    return {"MSE Loss": mse_of_labels(scores.float(), labels)}


@METRICS.register("cosine_similarity")
def cosine_similarity(scores: Tensor, labels: Tensor, eps: float = 1e-8) -> dict[str, Tensor]:
    """The cosine of the angle between the scores and the label as a vector of zeros and a one."""
    return {"Cosine Similarity": F.cosine_similarity(scores.float(), F.one_hot(labels, scores.shape[1]), eps=eps)}


class BoundMetric:
    """A metric with its arguments: from scores and labels to named sums over the images.

    `output` names the module whose output is scored, None for the network's own.

    Raises:
        UserError: there is no such metric, or it does not take the arguments.
    """

    def __init__(self, metric: Metric) -> None:
        if metric.metric_fn not in METRICS:
            raise unknown_name("metric", metric.metric_fn, METRICS, path=("metric_fn",))
        self.name = metric.metric_fn
        self.output = metric.output
        self._function = METRICS[metric.metric_fn]
        self._arguments = metric.metric_fn_args
        self._suffix = f" ({metric.output})" if metric.output else ""
        self._check_arguments()

    def _check_arguments(self) -> None:
        allowed = [*inspect.signature(self._function).parameters][2:]
        for key in self._arguments:
            if key not in allowed:
                raise UserError(
                    f"{self.name} takes no {key!r}", allowed=", ".join(allowed) or "no arguments",
                    path=("metric_fn_args", key),
                )  # fmt: skip
        try:
            tried = self._values(torch.zeros(2, 2), torch.zeros(2, dtype=torch.long))
            for name, values in tried.items():
                if values.shape != (2,):
                    raise ValueError(f"{name} has the shape {list(values.shape)} for 2 images, not a number for each")
        except UserError:
            raise
        except Exception as error:  # whatever it raises, it is about the arguments
            raise UserError(
                f"{self.name} does not take {shortened(self._arguments, 200)}: {reason_of(error)}",
                path=("metric_fn_args",),
            ) from None
        self.columns = [name + self._suffix for name in tried]

    def _values(self, scores: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return self._function(scores, labels, **self._arguments)

    def sums(self, scores: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """For each column its sum over the images: a tensor of one number, on the device of the scores."""
        return {name + self._suffix: _sum(values) for name, values in self._values(scores, labels).items()}


def _sum(values: Tensor) -> Tensor:
    return values.sum(dtype=torch.float64) if values.is_floating_point() else values.sum()


def make_metrics(metrics: list[Metric], monitor: str) -> list[BoundMetric]:
    """The config's metrics.

    Args:
        metrics: of the config.
        monitor: what ReduceLROnPlateau watches.

    Raises:
        UserError: for names and arguments that do not exist, or if nothing measures what the schedule watches.
    """
    bound = []
    for i, metric in enumerate(metrics):
        with at("metrics", i):
            bound.append(BoundMetric(metric))
    column = monitor.partition(" ")[2]
    if column != "Loss" and not any(column in metric.columns for metric in bound):
        raise UserError(
            f"the schedule monitors {monitor}, and no metric has the column {column}",
            allowed=f"`metric_fn: {_measuring(column)}` among them", path=("metrics",),
        )  # fmt: skip
    return bound


def _measuring(column: str) -> str:
    """The names of the metrics that give a column without any arguments."""
    names = []
    for name in METRICS:
        with suppress(UserError):
            if column in BoundMetric(Metric(metric_fn=name)).columns:
                names.append(name)
    return " or ".join(names)


def agreement(scores: Tensor, reference: Tensor) -> Tensor:
    """For N images whether both networks predict the same class: 1 or 0, shape (N); scores with a NaN predict none.

    The mean over test images is the top-1 agreement that Stanton et al. measure between student and teacher ("Does
    knowledge distillation really work?", arXiv:2106.05945, section 3); here the stitched network is the student.

    Args:
        scores, reference: of the stitched network and of the one it is compared with, before the softmax (N, classes).
    """
    same = scores.argmax(1) == reference.argmax(1)
    return (same & predicts(scores) & predicts(reference)).double()


def kl_divergence(scores: Tensor, reference: Tensor) -> Tensor:
    """For N images the Kullback-Leibler divergence KL(reference || stitched) of predicted classes: nats, shape (N).

    What is lost when the stitched network's probabilities stand for the reference's (Kullback and Leibler, "On
    information and sufficiency", 1951); 0 where they are equal. The arguments are as for `agreement`.
    """
    log_probs, reference_log_probs = (F.log_softmax(z.double(), dim=1) for z in (scores, reference))
    return F.kl_div(log_probs, reference_log_probs, reduction="none", log_target=True).sum(1)


def comparison(scores: Tensor, reference: Tensor) -> dict[str, Tensor]:
    """Agreement and KL divergence of a network's predictions with the reference's, summed over N images, by column."""
    return {
        "Agreement": agreement(scores, reference).sum(),
        "KL Divergence": kl_divergence(scores, reference).sum(),
    }
