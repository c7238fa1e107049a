"""`datasets:` in a job's file: a grid over its data set, with what each of them overrides."""

from __future__ import annotations

import pytest
from small_sweeps import plan_of
from user_errors import assert_user_error

JOB = """\
model: {Assembly: {parts: [{SimpleAdapter: {num_conv: 1, out_channels: 4}}, {ClassifierHead: {}}]}}
train_config:
  data_preprocessing: {image_size: 8, channels: 1, mean: [0.5], std: [0.5]}
  optimizer_args: {lr: 0.1, weight_decay: 0.5}
  epochs: 1
  max_batches: 2
  batch_size: 4
save_dir: runs
"""
DATASETS = """\
datasets:
  - digits
  - {dataset: mnist, epochs: 3, data_preprocessing: {image_size: 12}, train_config: {optimizer_args: {lr: 0.2}}}
  - cifar10: {batch_size: 8, frozen_norm: batch, train_config.seed: 7}
  - {dataset: digits, name: digits-again, metrics: [{metric_fn: mse_loss}]}
"""


def test_each_data_set_is_a_run_with_its_own_keys(write, tmp_path):
    plan = plan_of(write("several.yml", JOB + DATASETS))
    names = ["digits", "mnist", "cifar10", "digits-again"]
    assert [run.name for run in plan.runs] == [f"train-several-dataset-{name}" for name in names]
    assert plan.folder == tmp_path / "runs"
    configs = [run.job.train_config for run in plan.runs]
    assert [config.dataset for config in configs] == ["digits", "mnist", "cifar10", "digits"]
    assert [config.epochs for config in configs] == [1, 3, 1, 1]
    assert [config.batch_size for config in configs] == [4, 4, 8, 4]
    assert [config.seed for config in configs] == [12345, 12345, 7, 12345]
    assert configs[1].optimizer_args == {"lr": 0.2, "weight_decay": 0.5}, "mappings are merged"
    assert (configs[1].data_preprocessing.image_size, configs[1].data_preprocessing.channels) == (12, 1)
    assert [run.job.frozen_norm for run in plan.runs] == ["running", "running", "batch", "running"]
    assert plan.metadata(plan.runs[1])["train_config.dataset"] == "mnist"


def test_seeds_and_a_grid_multiply_them(write):
    lines = "seeds: [1, 2]\ngrid: {train_config.epochs: [1, 2]}\ndatasets: [digits, mnist]\n"
    assert len(plan_of(write("several.yml", JOB + lines)).runs) == 8


@pytest.mark.parametrize(
    ("lines", "line", "words"),
    [
        ("datasets: digits\n", 9, "a list of data sets"),
        ("datasets:\n  - digits\n  - 3\n", 11, "names no data set"),
        ("datasets:\n  - digits\n  - digit\n", 11, "did you mean 'digits'"),
        ("datasets:\n  - {dataset: digits, epoch: 3}\n", 10, "did you mean"),
        ("datasets:\n  - digits:\n      epochs: many\n", 11, "expected a whole number"),
        ("datasets:\n  - digits:\n      train_config: {optimizer_args: {lr: fast}}\n", 11, "lr"),
        ("datasets:\n  - digits:\n      data_augmentation: [Flop]\n", 11, "no transform"),
        ("datasets: [digits]\nfrozen_norms: batch\n", 10, "did you mean 'frozen_norm'"),
        ("datasets: [digits, digits]\n", 9, "repeated"),
        ("datasets: [digits]\njob: other.yml\n", 9, "one of them"),
    ],
)  # fmt: skip
def test_what_is_wrong_has_the_line_in_the_file(cli, write, lines, line, words):
    path = write("several.yml", JOB + lines)
    assert_user_error(cli("plan", path), f"{path}:{line}: ", words)


def test_a_mistake_in_the_job_has_its_line(cli, write):
    path = write("several.yml", JOB.replace("num_conv", "num_convs") + "datasets: [digits]\n")
    assert_user_error(cli("plan", path), f"{path}:1: model.Assembly", "did you mean 'num_conv'")


def test_it_is_submitted_as_any_sweep_and_smoke_tested_as_any_job(cli, write, forked_tasks):
    path = write("several.yml", JOB + "datasets: [digits, {dataset: digits, name: longer, max_batches: 3}]\n")
    outcome = cli("train", "-c", path, "--smoke-test")
    assert (outcome.code, outcome.out.count("passed")) == (0, 2), outcome
    assert not (path.parent / "runs").exists()
    assert_user_error(cli("train", "-c", path), str(path), "stitching submit")
    assert cli("submit", path, "--cluster", "local").code == 0
    assert "2 done" in cli("status", path).out
