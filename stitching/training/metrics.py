"""Metrics by name, and their sums over an epoch."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from stitching.config.errors import UserError, at, shortened, unknown_name
from stitching.config.job_config import Metric

__all__ = ["Averages", "BoundMetric", "agreement", "compared", "kl_divergence", "make_metrics"]


def _predicts(scores: Tensor) -> Tensor:
    """For each of N rows of scores (N, classes), whether they say anything: with a NaN, or infinities on top, none do.

    torch would call NaN the highest score of all, and a broken network right as often as chance.
    """
    return scores.amax(1).isfinite()


def correct_in_top(scores: Tensor, labels: Tensor, k: int) -> float:
    """How many of N samples have their label among the k highest of their scores (N, classes)."""
    k = min(k, scores.shape[1])
    found = scores.topk(k, dim=1).indices.eq(labels.unsqueeze(1)).any(1)
    return (found & _predicts(scores)).sum().item()


class BoundMetric:
    """A metric with its arguments: from scores and labels to named sums over the samples.

    `output` names the module whose output is scored, None for the network's own.
    """

    def __init__(self, metric: Metric) -> None:
        known: dict[str, tuple[str, ...]] = {"accuracy": (), "topk_accuracy": ("topk",)}
        if metric.metric_fn not in known:
            raise unknown_name("metric", metric.metric_fn, known, path=("metric_fn",))
        for key in metric.metric_fn_args:
            if key not in known[metric.metric_fn]:
                raise UserError(
                    f"{metric.metric_fn} takes no {key!r}",
                    allowed=", ".join(known[metric.metric_fn]) or "no arguments",
                    path=("metric_fn_args", key),
                )  # fmt: skip
        topk = metric.metric_fn_args.get("topk", [1, 5])
        if not isinstance(topk, list) or not topk or not all(type(k) is int and k > 0 for k in topk):
            raise UserError(
                f"found {shortened(topk)}",
                allowed="a list of whole numbers above zero",
                path=("metric_fn_args", "topk"),
            )
        at_end = f" ({metric.output})" if metric.output else ""
        self.output = metric.output
        if metric.metric_fn == "accuracy":
            self.tops = {f"Accuracy{at_end}": 1}
        else:
            self.tops = {f"Top-{k} Accuracy{at_end}": k for k in topk}

    def sums(self, scores: Tensor, labels: Tensor) -> dict[str, float]:
        """For each named metric, its sum over the batch."""
        return {name: float(correct_in_top(scores, labels, k)) for name, k in self.tops.items()}


def make_metrics(metrics: list[Metric]) -> list[BoundMetric]:
    """The config's metrics; raises `UserError` for names and arguments that do not exist."""
    bound = []
    for i, metric in enumerate(metrics):
        with at("metrics", i):
            bound.append(BoundMetric(metric))
    return bound


def agreement(scores: Tensor, reference: Tensor) -> Tensor:
    """For N images whether both networks predict the same class: 1 or 0, shape (N); scores with a NaN predict none.

    The mean over test images is the top-1 agreement that Stanton et al. measure between student and teacher ("Does
    knowledge distillation really work?", arXiv:2106.05945, section 3); here the stitched network is the student.

    Args:
        scores, reference: of the stitched network and of the one it is compared with, before the softmax (N, classes).
    """
    same = scores.argmax(1) == reference.argmax(1)
    return (same & _predicts(scores) & _predicts(reference)).double()


def kl_divergence(scores: Tensor, reference: Tensor) -> Tensor:
    """For N images the Kullback-Leibler divergence KL(reference || stitched) of predicted classes: nats, shape (N).

    What is lost when the stitched network's probabilities stand for the reference's (Kullback and Leibler, "On
    information and sufficiency", 1951); 0 where they are equal. The arguments are as for `agreement`.
    """
    ours, theirs = (F.log_softmax(each.double(), dim=1) for each in (scores, reference))
    return F.kl_div(ours, theirs, reduction="none", log_target=True).sum(1)


def compared(scores: Tensor, reference: Tensor) -> dict[str, float]:
    """The sums over N images of what a network's predictions have in common with the reference's, by column."""
    return {
        "Agreement": agreement(scores, reference).sum().item(),
        "KL Divergence": kl_divergence(scores, reference).sum().item(),
    }


class Averages:
    """Sums of named values over samples, and their means: a batch counts by its size."""

    def __init__(self, sums: dict[str, float] | None = None, counts: dict[str, int] | None = None) -> None:
        self.sums = sums or {}
        self.counts = counts or {}

    def add(self, sums: dict[str, float], count: int) -> None:
        """Add the sums over `count` further samples."""
        for name, value in sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + count

    def means(self) -> dict[str, float]:
        """The means so far."""
        return {name: self.sums[name] / self.counts[name] for name in self.sums}

    def state(self) -> dict[str, dict[str, Any]]:
        """Plain data for a checkpoint; the constructor's arguments."""
        return {"sums": dict(self.sums), "counts": dict(self.counts)}
