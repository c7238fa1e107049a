"""What a plateau watches, and what weight decay is for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from small_jobs import frame_of, job_of, same, trained
from torch import nn

from stitching.config.errors import UserError
from stitching.config.job_config import Metric
from stitching.config.train_config import TrainConfig
from stitching.runs.identity import identity
from stitching.training.metrics import METRICS, make_metrics
from stitching.training.optim import make_optimizer
from stitching.training.run import Run


def _job(**train_config) -> dict:
    """A stitched network of our own SmallNet that makes four steps, in a fraction of a second."""
    net = {"model_name": "smallnet", "num_blocks": 2, "width": 4, "in_chans": 1, "frozen": True}
    parts = [
        {"Subnet": {**net, "block_output": "blocks.0"}},
        {"SimpleAdapter": {"num_conv": 1, "kernel_size": 1}},
        {"Subnet": {**net, "block_input": "blocks.1"}},
    ]
    settings = {
        "dataset": "digits", "data_preprocessing": {"image_size": 8}, "epochs": 2, "max_batches": 2, "batch_size": 32,
        "optimizer_args": {"lr": 0.01},
    }  # fmt: skip
    return {"model": {"Assembly": {"parts": parts}}, "train_config": settings | train_config}


def _plateau(given: dict, **train_config) -> dict:
    args = {"patience": 0, "threshold": 0.0, "threshold_mode": "abs", **given}
    schedule = {"lr_scheduler": "ReduceLROnPlateau", "lr_scheduler_args": args, "epochs": 4}
    return _job(**{**schedule, "validation": {"fraction": 0.2}, **train_config})


def _lowered_by_hand(frame, column: str, better) -> list[float]:
    """The rates of a plateau without patience that watches a column, by hand."""
    rates, best = [0.01], None
    for value in frame[column].dropna():
        is_better = best is None or better(value, best)
        best = value if is_better else best
        rates.append(rates[-1] if is_better else rates[-1] * 0.1)
    return rates[:-1]


@pytest.mark.parametrize(
    ("given", "config", "watched"),
    [
        ({}, {}, "Val Loss"),
        ({"monitor": "Train Loss"}, {}, "Train Loss"),
        ({"monitor": "Val Accuracy"}, {}, "Val Accuracy"),
        ({}, {"validation": None}, "Train Loss"),
        ({"cadence": "steps"}, {}, None),
    ],
    ids=["the default", "the training loss", "an accuracy", "no validation", "every step"],
)
def test_a_plateau_watches_what_it_should(tmp_path, given, config, watched):
    # So high a rate makes each epoch better or worse by chance.
    (run,) = trained(_plateau(given, optimizer_args={"lr": 0.01}, optimizer="SGD", seed=2, **config), tmp_path)
    frame = frame_of(run.folder.path)
    if watched is None:
        assert "ReduceLROnPlateau watches Train Loss" in run.folder.log.read_text()
        return
    lower, higher = (lambda a, b: a < b), (lambda a, b: a > b)
    by_hand = _lowered_by_hand(frame, f"Overall/{watched}", higher if "Accuracy" in watched else lower)
    assert list(frame.groupby("Epoch")["LR"].first()) == pytest.approx(by_hand)
    assert f"ReduceLROnPlateau watches {watched}" in run.folder.log.read_text()


def test_the_default_watches_other_numbers_than_the_training_loss(tmp_path, monkeypatch):
    """Of all that an epoch gives, the validation loss alone reaches the schedule."""
    seen = []
    monkeypatch.setattr("stitching.training.learner.advance", lambda scheduler, value: seen.append(value))
    (run,) = trained(_plateau({}), tmp_path)
    assert seen == list(frame_of(run.folder.path)["Overall/Val Loss"].dropna())


def test_of_several_tasks_the_sum_of_the_losses_is_watched():
    run = SimpleNamespace(
        job=SimpleNamespace(monitor="Val Loss"), context=SimpleNamespace(data=SimpleNamespace(names=["a", "b"]))
    )
    values = {
        "Overall/Train Loss": 7.0,
        "Overall/Val a/Loss": 1.0,
        "Overall/Val b/Loss": 2.0,
        "Overall/Test a/Loss": 5.0,
    }
    assert Run._monitored(run, values) == 3.0
    run.job.monitor = "Train Loss"
    assert Run._monitored(run, values) == 7.0


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (_plateau({"monitor": "Test Loss"}), "The test set only reports"),
        (_plateau({"monitor": "Val Loss"}, validation=None), "no images are held out"),
        (_plateau({"monitor": "Val Loss", "cadence": "steps"}), "no single step has"),
        (_plateau({"monitor": "Val Accuracy", "mode": "min"}), "max, for Val Accuracy"),
        (_plateau({"monitor": "Val Loss", "mode": "max"}), "min, for Val Loss"),
        (_plateau({"monitor": "Val Loss"}) | {"eval_checkpoints": False}, "measures it at the end only"),
        (
            _plateau({"monitor": "Val Accuracy"}) | {"metrics": [{"metric_fn": "topk_accuracy"}]},
            "no metric has the column Accuracy\n  allowed: `metric_fn: accuracy`",
        ),
        (_job(lr_scheduler="StepLR", lr_scheduler_args={"step_size": 1, "monitor": "Train Loss"}), "watches no number"),
    ],
)
def test_a_monitor_that_is_not_there_is_told(tmp_path, job, words):
    with pytest.raises(UserError) as told:
        trained(job, tmp_path)
    assert words in str(told.value)
    assert not (tmp_path / "run-0").exists()


def test_a_metric_of_any_name_may_measure_what_a_schedule_watches(monkeypatch):
    monkeypatch.setitem(METRICS._entries, "mine", METRICS["accuracy"])
    (metric,) = make_metrics([Metric(metric_fn="mine")], "Val Accuracy")
    assert metric.columns == ["Accuracy"]
    with pytest.raises(UserError, match="no metric has the column Accuracy"):
        make_metrics([Metric(metric_fn="mine", output="parts.0")], "Val Accuracy")


def test_matrices_decay_and_nothing_else(tmp_path):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.fc = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2)
            self.attention = nn.MultiheadAttention(2, 1)
            self.cls_token = nn.Parameter(torch.ones(1, 1, 2))
            self.pos_embed = nn.Parameter(torch.ones(1, 4, 2))
            self.gamma = nn.Parameter(torch.ones(2))

    net = Net()
    config = TrainConfig(dataset="digits", optimizer_args={"lr": 0.1, "weight_decay": 0.5}, weight_decay_on="matrices")
    optimizer = make_optimizer(config, net.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moved = {name for name, parameter in net.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {"conv.weight", "fc.weight", "attention.in_proj_weight", "attention.out_proj.weight"}
    with pytest.raises(UserError, match="no weight decay"):
        make_optimizer(config.model_copy(update={"optimizer": "Rprop", "optimizer_args": {}}), net.named_parameters())


def test_weight_decay_on_matrices_is_another_run_which_goes_on_as_undisturbed(tmp_path):
    given = {"optimizer_args": {"lr": 0.01, "weight_decay": 0.9}}
    published, ours = _job(**given), _job(**given, weight_decay_on="matrices")
    assert identity(job_of(published, tmp_path)) == identity(job_of(_job(**given, weight_decay_on="all"), tmp_path))
    assert identity(job_of(published, tmp_path)) != identity(job_of(ours, tmp_path))
    trained(ours, tmp_path / "undisturbed")
    trained(published, tmp_path / "published")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("stitching.training.run.Run.end_epoch", _stopping_in_the_second_epoch())
        with pytest.raises(KeyboardInterrupt):
            trained(ours | {"checkpoint_minutes": 0}, tmp_path / "resumed")
    trained(ours, tmp_path / "resumed", resume=True)
    same(tmp_path / "resumed" / "run-0", tmp_path / "undisturbed" / "run-0")
    losses = [list(frame_of(tmp_path / name / "run-0")["Loss"]) for name in ("published", "undisturbed")]
    assert losses[0] != losses[1]


def _stopping_in_the_second_epoch():
    close = Run.end_epoch

    def closing(self, tested):
        if self.position.epoch == 2:
            raise KeyboardInterrupt
        close(self, tested)

    return closing


def test_test_losses_are_plain(tmp_path):
    plain = _job(epochs=1, optimizer_args={"lr": 1e-30}, validation={"fraction": 0.2})
    smoothed = plain["train_config"] | {"loss_fn_args": {"label_smoothing": 0.2, "weight": [0.1] * 9 + [5.0]}}
    frames = []
    for i, job in enumerate((plain, {**plain, "train_config": smoothed})):
        trained(job, tmp_path / str(i))
        frames.append(frame_of(tmp_path / str(i) / "run-0").iloc[-1])
    for column in ("Overall/Test Loss", "Overall/Val Loss"):
        assert frames[0][column] == pytest.approx(frames[1][column])
    assert frames[0]["Overall/Train Loss"] != pytest.approx(frames[1]["Overall/Train Loss"], rel=1e-3)


def test_tests_that_are_not_finite_are_said(tmp_path, monkeypatch):
    real = Run.eval_step

    def broken(self, inputs, *args):
        return real(self, inputs * float("nan"), *args)

    monkeypatch.setattr(Run, "eval_step", broken)
    (run,) = trained(_job(epochs=1), tmp_path)
    assert run.failure is None
    assert run.final["Overall/Test Accuracy"] == 0
    log = run.folder.log.read_text()
    assert "warning: Test Loss not finite" in log
    assert "count as predicted wrong" in log
