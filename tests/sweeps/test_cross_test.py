"""Cross tests: the encoder of every fine-tuned network with the head of every one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from small_sweeps import RESNET, frame_of, go, plan_of, states
from typer.testing import CliRunner

from stitching.analysis.load import load_results
from stitching.analysis.plots import FIGURES
from stitching.analysis.tables import cross_table
from stitching.cli import app
from stitching.config.errors import UserError
from stitching.config.job_config import Job
from stitching.config.train_config import Preprocessing
from stitching.data.loading import Batches
from stitching.runs.folder import RunFolder
from stitching.runs.identity import identity
from stitching.runs.kinds import RunRequest, load_job
from stitching.training.session import train

NUMBERS = "Overall/Test Accuracy"


def config_of(block: str, seed: int, image_size: int = 16) -> dict:
    """A narrow ResNet to the end of a block, with a head."""
    net = {**RESNET, "block_output": block}
    return {
        "assembly": [{"Subnet": net}],
        "head": {"ClassifierHead": {}},
        "save_checkpoints": True,
        "train_config": {
            "dataset": "digits", "data_preprocessing": {"image_size": image_size}, "seed": seed, "max_steps": 2,
            "batch_size": 64, "optimizer_args": {"lr": 0.02},
        },
    }  # fmt: skip


def whole_config_of(seed: int) -> dict:
    """The same network with a classifier of its own."""
    config = config_of("layer1", seed)
    del config["assembly"], config["head"]
    return {"model": {"Net": {**RESNET}}, **config}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fine-tuned networks: two alike with different seeds, one whose features are wider, and two whole models."""
    folder = tmp_path_factory.mktemp("tuned")
    requests = []
    configs = {
        "first": config_of("layer1", 1), "second": config_of("layer1", 2), "wide": config_of("layer3", 3),
        "whole": whole_config_of(4), "other-whole": whole_config_of(5),
    }  # fmt: skip
    for name, config in configs.items():
        path = folder / name / "config.yml"
        path.parent.mkdir()
        path.write_text(yaml.safe_dump(config))
        requests.append(RunRequest(load_job(path), RunFolder(path.parent)))
    for request in requests:
        (run,) = train([request])
        assert run.failure is None
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "tuned")
    return tmp_path / "tuned"


def write(folder: Path, names: tuple[str, ...] = ("first", "second", "wide"), **keys: object) -> Path:
    path = folder / "cross.yml"
    configs = [f"{name}/config.yml" for name in names]
    path.write_text(yaml.safe_dump({"ft_configs": configs, "save_dir": "runs", **keys}, sort_keys=False))
    return path


def accuracy(folder: Path, encoder: str, head: str, head_prefix: str = "parts.1.") -> float:
    """The test accuracy of one network's encoder below another's head, without what a cross test does."""
    from stitching.nets.build import BuildOptions, build_network
    from stitching.training.job_checks import images_of

    job: Job = load_job(folder / encoder / "config.yml")
    network = build_network(job.network, images_of(job).format, BuildOptions(num_classes=10, seed=1))
    states = {name: torch.load(folder / name / "checkpoint.pt", weights_only=True)["model"] for name in (encoder, head)}
    network.load_state_dict(
        {key: states[head if key.startswith(head_prefix) else encoder][key] for key in network.state_dict()}
    )
    batches = Batches("digits", None, preprocessing=Preprocessing(image_size=16), batch_size=360, seed=0, split="test")
    ((images, labels),) = batches.epoch(0)
    with torch.no_grad():
        return float((network.eval()(images).argmax(1) == labels).float().mean())


def test_every_encoder_with_every_head(folder: Path) -> None:
    plan, submission = go(write(folder))
    assert not submission.failures
    assert [(run.encoder, run.head) for run in plan.entries] == [
        (encoder, head)
        for encoder in ("first", "second", "wide", "untuned", "untuned-second", "untuned-wide")
        for head in ("first", "second", "wide")
    ]
    declined = {(run.encoder, run.head): run.declined for run in plan.declined}
    assert len(declined) == 8
    assert declined["first", "wide"] == (
        "the head of wide has parts.1.net.fc.weight of the shape [10, 16]; together with the other it is [10, 8]"
    )
    table = cross_table(load_results(plan.folder))
    assert list(table.index) == ["first", "second", "wide", "untuned", "untuned-second", "untuned-wide"]
    assert list(table.columns) == ["first", "second", "wide"]
    assert np.isnan(table.loc["first", "wide"])
    for name in ("first", "second", "wide"):  # as its own training has tested it
        assert table.loc[name, name] == frame_of(folder / name)[NUMBERS].iloc[-1]
    for encoder, head in (("first", "second"), ("second", "first")):
        assert table.loc[encoder, head] == pytest.approx(accuracy(folder, encoder, head), abs=1e-6)
    assert table.loc["first", "second"] != table.loc["second", "second"]
    assert states(plan_of(write(folder))) == {"done"}
    shutil.rmtree(plan.folder / "train-cross-encoder-untuned-head-first")
    again, submission = go(write(folder))
    assert [run.name for run in submission.ended] == ["train-cross-encoder-untuned-head-first"]
    FIGURES["cross-test"](load_results(again.folder)).draw_without_rendering()
    numbers = FIGURES["cross-test"].numbers(load_results(again.folder))
    assert np.array_equal(numbers.panels[0].values, table.to_numpy() * 100, equal_nan=True)  # type: ignore[attr-defined]


def test_whole_models_exchange_their_classifiers(folder: Path) -> None:
    plan, submission = go(write(folder, ("whole", "other-whole"), untuned=False))
    assert not submission.failures
    table = cross_table(load_results(plan.folder))
    assert table.loc["whole", "whole"] == frame_of(folder / "whole")[NUMBERS].iloc[-1]
    exchanged = accuracy(folder, "whole", "other-whole", "parts.0.net.fc.")
    assert table.loc["whole", "other-whole"] == pytest.approx(exchanged, abs=1e-6)
    mixed = plan_of(write(folder, ("first", "whole"), untuned=False))
    assert [(run.encoder, run.head) for run in mixed.declined] == [("first", "whole"), ("whole", "first")]
    assert "one of them is a whole model" in mixed.declined[0].declined


def test_the_untuned_encoder_is_the_network_before_its_training(folder: Path) -> None:
    """Its weights are those that the training started from; the head is the trained one."""
    plan = plan_of(write(folder, ("second",)))
    (untuned,) = (run for run in plan.runs if run.encoder == "untuned")
    assert (untuned.job.load_from, untuned.job.train_config.seed) == (None, 2)
    assert untuned.job.load_head_from == str(folder / "second" / "checkpoint.pt")
    assert [run.encoder for run in plan_of(write(folder, ("second",), untuned=False)).runs] == ["second"]
    for name in ("first", "second"):
        config_with(folder, name, load_from=str(folder / "first" / "checkpoint.pt"))
    same_start = plan_of(write(folder, ("first", "second")))
    assert {run.encoder for run in same_start.runs} == {"first", "second", "untuned"}


def test_keys_of_the_cross_test_override_those_of_the_trainings(folder: Path) -> None:
    keys = {"data_path": "data", "device": "cpu", "metrics": [{"metric_fn": "topk_accuracy"}]}
    plan = plan_of(write(folder, ("first",), train_config={"batch_size": 7}, **keys))
    job = plan.runs[0].job
    assert (job.train_config.batch_size, job.device, job.data_path) == (7, "cpu", str(folder / "data"))
    assert job.metrics[0].metric_fn == "topk_accuracy"
    assert job.train_config.optimizer_args == {}, "nothing of the training but its data"


def test_a_checkpoint_and_a_name_may_be_given(folder: Path) -> None:
    (folder / "first" / "checkpoint.pt").rename(folder / "other.pt")
    path = write(folder)
    path.write_text("ft_configs:\n  - {config: first/config.yml, checkpoint: other.pt, name: one}\nsave_dir: runs\n")
    run, _ = plan_of(path).runs
    assert (run.encoder, run.job.load_from) == ("one", str(folder / "other.pt"))


def test_the_command_prints_the_table_and_draws_it(folder: Path, without_processes) -> None:
    path = write(folder, ("second",), untuned=False)
    result = CliRunner().invoke(app, ["cross-test", str(path)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "1 runs done" in result.stdout
    assert "head: second" in result.stdout
    assert (folder / "runs" / "cross-test.png").exists()
    again = CliRunner().invoke(app, ["results", str(folder / "runs")], catch_exceptions=False)
    assert "head: second" in again.stdout
    with pytest.raises(UserError, match="is no cross test"):
        CliRunner().invoke(app, ["cross-test", str(folder / "first" / "config.yml")], catch_exceptions=False)
    with pytest.raises(UserError, match="is a sweep of several jobs"):
        CliRunner().invoke(app, ["train", "-c", str(path)], catch_exceptions=False)


def config_with(folder: Path, name: str, **changes: object) -> None:
    path = folder / name / "config.yml"
    data = yaml.safe_load(path.read_text()) | changes
    path.write_text(yaml.safe_dump({key: value for key, value in data.items() if value is not None}, sort_keys=False))


NO_HEAD = {
    "Assembly": {
        "parts": [{"Subnet": {**RESNET, "block_output": "layer1"}}, {"Subnet": {**RESNET, "block_input": "layer2"}}]
    }
}
TWO = {"tasks": [{"dataset": "digits"}, {"dataset": "mnist"}], "epochs": 1}
MISTAKES = [
    (lambda folder: shutil.rmtree(folder / "second"), "cross.yml:3: ft_configs.1.config", "there is no file"),
    (lambda folder: (folder / "second" / "checkpoint.pt").unlink(), "cross.yml:3", "has left no checkpoint"),
    (lambda folder: (folder / "second" / "checkpoint.pt").write_bytes(b"PK"), "cross.yml:3", "damaged"),
    (
        lambda folder: shutil.copy(folder / "wide" / "checkpoint.pt", folder / "second"),
        "cross.yml:3", "do not fit the network of",
    ),
    (lambda folder: config_with(folder, "second", model=NO_HEAD, assembly=None, head=None), "second/config.yml:", "no head of its own"),
    (lambda folder: config_with(folder, "second", train_config=TWO), "second/config.yml:", "2 data sets, and a head is of one"),
    (lambda folder: config_with(folder, "second", epoch=1), "second/config.yml:", "unknown key 'epoch'"),
    (lambda folder: config_with(folder, "second", job="x.yml"), "second/config.yml:", "unknown key 'job'"),
    (
        lambda folder: config_with(folder, "second", assembly=[{"Subnet": {**RESNET, "block_output": "layer9"}}]),
        "second/config.yml:", "layer9",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("sabotage", "where", "words"), MISTAKES, ids=[words for *_, words in MISTAKES])
def test_what_is_wrong_with_a_network_is_told_before_data_is_opened(
    folder: Path, sabotage, where: str, words: str
) -> None:
    sabotage(folder)
    with pytest.raises(UserError) as error:
        plan_of(write(folder, ("first", "second")))
    assert where in str(error.value)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("lines", "where", "words"),
    [
        ("seeds: [1, 2]", ":2: seeds", "a cross test trains nothing"),
        ("grid: {device: [cpu]}", ":2: grid", "a cross test trains nothing"),
        ("train_config: {dataset: digits}", ":2: train_config", "`dataset` is given by each of ft_configs"),
        ("train_config: {batch_sise: 3}", ":2: train_config.batch_sise", "did you mean 'batch_size'"),
        ("untunned: false", ":2: untunned", "did you mean 'untuned'"),
        ("precision: fp16", ":2: precision", "bf16"),
        ("metrics: [{metric_fn: acuracy}]", ":2: metrics.0", "acuracy"),
    ],
)
def test_what_is_wrong_with_the_file_is_told_with_its_line(folder: Path, lines: str, where: str, words: str) -> None:
    path = folder / "cross.yml"
    path.write_text(f"ft_configs: [first/config.yml]\n{lines}\n")
    with pytest.raises(UserError) as error:
        plan_of(path)
    assert f"cross.yml{where}" in str(error.value)
    assert words in str(error.value)


def test_two_networks_of_one_name(folder: Path) -> None:
    with pytest.raises(UserError, match=r"another network is called 'first'"):
        plan_of(write(folder, ("first", "first")))


def test_the_head_of_a_job_comes_from_a_checkpoint(folder: Path) -> None:
    """`load_head_from` by itself, as any job may have it; its content is part of the identity."""
    path = folder / "first" / "config.yml"
    data = yaml.safe_load(path.read_text()) | {"load_head_from": "../second/checkpoint.pt", "test_only": True}
    path.write_text(yaml.safe_dump(data))
    job = load_job(path)
    before = identity(job)
    (run,) = train([RunRequest(job, RunFolder(folder / "run"))])
    loaded = torch.load(folder / "second" / "checkpoint.pt", weights_only=True)["model"]
    state = run.network.state_dict()
    heads = [key for key in state if key.startswith("parts.1.")]
    assert heads
    assert all(torch.equal(state[key], loaded[key]) for key in heads)
    assert not torch.equal(state["parts.0.net.conv1.weight"], loaded["parts.0.net.conv1.weight"])
    shutil.copy(folder / "wide" / "checkpoint.pt", folder / "second" / "checkpoint.pt")
    assert identity(load_job(path)) != before
    with pytest.raises(UserError, match=r"do not fit the network's head: 1 of another shape: parts.1.net.fc.weight"):
        train([RunRequest(load_job(path), RunFolder(folder / "other"))])
