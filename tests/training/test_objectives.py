"""What a run learns from: distillation by hand, beside other runs, and what its config may say."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small_jobs import frame_of, job_of, same, stitched, trained, write_config

from stitching.config.errors import UserError
from stitching.config.job_files import model_parts
from stitching.runs.identity import identity
from stitching.runs.kinds import kind_of
from stitching.training.distributed import ProcessGroup
from stitching.training.frozen_networks import FrozenNetworks
from stitching.training.losses import make_loss
from stitching.training.objectives import Distill, TrainingLoss

NET = {"model_name": "smallnet", "num_blocks": 2, "width": 4, "in_chans": 1, "num_classes": 10}
OTHER = {**NET, "width": 6}


def _job(objective=None, width: int = 4, **settings) -> dict:
    """A SmallNet that makes three steps, of which the first block is frozen."""
    job = stitched("layer1", "layer2", train_config={"data_preprocessing": {"image_size": 8}, "max_batches": 3, "epochs": 1}, **settings)  # fmt: skip
    net = {**NET, "width": width}
    parts = [
        {"Subnet": {**net, "block_output": "blocks.0", "frozen": True}},
        {"Subnet": {**net, "block_input": "blocks.1"}},
    ]
    job["model"]["Assembly"]["parts"] = parts
    return job | ({"objective": objective} if objective else {})


def _distill(net: dict | None = None, **arguments) -> dict:
    return {"distill": {**({"teacher": {"Net": net}} if net else {}), **arguments}}


SCORES = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]], requires_grad=True)
TEACHER = torch.tensor([[1.0, 4.0, 0.0], [0.0, 1.0, 5.0]])
LABELS = torch.tensor([0, 1])


def _loss(**arguments) -> torch.Tensor:
    return TrainingLoss(make_loss("cross_entropy", {}), Distill(**arguments)).share(
        SCORES, LABELS, TEACHER, ProcessGroup()
    )


def test_soft_labels_by_hand():
    p, q = (each / 2 for each in (TEACHER, SCORES))
    divergence = sum(p.softmax(1)[i] @ (p.log_softmax(1)[i] - q.log_softmax(1)[i]) for i in range(2)) / 2
    expected = 0.7 * F.cross_entropy(SCORES, LABELS) + 0.3 * 2**2 * divergence
    assert _loss(weight=0.3, temperature=2.0).item() == pytest.approx(expected.item(), rel=1e-6)


def test_hard_labels_by_hand():
    expected = 0.5 * F.cross_entropy(SCORES, LABELS) + 0.5 * F.cross_entropy(SCORES, torch.tensor([1, 2]))
    assert _loss(kind="hard").item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_gradient_is_that_of_a_cross_entropy_with_soft_labels():
    (ours,) = torch.autograd.grad(_loss(weight=1.0, temperature=4.0), SCORES)
    soft = 16 * F.cross_entropy(SCORES / 4, (TEACHER / 4).softmax(1))
    (theirs,) = torch.autograd.grad(soft, SCORES)
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_a_pack_computes_each_teacher_once_and_leaves_what_each_run_leaves_alone(tmp_path, monkeypatch):
    jobs = [
        _job(_distill(NET)), _job(_distill(NET, kind="hard"), width=5), _job(_distill(OTHER, temperature=1.0)), _job(),
        _job(_distill(), reference={"Net": NET}),
    ]  # fmt: skip
    passes, networks, forward = [], set(), FrozenNetworks.forward

    def counted(self, images, keys):
        scores = forward(self, images, keys)
        passes.append(len(scores))
        networks.add(self)
        return scores

    monkeypatch.setattr(FrozenNetworks, "forward", counted)
    trained(jobs, tmp_path / "pack")
    (shared,) = networks
    assert passes[:3] == [2, 2, 2]
    assert len(shared.networks) == 2
    assert not any(module.training for module in shared.modules())
    assert not any(parameter.requires_grad for parameter in shared.parameters())
    for i, job in enumerate(jobs):
        trained(job, tmp_path / f"alone-{i}")
        same(tmp_path / "pack" / f"run-{i}", tmp_path / f"alone-{i}" / "run-0")
    losses = [tuple(frame_of(tmp_path / f"alone-{i}" / "run-0")["Loss"]) for i in range(5)]
    assert len({*losses}) == 4
    assert losses[0] == losses[4]  # its teacher is the reference


def test_who_learns_from_a_network_comes_to_agree_with_it(tmp_path):
    config = _job()["train_config"] | {"epochs": 6, "max_batches": 100, "batch_size": 64}
    jobs = [_job(each, reference={"Net": OTHER}) | {"train_config": config} for each in (None, _distill(weight=1.0))]
    by_labels, by_teacher = trained(jobs, tmp_path)
    column = "Overall/Test KL Divergence"
    assert by_teacher.final[column] < by_labels.final[column] / 2


def test_labels_are_the_default_and_every_other_objective_is_another_run(tmp_path):
    plain = identity(job_of(_job(), tmp_path))
    assert identity(job_of(_job("labels"), tmp_path)) == plain
    others = [_distill(NET), _distill(OTHER), _distill(NET, temperature=2.0), _distill(NET, kind="hard")]
    assert len({plain, *(identity(job_of(_job(each), tmp_path)) for each in others)}) == 5
    assert identity(job_of(_job(_distill(NET, temperature=4.0, weight=0.5)), tmp_path)) == identity(
        job_of(_job(_distill(NET)), tmp_path)
    )


def test_a_teachers_weights_are_found_recorded_and_part_of_the_identity(tmp_path):
    (teacher,) = trained({**_job(save_checkpoints=True), "model": {"Net": NET}}, tmp_path / "teacher")
    weights = tmp_path / "weights.pt"
    weights.write_bytes(teacher.folder.checkpoint.read_bytes())
    job = _job(_distill({**NET, "ckp_path": "../weights.pt"}))
    (run,) = trained(job, tmp_path / "run")  # a config in that folder
    (part,) = [part for part in model_parts(*kind_of(run.job).networks(run.job)) if part.ckp_path]
    assert part.ckp_path == str(weights)
    assert str(weights) in run.folder.read_metadata()["weights"]
    before = identity(run.job)
    weights.write_bytes(b"other weights")
    assert identity(run.job) != before


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ("destill", "did you mean 'distill'"),
        (_distill(), "distill has no teacher"),
        (_distill(NET, temprature=2), "did you mean 'temperature'"),
        (_distill(NET, weight=1.5), "weight"),
        (_distill(NET, kind="hard", temperature=2.0), "hard labels have none"),
        (_distill(NET, kind="medium"), "soft"),
        (_distill({**NET, "num_classes": 7}), "it has 7 classes, the network that learns from it 10"),
        (_distill({**NET, "in_chans": 3}), "channels"),
        (_distill({**NET, "ckp_path": "nowhere.pt"}), "nowhere.pt"),
        ({"distill": {"teacher": "timm/resnet81"}}, "resnet81"),
        ({"distill": [1]}, "are a mapping"),
        ({"distill": {}, "labels": {}}, "one name with its arguments"),
    ],
)
def test_an_objective_that_cannot_be_is_told_before_any_training(tmp_path, cli, objective, words):
    folder = write_config(tmp_path, _job(objective))
    outcome = cli("train", "-c", folder / "config.yml")
    assert outcome.code == 2, outcome
    assert "objective" in outcome.err
    assert words in outcome.err
    assert not (folder / "metadata.yml").exists()


def test_several_tasks_have_labels_only(tmp_path):
    job = _job(_distill(NET))
    del job["train_config"]["dataset"]
    job["train_config"]["tasks"] = [{"dataset": "digits"}, {"dataset": "cifar10"}]
    with pytest.raises(UserError, match="there are several tasks"):
        job_of(job, tmp_path)
