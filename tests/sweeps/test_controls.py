"""Base networks and controls: which runs a plan adds, what their networks are, and what training them gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_sweeps import (
    RESNET,
    SMALLNET,
    VIT,
    frame_of,
    gaps,
    go,
    in_this_process,
    plan_of,
    planned,
    write_sweep,
)
from user_errors import assert_user_error
from yaml_files import read_yaml

from stitching.analysis.load import load_results
from stitching.cutting.formats import Format
from stitching.nets.parts import dery

ALL = ["self", "random_source", "random_dest", "adapter_only"]


def _controls(plan, kind):
    return [run for run in plan.entries if run.stitch.control == kind]


def _parts(run) -> list[dict]:
    return run.as_json()["network"]["Assembly"]["parts"]


# ------------------------------------------------------------------------ the plan


def test_every_plan_tests_each_whole_network_once(tmp_path):
    plan = planned(tmp_path, models=[RESNET, VIT], gaps=gaps([1, 1], [3, 4]), seeds=[1, 2, 3], grid={"train_config.optimizer_args.lr": [0.1, 0.2]})  # fmt: skip
    bases = _controls(plan, "base")
    assert [run.name for run in bases] == ["base-small-resnet18", "base-small-vit_tiny_patch16_224"]
    assert [run.as_json()["network"] for run in bases] == [
        {"Net": {**RESNET, "frozen": True}}, {"Net": {**VIT, "frozen": True}}
    ]  # fmt: skip
    for run in bases:
        assert run.job.test_only
        assert run.trainable == 0
        assert run.metadata("small").keys() == {"name", "arch", "macs"}
    assert len(plan.runs) == 2 + 4 * 2 * 3 * 2


def test_what_has_no_part_in_a_test_makes_no_other_base_run(tmp_path):
    """A learning rate that is tried later must not evaluate the networks anew."""
    before = planned(tmp_path / "a", train_config={"epochs": 1, "data_preprocessing": {"image_size": 32}})
    after = planned(
        tmp_path / "b", seeds=[5], train_config={"epochs": 9, "max_batches": 3, "optimizer": "SGD", "lr_scheduler": "ConstantLR", "data_preprocessing": {"image_size": 32, "data_augmentation": False}},
    )  # fmt: skip
    other = planned(tmp_path / "c", precision="bf16")
    identities = [_controls(plan, "base")[0].identity for plan in (before, after, other)]
    assert identities[0] == identities[1] != identities[2]


def test_a_grid_over_the_size_of_images_tests_at_each_size(tmp_path):
    plan = planned(tmp_path, grid={"train_config.data_preprocessing.image_size": [32, 64], "train_config.epochs": [1, 2]})  # fmt: skip
    assert [run.name for run in _controls(plan, "base")] == [
        "base-small-resnet18-image_size-32", "base-small-resnet18-image_size-64"
    ]  # fmt: skip


def test_a_destination_for_other_images_is_tested_with_its_own_and_is_no_reference(tmp_path):
    plan = planned(tmp_path, models=[RESNET, VIT], pairs=[["timm/resnet18", "timm/vit_tiny_patch16_224"]], train_config={"data_preprocessing": {"image_size": 48}})  # fmt: skip
    sizes = {
        run.stitch.dest.title: run.job.train_config.data_preprocessing.image_size for run in _controls(plan, "base")
    }
    assert sizes == {"timm/resnet18": 48, "timm/vit_tiny_patch16_224": 32}
    assert [run.job.reference for run in plan.runs if not run.stitch.control] == [None]


def test_stages_of_several_models_have_no_base_and_those_of_one_whole_model_do(tmp_path):
    first, last = {"Subnet": {**SMALLNET, "block_output": "blocks.0"}}, {"Subnet": {**SMALLNET, "block_input": "blocks.2"}}  # fmt: skip
    middle = {"Subnet": {**SMALLNET, "block_input": "blocks.1", "block_output": "blocks.1"}}
    wider = {"Subnet": {**SMALLNET, "num_blocks": 3, "block_input": "blocks.1", "block_output": "blocks.1"}}
    whole = planned(tmp_path / "a", stages=[first, middle, last], gaps=gaps([1, 1]))
    assert [run.as_json()["network"]["Net"]["model_name"] for run in _controls(whole, "base")] == ["smallnet"]
    mixed = planned(tmp_path / "b", stages=[first, wider, last], gaps=gaps([1, 1]))
    assert _controls(mixed, "base") == []
    assert all(run.job.reference is None for run in mixed.runs)


def test_self_stitches_are_of_every_cut_of_the_cells(tmp_path):
    plan = planned(tmp_path, models=[RESNET, VIT], pairs="cross", gaps=gaps([1, 2], [3, 4]), controls=["self"])
    runs = _controls(plan, "self")
    assert [(run.stitch.source.title, run.stitch.gap) for run in runs] == [
        (title, (place, place - 1))
        for title in ("timm/resnet18", "timm/vit_tiny_patch16_224") for place in (1, 3, 5)
    ]  # fmt: skip
    assert runs[0].name == "self-small-resnet18-cut-1"
    assert runs[0].metadata("small") | {"macs": 0} == {
        "name": "self-small-resnet18-cut-1", "arch": "small", "control": "self", "source": "timm/resnet18",
        "destination": "timm/resnet18", "first_deleted_block": 1, "last_deleted_block": 0, "source_depth": 1 / 8,
        "destination_depth": 1 / 8, "num_downsamples": 0, "adapter": "identity", "seed": 12345, "macs": 0,
    }  # fmt: skip
    assert [list(part) for part in _parts(runs[0])] == [["Subnet"], ["Function"], ["Subnet"]]


def test_random_controls_have_the_cells_adapter_and_weights_of_no_training(tmp_path):
    trained = {**SMALLNET, "ckp_path": str(_weights(tmp_path))}
    stitchers = ["affine", "finetune", "affine_least_squares"]
    plan = planned(tmp_path, models=[trained], gaps=gaps([1, 1]), controls=ALL, stitchers=stitchers)
    (ordinary,) = [run for run in plan.entries if not run.stitch.control and run.stitch.stitcher == "affine"]
    source, adapter, dest = _parts(ordinary)
    assert "ckp_path" in source["Subnet"]
    for kind, place in (("random_source", 0), ("random_dest", 2)):
        run = next(run for run in _controls(plan, kind) if run.stitch.stitcher == "affine")
        parts = _parts(run)
        assert parts[1] == adapter
        untrained = parts[place]["Subnet"]
        assert untrained["pretrained"] is False
        assert untrained["random"] is True
        assert "ckp_path" not in untrained
        assert untrained["frozen"]
        assert parts[2 - place] == (dest if place == 0 else source)
        assert run.trainable == ordinary.trainable
        assert run.name == f"{ordinary.name}-control-{kind}"
        assert run.metadata("small") | {"macs": 0} == ordinary.metadata("small") | {
            "name": run.name, "control": kind, "macs": 0,
        }  # fmt: skip
        assert run.job.reference == ordinary.job.reference  # the trained one
    only = next(run for run in _controls(plan, "adapter_only") if run.stitch.stitcher == "affine")
    assert _parts(only) == [source, adapter]
    assert "ClassifierHead" in only.as_json()["network"]["Assembly"]["head"]
    made = {kind: [run.stitch.stitcher for run in _controls(plan, kind)] for kind in ALL[1:]}
    assert made == {
        "random_source": ["affine", "affine_least_squares"], "random_dest": ["affine", "affine_least_squares"],
        "adapter_only": ["affine"],
    }  # fmt: skip


def _weights(folder: Path) -> Path:
    from stitching.models.building import build
    from stitching.models.spec import ModelSpec

    arguments = {key: value for key, value in SMALLNET.items() if key != "model_name"}
    torch.save({"model": build(ModelSpec.parse("local/smallnet", **arguments), 7).state_dict()}, folder / "weights.pt")
    return folder / "weights.pt"


@pytest.mark.parametrize(
    ("controls", "words"),
    [(["selff"], "self"), ("self", "list"), (["self", "self"], "is repeated"), ([1], "controls")],
)
def test_mistakes_in_controls_are_told(tmp_path, cli, controls, words):
    path = write_sweep(tmp_path / "small.yml", controls=controls)
    assert_user_error(cli("plan", path), str(path), words)


# ------------------------------------------------------------------------ training them


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A sweep of trained weights with every control, trained."""
    folder = tmp_path_factory.mktemp("controls")
    model = {**SMALLNET, "ckp_path": str(_trained_weights(folder))}
    path = write_sweep(
        folder / "small.yml", models=[model], gaps=gaps([1, 1], [2, 2]), controls=ALL, save_dir=str(folder / "runs"),
        train_config={"validation": {"fraction": 0.1}, "data_preprocessing": {"image_size": 16}, "epochs": 2, "batch_size": 64, "optimizer_args": {"lr": 0.03}},
    )  # fmt: skip
    plan, submission = go(path)
    assert submission.failures == {}
    return plan, load_results(folder / "runs")


def _trained_weights(folder: Path) -> Path:
    from stitching.config.yaml import Document
    from stitching.runs.folder import RunFolder
    from stitching.runs.kinds import RunRequest, read_job
    from stitching.training.session import train

    data = {
        "model": {"Net": SMALLNET}, "save_checkpoints": True,
        "train_config": {"dataset": "digits", "data_preprocessing": {"image_size": 16}, "epochs": 4, "batch_size": 64, "optimizer_args": {"lr": 0.01}},
    }  # fmt: skip
    train([RunRequest(read_job(Document(folder / "config.yml", data)), RunFolder(folder / "base"))])
    return folder / "base" / "checkpoint.pt"


def test_the_self_stitch_gives_the_base_accuracy_exactly(results):
    _, rows = results
    base = rows[rows["base"].notna()]
    assert len(base) == 1
    same = rows[rows["control"] == "self"]
    assert len(same) == 3  # cut before 1, 2 and 3
    assert same["Overall/Test Accuracy"].eq(base["Overall/Test Accuracy"].iloc[0]).all()
    assert same["Overall/Val Loss"].eq(base["Overall/Val Loss"].iloc[0]).all()
    assert same["Overall/Test Agreement"].eq(1).all()
    assert same["Overall/Test KL Divergence"].eq(0).all()
    assert base["Overall/Test Accuracy"].iloc[0] > 0.5
    assert pytest.approx(base["Overall/Test Accuracy"].iloc[0]) == _final_accuracy(results)


def _final_accuracy(results) -> float:
    """What the training of the base network itself said at its end."""
    plan, _ = results
    return read_yaml(plan.folder.parent / "base" / "metadata.yml")["final"]["Overall/Test Accuracy"]


def test_controls_know_less_than_what_they_are_controls_of(results):
    _, rows = results
    last = rows[rows["Epoch"] == 2].set_index(["gap", "control"])["Overall/Test Accuracy"]
    for gap in ("1-1", "2-2"):
        stitched = rows[(rows["gap"] == gap) & rows["control"].isna() & (rows["Epoch"] == 2)]["Overall/Test Accuracy"]
        assert last[gap, "random_source"] < stitched.iloc[0]
        assert last[gap, "random_dest"] < stitched.iloc[0]
    assert set(rows["control"].dropna()) == set(ALL)


def test_random_networks_are_on_record_and_of_ordinary_ones_there_are_none(results):
    plan, _ = results
    on_record = {run.stitch.control for run in plan.runs if "random_networks" in read_yaml(plan.folder / run.name / "metadata.yml")}  # fmt: skip
    assert on_record == {"random_source", "random_dest"}
    (run, *_) = _controls(plan, "random_source")
    metadata = read_yaml(plan.folder / run.name / "metadata.yml")
    assert metadata["random_networks"] == {"local/smallnet": {"bn_images": 256}}
    assert metadata["config"]["model"]["Assembly"]["parts"][0]["Subnet"]["random"] is True


def test_untrained_weights_follow_the_seed_and_the_rest_is_as_trained(tmp_path):
    """The network that runs is the one that the plan names, frozen where it says so."""
    plan = plan_of(write_sweep(tmp_path / "a.yml", models=[{**SMALLNET, "ckp_path": str(_weights(tmp_path))}], seeds=[1, 2], controls=["random_source"]))  # fmt: skip
    from stitching.nets.build import BuildOptions, build_network

    networks = [
        build_network(run.job.network, Format("img", 1, (32, 32)), BuildOptions(seed=run.seed, num_classes=10))
        for run in _controls(plan, "random_source")
    ]
    fronts = [network.pieces[0].state_dict() for network in networks]
    assert any(not torch.equal(fronts[0][name], fronts[1][name]) for name in fronts[0])
    backs = [network.pieces[-1].state_dict() for network in networks]
    assert all(torch.equal(backs[0][name], backs[1][name]) for name in backs[0])
    assert not any(p.requires_grad for network in networks for p in network.pieces[0].parameters())


def test_base_runs_are_not_made_again_by_another_submit(tmp_path):
    path = write_sweep(tmp_path / "small.yml", models=[SMALLNET], save_dir=str(tmp_path / "runs"))
    go(path)
    before = frame_of(tmp_path / "runs" / "base-small-smallnet")
    _, again = go(write_sweep(path, models=[SMALLNET], save_dir=str(tmp_path / "runs"), train_config={"epochs": 2}))  # fmt: skip
    assert frame_of(tmp_path / "runs" / "base-small-smallnet").equals(before)
    assert again.failures == {}
    started = (tmp_path / "runs" / "base-small-smallnet" / "log.txt").read_text().count("before training")
    assert started == 1


def test_a_self_stitch_that_is_not_the_network_is_shouted(tmp_path, cli, monkeypatch):
    """As a cut at the wrong place would show itself."""
    model = {**SMALLNET, "ckp_path": str(_trained_weights(tmp_path))}
    small = {"data_preprocessing": {"image_size": 16}}
    path = write_sweep(
        tmp_path / "small.yml", models=[model], controls=["self"], save_dir=str(tmp_path / "runs"), train_config=small
    )
    monkeypatch.setattr("stitching.launch.schedulers.worker_pool.run_locally", in_this_process)
    monkeypatch.setitem(dery.FUNCTIONS, "identity", (lambda x: x.flip(1), False))
    shown = cli("submit", path, "--cluster", "local")
    assert "self-small-smallnet-cut-1: CHECK FAILED" in shown.out.replace("\n", " ")
    shown = cli("status", path)
    assert "2 CHECKS FAILED: do not trust these results" in shown.out
