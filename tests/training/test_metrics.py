"""Losses and metrics by themselves: what tests measure, and what scores say that are no finite numbers."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from stitching.config.job_config import Metric
from stitching.training.losses import make_loss
from stitching.training.metrics import BoundMetric, agreement, comparison

NAN, INF = math.nan, math.inf
SCORES = torch.tensor([[2.0, 1.0, 0.0], [NAN, 0.0, 0.0], [INF, INF, 0.0], [-INF, 5.0, 0.0], [-INF, -INF, -INF]])
LABELS = torch.tensor([0, 0, 0, 1, 0])


def test_scores_that_are_no_numbers_are_never_right():
    assert BoundMetric(Metric(metric_fn="accuracy")).sums(SCORES, LABELS) == {"Accuracy": 2.0}
    broken = torch.full((4, 3), NAN)
    top = BoundMetric(Metric(metric_fn="topk_accuracy", metric_fn_args={"topk": [1, 3]}))
    assert top.sums(broken, torch.tensor([0, 1, 2, 0])) == {"Top-1 Accuracy": 0.0, "Top-3 Accuracy": 0.0}


def test_two_broken_networks_do_not_agree():
    assert agreement(SCORES, SCORES).tolist() == [1.0, 0.0, 0.0, 1.0, 0.0]
    found = comparison(SCORES[1:3], SCORES[1:3])
    assert found["Agreement"] == 0
    assert math.isnan(found["KL Divergence"])


@pytest.mark.parametrize(
    ("name", "arguments", "kept"),
    [
        ("cross_entropy", {"label_smoothing": 0.1, "weight": [0.1, 0.2, 0.7], "ignore_index": 2}, {"ignore_index": 2}),
        ("nll_loss", {"weight": [0.1, 0.2, 0.7]}, {}),
        ("multi_margin_loss", {"p": 2, "margin": 0.5, "weight": [0.1, 0.2, 0.7]}, {"p": 2, "margin": 0.5}),
    ],
)
def test_a_plain_loss_is_without_what_helps_training(name, arguments, kept):
    scores, labels = torch.randn(8, 3), torch.tensor([0, 1, 0, 1, 1, 0, 2, 1])
    loss = make_loss(name, arguments, 3)
    assert torch.equal(loss.plain(scores, labels), getattr(F, name)(scores, labels, **kept))
    assert not torch.equal(loss(scores, labels), loss.plain(scores, labels))
