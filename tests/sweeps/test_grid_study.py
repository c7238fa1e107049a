"""Sweeps over one job: which runs a grid makes, what they are called, and that they run as any others."""

from __future__ import annotations

import json

import pytest
from small_sweeps import frame_of, go, plan_of
from user_errors import assert_user_error
from yaml_files import read_yaml

from stitching.runs.identity import identity
from stitching.runs.kinds import load_job

LR = "train_config.optimizer_args.lr"


@pytest.fixture
def sweep(write, small_job):
    """Write a job's config to job/config.yml, and a sweep of it with the given lines."""
    write("job/config.yml", small_job)
    (write("experiments/.keep", "")).unlink()

    def put(lines: str, name: str = "rates.yml"):
        return write(name, lines)

    return put


def test_names_metadata_and_configs(sweep, tmp_path):
    plan = plan_of(sweep(f"job: job/config.yml\nproject: mine\nseeds: [1, 2]\ngrid: {{{LR}: [0.1, 0.01]}}\n"))
    assert [run.name for run in plan.runs] == [
        f"train-rates-lr-{lr}-seed-{seed}" for seed in (1, 2) for lr in (0.1, 0.01)
    ]
    assert plan.folder == tmp_path / "experiments" / "mine" / "rates"
    run = plan.runs[1]
    metadata = plan.metadata(run)
    assert metadata.pop("macs") > 0
    assert metadata == {"name": run.name, "arch": "rates", "study": "grid", "seed": 1, LR: 0.01}
    assert (run.job.train_config.seed, run.job.train_config.optimizer_args) == (1, {"lr": 0.01})
    assert len({run.identity for run in plan.runs}) == 4


def test_a_run_is_the_job_that_it_would_be_alone(sweep):
    """Without seeds and grid there is one run; its identity is that of the config, so nothing makes it new."""
    path = sweep("job: !include job/config.yml\n")
    (run,) = plan_of(path).runs
    assert run.name == "train-rates"
    assert run.identity == identity(load_job(path.parent / "job" / "config.yml"))


def test_a_value_may_bring_others_with_it_and_a_name(sweep):
    path = sweep(
        "job: job/config.yml\ngrid:\n  train_config.epochs: [1, {value: 3, with: {train_config.batch_size: 64}}]\n"
        "  train_config.lr_scheduler: [{name: flat, value: ConstantLR}]\n"
    )
    first, second = plan_of(path).runs
    assert [first.name, second.name] == [f"train-rates-epochs-{n}-lr_scheduler-flat" for n in (1, 3)]
    assert (first.job.train_config.batch_size, second.job.train_config.batch_size) == (256, 64)
    assert second.settings == {"train_config.epochs": 3, "train_config.lr_scheduler": "flat"}


def test_two_combinations_of_the_same_job_are_one_run(sweep):
    plan = plan_of(sweep("job: job/config.yml\ngrid: {train_config.epochs: [2, 3, {name: two, value: 2}]}\n"))
    assert [entry.same_as for entry in plan.entries] == [None, None, "train-rates-epochs-2"]
    assert plan.metadata(plan.runs[0])["also"][0]["name"] == "train-rates-epochs-two"


def test_relative_paths_start_from_the_file_that_they_are_written_in(sweep, write, small_job, tmp_path):
    paths = "data_path: data\n"
    write("job/config.yml", small_job + paths)
    for lines, folder in (
        ("job: job/config.yml\n", "job/data"),
        ("job: !include job/config.yml\n", "job/data"),
        ("job:\n  <<: !include job/config.yml\n  data_path: here\n", "here"),
        ("job: job/config.yml\ndata_path: there\n", "there"),
    ):
        (run,) = plan_of(sweep(lines)).runs
        assert run.job.data_path == str(tmp_path / folder)


WRONG = [
    ("grid: {train_config.epoch: [1]}", "rates.yml:2", "did you mean 'epochs'"),
    ("grid: {train_confi.epochs: [1]}", "rates.yml:2", "did you mean"),
    ("grid:\n  train_config.epochs:\n  - 1\n  - x", "rates.yml:5", "'x': expected a whole number"),
    (
        "grid:\n  train_config.epochs:\n  - {value: 1, with: {train_config.sed: 2}}",
        "rates.yml:4",
        "did you mean 'seed'",
    ),
    ("grid:\n  train_config.epochs:\n  - {value: 1, wiht: {}}", "rates.yml:2", "'wiht'"),
    ("grid: {save_dir: [a, b]}", "rates.yml:2", "no job key to vary"),
    ("models: [timm/resnet18]", "rates.yml:1", "the keys `models:` and `job:`"),
    ("seedz: [1]", "rates.yml:2", "did you mean 'seeds'"),
    ("grid: {train_config.optimizer: [Adm]}", "rates.yml:2", "did you mean 'Adam'"),
    ("grid: {train_config.dataset: [digits, cifar11]}", "rates.yml:2", "did you mean 'cifar10'"),
]


@pytest.mark.parametrize(("lines", "place", "words"), WRONG)
def test_what_is_wrong_in_the_grid_is_said_with_its_line(sweep, cli, tmp_path, lines, place, words):
    assert_user_error(cli("plan", sweep(f"job: job/config.yml\n{lines}\n")), str(tmp_path / place), words)


def test_what_is_wrong_in_the_job_is_said_where_it_stands(sweep, cli, write, small_job, tmp_path):
    path = sweep("job: job/config.yml\ngrid: {train_config.epochs: [1]}\n")
    write("job/config.yml", small_job.replace("batch_size", "batch_sise"))
    assert_user_error(cli("plan", path), f"{tmp_path}/job/config.yml:11", "did you mean 'batch_size'")
    write("job/config.yml", small_job.replace("out_channels: 8", "out_channels: 9"))
    assert_user_error(cli("plan", path), f"{tmp_path}/job/config.yml:6", "cannot take img 9x4x4")
    assert_user_error(cli("plan", sweep("job: no.yml\n")), f"{path}:1", "there is no file")


def test_it_runs_like_any_sweep_and_as_the_job_alone_would(sweep, cli, tmp_path):
    path = sweep(f"job: job/config.yml\nsave_dir: runs\nseeds: [1, 2]\ngrid: {{{LR}: [0.1, 0.01]}}\n")
    shown = cli("plan", path)
    assert "4 runs (4 missing)" in shown.out
    assert shown.out.splitlines()[1].split() == ["lr", "runs", "trainable", "MMACs"]
    plan, outcome = go(path)
    assert outcome.failures == {}
    assert len(outcome.ended) == 4
    rows = json.loads(cli("plan", path, "--json").out)
    assert {row["state"] for row in rows} == {"done"}
    assert rows[0]["settings"] == {LR: 0.1}
    metadata = read_yaml(plan.folder / "train-rates-lr-0.1-seed-2" / "metadata.yml")
    assert (metadata["study"], metadata["seed"], metadata[LR]) == ("grid", 2, 0.1)
    cli("train", "-c", tmp_path / "job" / "config.yml", "--seed", "2", "--lr", "0.1")
    assert frame_of(tmp_path / "job").equals(frame_of(plan.folder / "train-rates-lr-0.1-seed-2"))
    assert "nearest finished run" in cli("plan", path, "--seeds", "3", "--explain", "train-rates-lr-0.1-seed-3").out


def test_plan_of_several_sweeps_is_a_line_each(sweep, cli, tmp_path):
    for name in ("a.yml", "b.yml"):
        sweep("job: job/config.yml\nseeds: [1, 2]\n", name)
    shown = cli("plan", tmp_path)
    assert [line.split()[:2] for line in shown.out.splitlines()[2:4]] == [["a", "2"], ["b", "2"]]
    assert "In all 4 runs of 2 sweeps" in shown.out
    assert "Plan of a" not in shown.out
    assert "Plan of a" in cli("plan", tmp_path, "--all").out
