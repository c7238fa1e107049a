"""A user's own model by `module: FILE:FUNCTION`: built, cut, trained, inspected, and known by its code's content."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import nn

from stitching.analysis.load import list_runs, load_results
from stitching.config.errors import UserError
from stitching.config.yaml import Document
from stitching.cutting.cut_points import cut_points
from stitching.cutting.tracing import trace
from stitching.launch.stored_code import USER_CODE, with_stored_code
from stitching.models.building import build, build_meta, input_shape
from stitching.models.spec import ModelSpec
from stitching.runs.folder import write_yaml
from stitching.runs.identity import identity
from stitching.runs.kinds import read_job

LAYERS = """\
from torch import nn

def block(i, o):
    return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2))
"""
MODELS = """\
from torch import nn
from my_layers import block

def make_net(width=4, num_classes=10):
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes)]
    return nn.Sequential(block(1, width), block(width, width), *head)

def broken(depth=1):
    raise ValueError(f"depth {depth} is not supported")

def number():
    return 3
"""
JOB = {
    "model": {
        "Assembly": {
            "parts": [
                {"Subnet": {"module": "my_models.py:make_net", "block_output": "0", "frozen": True}},
                {"SimpleAdapter": {"num_conv": 1, "kernel_size": 1, "init": "least_squares"}},
                {"Subnet": {"module": "my_models.py:make_net", "block_input": "1", "frozen": True}},
            ]
        }
    },
    "train_config": {"dataset": "digits", "data_preprocessing": {"image_size": 8}, "epochs": 1, "batch_size": 512},
}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "my_layers.py").write_text(LAYERS)
    (tmp_path / "my_models.py").write_text(MODELS)
    return tmp_path


def spec_of(models: Path, function: str = "make_net", **args) -> ModelSpec:
    return ModelSpec.parse(f"module:{models}/my_models.py:{function}", **args)


def job_in(folder: Path, data=JOB):
    return read_job(Document(folder / "config.yml", data))


def test_it_is_built_with_its_arguments_and_seeded_like_others(models: Path) -> None:
    spec = spec_of(models, width=6)
    before = torch.get_rng_state()
    first, again, other = build(spec, 1), build(spec, 1), build(spec, 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert first[0][0].out_channels == 6
    assert torch.equal(first[0][0].weight, again[0][0].weight)
    assert not torch.equal(first[0][0].weight, other[0][0].weight)
    assert all(tensor.is_meta for tensor in build_meta(spec).state_dict().values())
    assert spec.title == "module/my_models.make_net"
    moved = models / "elsewhere"
    moved.mkdir()
    for name in ("my_models.py", "my_layers.py"):
        (models / name).rename(moved / name)
    assert torch.equal(build(spec_of(moved, width=6), 1)[0][0].weight, first[0][0].weight), "wherever the file is"


def test_weights_from_a_file(models: Path) -> None:
    torch.save(build(spec_of(models), 5).state_dict(), models / "weights.pt")
    loaded = build(spec_of(models, ckp_path=str(models / "weights.pt")))
    assert torch.equal(loaded[0][0].weight, build(spec_of(models), 5)[0][0].weight)


def test_the_images_are_those_of_the_data_unless_the_file_says_otherwise(models: Path) -> None:
    assert input_shape(spec_of(models)) is None
    points = cut_points(trace(build_meta(spec_of(models)), (1, 8, 8)))
    assert (points[0].shape, points[-1].shape) == ((1, 8, 8), (10,))
    (models / "my_models.py").write_text(MODELS + "default_input_shape = (1, 16, 16)\n")
    assert input_shape(spec_of(models)) == (1, 16, 16)
    assert cut_points(trace(build_meta(spec_of(models))))[0].shape == (1, 16, 16)


def test_modules_that_are_not_to_be_traced_through_are_one_node(models: Path) -> None:
    source = (
        "class Odd(nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x if x.sum() > 0 else -x\n"
        "def odd():\n"
        "    return nn.Sequential(nn.Conv2d(1, 2, 1), Odd(), nn.Flatten(), nn.Linear(128, 10))\n"
    )
    (models / "my_models.py").write_text(MODELS + source)
    with pytest.raises(UserError, match="cannot be traced"):
        trace(build_meta(spec_of(models, "odd")))
    (models / "my_models.py").write_text(MODELS + source + "untraced_modules = (Odd,)\n")
    assert "1" in trace(build_meta(spec_of(models, "odd"))).graphs[False].by_name


@pytest.mark.parametrize(
    ("function", "args", "words"),
    [
        ("make_nett", {}, "no function in .*my_models.py 'make_nett'; did you mean 'make_net'"),
        ("make_net", {"widht": 3}, "no argument of module/my_models.make_net 'widht'; did you mean 'width'"),
        ("broken", {}, r"my_models\.py:9: ValueError: depth 1 is not supported"),
        ("broken", {"depth": 3}, r"my_models\.py:9: .*depth 3 is not supported"),
        ("number", {}, "returns 3\n  allowed: an nn.Module"),
        ("make_net", {"width": "x"}, r"my_models\.py:5: TypeError"),
    ],
)
def test_what_is_wrong_is_one_message(models: Path, function: str, args: dict, words: str) -> None:
    for how in (build, build_meta):
        with pytest.raises(UserError, match=words):
            how(spec_of(models, function, **args))


def test_its_code_is_part_of_a_job_s_identity_and_its_place_is_not(models: Path, tmp_path: Path) -> None:
    before = identity(job_in(models))
    moved = models / "moved"
    moved.mkdir()
    for name in ("my_models.py", "my_layers.py"):
        (moved / name).write_bytes((models / name).read_bytes())
    assert identity(job_in(moved)) == before
    (moved / "my_layers.py").write_text(LAYERS.replace("ReLU", "GELU"))
    assert identity(job_in(moved)) != before
    (moved / "unused.py").write_text("")
    (moved / "my_layers.py").write_text(LAYERS)
    assert identity(job_in(moved)) == before


def test_an_edit_does_not_reach_what_is_queued(models: Path) -> None:
    job = job_in(models)
    before = identity(job)
    sweep = models / "experiments" / "mine" / "sweep"
    sweep.mkdir(parents=True)
    queued = with_stored_code(job, before, sweep)
    assert identity(queued) == before
    (models / "my_layers.py").write_text("raise SystemExit\n")
    again = job_in(models, queued.to_yaml())
    assert identity(again) == before
    name = again.network.parts[0].module
    assert str(sweep.parent / USER_CODE) in name
    assert isinstance(build(ModelSpec.parse(f"module:{name}")), nn.Module)
    assert identity(job_in(models)) != before
    (sweep.parent / USER_CODE / Path(name).parent.name / "my_layers.py").write_text("")
    (models / "my_layers.py").write_text(LAYERS)
    with pytest.raises(UserError, match="not what was stored"):
        with_stored_code(job, before, sweep)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"module": "my_models.py"}, "names no function"),
        ({"module": "my_models.py:make_net", "backend": "timm"}, "backend is of a library's model"),
        ({"module": "my_models.py:make_net", "pretrained": True}, "pretrained is of a library's model"),
        ({"module": "my_models.py:make_net", "model_name": "smallnet"}, "both model_name and module"),
        ({}, "'model_name' is missing"),
        ({"model_name": "x", "backend": "tim"}, "no backend 'tim'; did you mean 'timm'"),
    ],
)
def test_keys_that_do_not_go_together(models: Path, fields: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        job_in(models, {**JOB, "model": {"Net": fields}})


def test_reading_results_runs_no_code_of_a_user(models: Path) -> None:
    """Only what builds or plans a network imports it: not `results`, `report`, `collect` of a folder of runs."""
    (models / "my_models.py").write_text("raise SystemExit('was imported')\n")
    run = models / "runs" / "one"
    run.mkdir(parents=True)
    net = {"Net": {"module": f"{models}/my_models.py:make_net"}}
    write_yaml(run / "metadata.yml", {"name": "one", "state": "done", "config": {"model": net}})
    before = set(sys.modules)
    list_runs(run.parent)
    with suppress(UserError):  # that it has no steps
        load_results(run.parent)
    assert not [name for name in set(sys.modules) - before if name.startswith("stitching_user_code")]
