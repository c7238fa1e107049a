"""Agreement and KL with a reference: by hand, against other libraries, and whatever else is computed beside it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from small_jobs import NARROW_RESNET, frame_of, same, stitched, trained, write_config

from stitching.training.frozen_networks import FrozenNetworks
from stitching.training.metrics import agreement, kl_divergence

REFERENCE = {"Net": NARROW_RESNET}
OTHER = {"Net": {"model_name": "smallnet", "num_blocks": 2, "width": 8, "in_chans": 1, "num_classes": 10}}
AGREEMENT, KL = "Overall/Test Agreement", "Overall/Test KL Divergence"


def test_agreement_and_divergence_by_hand():
    ours = torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.0, 5.0]])
    theirs = torch.tensor([[7.0, 1.0, 1.0], [4.0, 0.0, 3.0]])
    assert agreement(ours, theirs).tolist() == [1.0, 0.0]
    two = torch.log(torch.tensor([[0.5, 0.5]])), torch.log(torch.tensor([[0.9, 0.1]]))
    expected = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert kl_divergence(*two).item() == pytest.approx(expected, abs=1e-7)


def test_the_divergence_is_scipys_and_not_the_one_the_other_way_round():
    ours, theirs = torch.randn(2, 50, 10, generator=torch.Generator().manual_seed(0)) * 3
    p, q = (np.exp(x.double().log_softmax(1).numpy()) for x in (theirs, ours))
    assert kl_divergence(ours, theirs).numpy() == pytest.approx(entropy(p, q, axis=1))
    assert kl_divergence(ours, theirs).numpy() != pytest.approx(entropy(q, p, axis=1))
    assert kl_divergence(ours * 1e4, theirs * 1e4).isfinite().all()


def test_a_network_agrees_with_itself_wholly_and_a_run_says_so(tmp_path):
    whole = stitched("layer2", "layer3", test_only=True, reference=REFERENCE)
    whole["model"] = REFERENCE
    cut = stitched("layer1", "layer2", {"Function": {"name": "identity"}}, test_only=True, reference=REFERENCE)
    trained([whole, cut], tmp_path)
    for i in range(2):
        (row,) = frame_of(tmp_path / f"run-{i}").to_dict("records")
        assert (row[AGREEMENT], row[KL]) == (1.0, 0.0)


def test_every_test_is_compared_and_training_is_as_without_it(tmp_path):
    trained(stitched("layer1", "layer3", reference=REFERENCE), tmp_path / "with")
    trained(stitched("layer1", "layer3"), tmp_path / "without")
    frame = frame_of(tmp_path / "with" / "run-0")
    assert frame[AGREEMENT].notna().sum() == frame["Overall/Test Accuracy"].notna().sum() == 2
    assert 0 < frame[AGREEMENT].iloc[-1] < 1
    assert frame[KL].dropna().gt(0).all()
    left = frame.drop(columns=[AGREEMENT, KL])
    assert left.equals(frame_of(tmp_path / "without" / "run-0")[left.columns])


def test_a_pack_computes_each_reference_once_and_leaves_what_each_run_leaves_alone(tmp_path, monkeypatch):
    jobs = [
        stitched("layer1", "layer3", reference=REFERENCE), stitched("layer2", "layer3", reference=REFERENCE),
        stitched("layer2", "layer3", reference=OTHER), stitched("layer2", "layer3"),
    ]  # fmt: skip
    seen = []
    forward = FrozenNetworks.forward
    monkeypatch.setattr(FrozenNetworks, "forward", lambda self, x, keys: seen.append(len(self.networks)) or forward(self, x, keys))  # fmt: skip
    trained(jobs, tmp_path / "pack")
    assert set(seen) == {2}
    monkeypatch.undo()
    for i, job in enumerate(jobs):
        trained(job, tmp_path / f"alone-{i}")
        same(tmp_path / "pack" / f"run-{i}", tmp_path / f"alone-{i}" / "run-0")
    compared = [frame_of(tmp_path / "pack" / f"run-{i}").get(AGREEMENT) for i in range(4)]
    assert compared[3] is None
    assert compared[1].dropna().tolist() != compared[2].dropna().tolist()


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ({"Net": {**NARROW_RESNET, "num_classes": 7}}, "7 classes"),
        ({"Net": {**NARROW_RESNET, "in_chans": 3}}, "channels"),
        ({"Subnet": {**NARROW_RESNET, "block_output": "layer1"}}, "whole network"),
        ({"Net": {**NARROW_RESNET, "ckp_path": "nowhere.pt"}}, "nowhere.pt"),
        ("resnet18", "a part is one class name"),
    ],
)
def test_a_reference_that_cannot_be_is_told_before_any_training(tmp_path, cli, reference, words):
    folder = write_config(tmp_path, stitched("layer1", "layer3", reference=reference))
    outcome = cli("train", "-c", folder / "config.yml")
    assert outcome.code == 2, outcome
    assert "reference" in outcome.err
    assert words in outcome.err
    assert not (folder / "result.pkl").exists()
