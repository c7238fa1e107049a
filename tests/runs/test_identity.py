"""Identities: the same for the same computation however it is written, and new only for what changes a number."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from golden_identities import JOBS, ROOT, SWEEPS, identity_of_job, job_of, planned_runs, shipped_sweep, written_down
from pydantic import create_model

from stitching.config.job_config import Job
from stitching.config.schema import Neutral, Schema
from stitching.config.yaml import Document
from stitching.runs.identity import LEFT_OUT, identity
from stitching.runs.kinds import read_job
from stitching.sweeps.plan_cache import PlanCache

RUNS = {name: data for name, data in written_down().items() if isinstance(data, dict)}


def named_runs(path: Path) -> dict[str, dict[str, Any]]:
    return {name.partition(" ")[2]: data for name, data in RUNS.items() if name.startswith(f"{path.name} ")}


# ------------------------------------------------------------------------ what was written down


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.parent.name)
def test_shipped_jobs_keep_their_identity(path: Path) -> None:
    assert identity_of_job(path) == written_down()[str(path.relative_to(ROOT))]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_runs_of_shipped_sweeps_keep_their_identity(path: Path, tmp_path: Path) -> None:
    sweep, runs = shipped_sweep(path), named_runs(path)
    assert len(runs) >= 4
    for name, data in runs.items():
        job = job_of(sweep, data)
        assert identity(job) == data["identity"], name
        # What a run leaves as its config is the same run, by the other way to an identity.
        text = yaml.safe_dump(job.to_yaml())
        again = read_job(Document(tmp_path / "config.yml", yaml.safe_load(text)))
        assert identity(again) == data["identity"], name


@pytest.mark.slow
def test_shipped_sweeps_still_plan_the_runs_that_were_written_down(tmp_path: Path) -> None:
    known = PlanCache()
    for path in SWEEPS:
        runs = planned_runs(path, known)
        assert {run.name: run.identity for run in runs} == {
            name: data["identity"] for name, data in named_runs(path).items()
        }
        for run in runs:
            assert run.job is not None
            again = read_job(Document(tmp_path / "config.yml", yaml.safe_load(yaml.safe_dump(run.job.to_yaml()))))
            assert identity(again) == identity(run.job) == run.identity, run.name


# ------------------------------------------------------------------------ new keys


JOB = {
    "model": {
        "Assembly": {
            "parts": [
                {"Subnet": {"model_name": "timm/resnet18", "in_chans": 1, "block_output": "layer1", "frozen": True}},
                {"SimpleAdapter": {"num_conv": 1, "out_channels": 64}},
                {"Subnet": {"model_name": "torchvision/resnet18", "block_input": "layer2", "frozen": True}},
            ]
        }
    },
    "reference": {"Net": {"backend": "torchvision", "model_name": "resnet18"}},
    "metrics": [{"metric_fn": "topk_accuracy", "metric_fn_args": {"topk": [1, 5]}}],
    "train_config": {
        "dataset": "digits",
        "data_preprocessing": {"image_size": 32},
        "validation": {"fraction": 0.1},
        "aux_losses": [{"output": "parts.0"}],
        "optimizer_args": {"lr": 0.01},
        "lr_scheduler": "SequentialLR",
        "lr_scheduler_args": {"cadence": "steps", "milestones": [1], "schedulers": [{"lr_scheduler": "ConstantLR"}] * 2},
    },
}  # fmt: skip


def job(*changes: tuple[str, Any], without: tuple[str, ...] = ()) -> Job:
    """`JOB` with values at dotted keys, or without some."""
    data: Any = copy.deepcopy(JOB)
    for dotted, value in [*changes, *((dotted, ...) for dotted in without)]:
        place, keys = data, [int(key) if key.isdigit() else key for key in dotted.split(".")]
        for key in keys[:-1]:
            place = place[key] if isinstance(place, list) else place.setdefault(key, {})
        if value is ...:
            del place[keys[-1]]
        else:
            place[keys[-1]] = value
    return read_job(Document(Path("/nowhere/config.yml"), data))


def with_new_key(value: Any, field: Any) -> Any:
    """The same settings, in schemas that all have one more key."""
    if isinstance(value, list):
        return [with_new_key(item, field) for item in value]
    if not isinstance(value, Schema):
        return value
    own = {name: with_new_key(getattr(value, name), field) for name in type(value).model_fields}
    return _later(type(value), field).model_construct(_fields_set=None, **own, **(value.model_extra or {}))


@cache
def _later(schema: type[Schema], field: Any) -> type[Schema]:
    return create_model(schema.__name__, __base__=schema, new_key=field)


@pytest.mark.parametrize("field", [(int, 3), (list[int] | None, None)], ids=str)
def test_a_new_key_with_a_neutral_default_changes_no_identity(field) -> None:
    assert identity(with_new_key(job(), field)) == identity(job())
    for path in SWEEPS:
        sweep = shipped_sweep(path)
        for name, data in named_runs(path).items():
            assert identity(with_new_key(job_of(sweep, data), field)) == data["identity"], name


def test_when_a_default_changes_runs_that_say_nothing_are_new() -> None:
    before = identity(with_new_key(job(), (int, 3)))
    after = (Annotated[int, Neutral(3)], 4)  # the old default is declared
    assert identity(with_new_key(job(), after)) != before == identity(job())
    assert identity(with_new_key(with_new_key(job(), after), (int, 3))) != before


def test_a_new_key_matters_in_every_schema() -> None:
    """A value that is not neutral changes the identity, wherever in a job it stands."""
    known = {identity(job())}
    field = (Annotated[int, Neutral(3)], 4)
    for part in ("train_config", "model", "reference", "reformat_options", "metrics"):
        changed = job()
        setattr(changed, part, with_new_key(getattr(changed, part), field))
        known.add(identity(changed))
    assert len(known) == 6


# ------------------------------------------------------------------------ spellings

SUBNET, OTHER = "model.Assembly.parts.0.Subnet", "model.Assembly.parts.2.Subnet"
ONE_TASK = [{"dataset": "digits"}]


@pytest.mark.parametrize(
    ("change", "without"),
    [
        ({f"{SUBNET}.pretrained": True}, ()),
        ({f"{SUBNET}.model_name": "resnet18", f"{SUBNET}.backend": "timm"}, ()),
        ({f"{SUBNET}.model_name": "timm/resnet18.a1_in1k"}, ()),
        ({f"{OTHER}.model_name": "pytorch/resnet18"}, ()),
        ({f"{OTHER}.model_name": "resnet18", f"{OTHER}.backend": "pytorch"}, ()),
        ({f"{OTHER}.weights": "DEFAULT"}, ()),
        ({f"{OTHER}.weights": "IMAGENET1K_V1"}, ()),
        ({f"{SUBNET}.img_size": None}, ()),
        ({"reference.Net.backend": "pytorch", "reference.Net.frozen": False}, ()),
        ({"train_config.tasks": [{"dataset": "digits"}]}, ("train_config.dataset",)),
        ({"train_config.tasks": [{"dataset": "digits", "batch_size": 256}], "train_config.batch_size": 64}, ("train_config.dataset",)),
        ({"train_config.lr": 0.01}, ("train_config.optimizer_args",)),
        ({"train_config.optimizer": "AdamW", "train_config.seed": 12345, "train_config.validation.seed": 0}, ()),
        ({"train_config.data_augmentation": False}, ()),
        ({"train_config.data_preprocessing.data_augmentation": "none"}, ()),
        ({"train_config.lr_scheduler_args.schedulers.0.lr_scheduler_args": {"cadence": "steps"}}, ()),
        ({"train_config.lr_scheduler_args.milestones": [1.0]}, ()),
        ({"model.Assembly.parts.1.SimpleAdapter.kernel_size": 3, "model.Assembly.frozen": False}, ()),
        ({"assembly": JOB["model"]["Assembly"]["parts"]}, ("model",)),  # type: ignore[index]
        ({"frozen_norm": "running", "precision": "fp32", "reformat_options": {"class_token": "zeros"}}, ()),
        ({"data_path": "/x", "workers": 3, "print_freq": 1, "verbose": True, "save_dir": "/y"}, ()),
    ],
)  # fmt: skip
def test_the_same_job_in_another_spelling(change: dict[str, Any], without: tuple[str, ...]) -> None:
    assert identity(job(*change.items(), without=without)) == identity(job())


def test_one_part_is_an_assembly_of_one() -> None:
    alone = {"model": {"Net": {"model_name": "smallnet"}}, "train_config": {"dataset": "digits"}}
    row = {"assembly": [{"Net": {"model_name": "local/smallnet"}}], "train_config": {"tasks": ONE_TASK}}
    one, other = (read_job(Document(Path("/nowhere/config.yml"), data)) for data in (alone, row))
    assert identity(one) == identity(other)


@pytest.mark.parametrize(
    "change",
    [
        {"train_config.optimizer_args.lr": 0.02},
        {"train_config.seed": 3},
        {"train_config.epochs": 11},
        {"train_config.batch_size": 64},
        {"train_config.validation.fraction": 0.2},
        {"train_config.validation.seed": 1},
        {"train_config.data_augmentation": True},
        {"train_config.data_preprocessing.image_size": 16},
        {"train_config.lr_scheduler_args.cadence": "epochs"},
        {"train_config.lr_scheduler_args.milestones": [2]},
        {"train_config.aux_losses.0.weight": 0.5},
        {"frozen_norm": "batch"},
        {"unfrozen": True},
        {"metrics.0.metric_fn_args.topk": [1]},
        {"reformat_options.class_token": "avg"},
        {"model.Assembly.reformat_options.class_token": "zeros"},  # a choice of its own, whatever the job's is
        {"model.Assembly.parts.1.SimpleAdapter.num_conv": 2},
        {f"{SUBNET}.frozen": False},
        {f"{SUBNET}.pretrained": False},
        {f"{SUBNET}.model_name": "timm/resnet18.a2_in1k"},
        {f"{SUBNET}.block_output": "layer2"},
        {f"{SUBNET}.output_stride": 16},
        {f"{OTHER}.model_name": "torchvision/resnet34"},
        {"reference.Net.num_classes": 10},
        {f"{OTHER}.ckp_path": "weights.pt"},
        {"load_from": "weights.pt"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_can_change_a_number_changes_the_identity(change: dict[str, Any]) -> None:
    assert identity(job(*change.items())) != identity(job())


def test_other_weights_of_torchvision_are_another_run() -> None:
    first = ("model", {"Net": {"model_name": "torchvision/resnet50", "weights": "IMAGENET1K_V1"}})
    best = ("model", {"Net": {"model_name": "torchvision/resnet50"}})
    named = ("model", {"Net": {"model_name": "torchvision/resnet50", "weights": "IMAGENET1K_V2"}})
    assert identity(job(best)) == identity(job(named)) != identity(job(first))


def test_weights_are_known_by_their_content(tmp_path: Path) -> None:
    for name, content in {"a.pt": b"1", "b.pt": b"1", "c.pt": b"2"}.items():
        (tmp_path / name).write_bytes(content)
    for key in (f"{OTHER}.ckp_path", "load_from"):
        one, same, other = (identity(job((key, str(tmp_path / name)))) for name in ("a.pt", "b.pt", "c.pt"))
        assert one == same != other


def test_what_is_left_out_is_a_key() -> None:
    assert set(LEFT_OUT) <= set(Job.model_fields)
