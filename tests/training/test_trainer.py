"""What a run leaves: the rows of the dataframe, schedules, several tasks, auxiliary losses, loading weights."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch
import yaml
from small_jobs import NARROW_RESNET, WHOLE_EPOCHS, frame_of, same, stitched, trained, write_config

from stitching.config.errors import UserError
from stitching.runs.folder import RunFolder
from stitching.runs.step_log import read_result
from stitching.training.batch_values import Averages
from stitching.training.checkpoints import write_checkpoint

STEPS = 6  # 1,437 training images in batches of 256


def test_a_row_for_every_step(tmp_path):
    (run,) = trained(stitched("layer2", "layer3", checkpoint_initial_model=True), tmp_path)
    frame = read_result(run.folder.result)
    assert list(frame["Step"]) == list(range(2 * STEPS + 1))
    assert list(frame["Epoch"]) == [0] + [1] * STEPS + [2] * STEPS
    assert {"Loss", "LR", "Accuracy", "Time/Data", "Time/Step", "Time/Img Per Sec", "Proc Mem"} <= set(frame)
    ends = frame[frame["Overall/Test Accuracy"].notna()]
    assert list(ends["Step"]) == [0, STEPS, 2 * STEPS]
    assert math.isnan(frame["Loss"][0])
    assert frame["Time/Per Epoch"].notna().sum() == 2
    assert frame["Accuracy"][1:].between(0, 1).all()


def test_averages_count_a_batch_by_its_size(tmp_path):
    averages = Averages()
    averages.add("Accuracy", 3.0, 4)
    averages.add("Accuracy", 0.0, 1)
    assert averages.means() == {"Accuracy": 3 / 5}
    (run,) = trained(stitched("layer2", "layer3", train_config=WHOLE_EPOCHS), tmp_path)
    frame = frame_of(run.folder.path)
    first = frame[frame["Epoch"] == 1]
    sizes = [256] * 5 + [1437 - 5 * 256]
    by_hand = sum(value * size for value, size in zip(first["Accuracy"], sizes, strict=True)) / 1437
    assert first["Overall/Train Accuracy"].iloc[-1] == pytest.approx(by_hand, abs=1e-12)


def test_the_whole_test_set_is_tested_whatever_the_batch(tmp_path):
    results = []
    for size in (7, 360):
        (run,) = trained(
            stitched("layer2", "layer3", test_only=True, train_config={"batch_size": size}), tmp_path / str(size)
        )
        results.append(run.final)
    assert results[0]["Overall/Test Accuracy"] == results[1]["Overall/Test Accuracy"]
    assert results[0]["Overall/Test Loss"] == pytest.approx(results[1]["Overall/Test Loss"], rel=1e-5)
    assert results[0]["Overall/Test Accuracy"] * 360 == pytest.approx(round(results[0]["Overall/Test Accuracy"] * 360))


def test_limits_and_cadences(tmp_path):
    schedule = {"lr_scheduler": "StepLR", "lr_scheduler_args": {"step_size": 1, "gamma": 0.5}}
    (by_epoch,) = trained(stitched("layer2", "layer3", train_config=schedule), tmp_path / "epochs")
    assert list(frame_of(by_epoch.folder.path)["LR"]) == [0.01] * STEPS + [0.005] * STEPS
    schedule["lr_scheduler_args"] |= {"cadence": "steps"}
    (by_step,) = trained(stitched("layer2", "layer3", train_config=schedule | {"max_steps": 8}), tmp_path / "steps")
    frame = frame_of(by_step.folder.path)
    assert list(frame["LR"]) == pytest.approx([0.01 * 0.5**i for i in range(8)])
    assert frame["Overall/Test Accuracy"].notna().sum() == 2
    (short,) = trained(stitched("layer2", "layer3", train_config={"max_batches": 2}), tmp_path / "batches")
    assert list(frame_of(short.folder.path)["Step"]) == [1, 2, 3, 4]


def test_schedulers_nest(tmp_path):
    inner = [
        {"lr_scheduler": "LinearLR", "lr_scheduler_args": {"start_factor": 0.1, "total_iters": 4}},
        {"lr_scheduler": "ConstantLR", "lr_scheduler_args": {"factor": 0.5, "total_iters": 100}},
    ]
    args = {"cadence": "steps", "milestones": [4], "schedulers": inner}
    config = {"lr_scheduler": "SequentialLR", "lr_scheduler_args": args, "epochs": 1}
    (run,) = trained(stitched("layer2", "layer3", train_config=config), tmp_path)
    assert list(frame_of(run.folder.path)["LR"])[:5] == pytest.approx([0.001, 0.00325, 0.0055, 0.00775, 0.005])


@pytest.mark.parametrize("cadence", ["epochs", "steps"])
def test_a_plateau_lowers_the_rate_at_its_cadence(tmp_path, cadence):
    args = {"patience": 0, "threshold": 10.0, "cadence": cadence}  # nothing is better by so much
    config = {"lr_scheduler": "ReduceLROnPlateau", "lr_scheduler_args": args, "epochs": 3, "max_batches": 2}
    (run,) = trained(stitched("layer2", "layer3", train_config=config), tmp_path)
    by_step, by_epoch = [1, 0.1, 0.01, 1e-3, 1e-4, 1e-5], [1, 1, 0.1, 0.1, 0.01, 0.01]
    rates = [0.01 * factor for factor in (by_step if cadence == "steps" else by_epoch)]
    assert list(frame_of(run.folder.path)["LR"]) == pytest.approx(rates)


def test_several_tasks_with_a_head_each(tmp_path):
    images = tmp_path / "data" / "image_folder"
    from PIL import Image

    for part, count in (("train", 30), ("val", 6)):
        for i in range(count):
            path = images / part / f"class-{i % 3}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (16, 16), 80 * (i % 3) + i).save(path)
    data = stitched("layer2", "layer3", data_path=str(tmp_path / "data"))
    del data["train_config"]["dataset"]
    data["train_config"]["tasks"] = [{"dataset": "digits"}, {"dataset": "image_folder", "batch_size": 8}]
    data["train_config"]["data_preprocessing"] |= {"channels": 1, "mean": [0.5], "std": [0.5]}
    heads = [{"ClassifierHead": {}}, {"ClassifierHead": {}}]  # their classes are those of their tasks
    front = {"Subnet": {**NARROW_RESNET, "block_output": "layer2", "frozen": True}}
    data["model"] = {"Assembly": {"parts": [front, {"ParallelPart": {"parts": heads, "agg": "none"}}]}}
    (run,) = trained(data, tmp_path / "runs")
    frame = frame_of(run.folder.path)
    assert len(frame) == 2 * STEPS
    for task in ("digits", "image_folder"):
        assert frame[f"{task}/Accuracy"].notna().all()
        assert frame[f"Overall/Test {task}/Accuracy"].notna().sum() == 2
    assert run.final["Overall/Test image_folder/Accuracy"] * 6 == pytest.approx(
        round(run.final["Overall/Test image_folder/Accuracy"] * 6)
    )
    classes = [part.net.fc.out_features for part in run.network.pieces[-1].net.parts]
    assert classes == [10, 3]
    data["model"]["Assembly"]["parts"] = [front, {"ClassifierHead": {"num_classes": 10}}]
    with pytest.raises(UserError, match="one output, the data 2 tasks"):
        trained(data, tmp_path / "wrong")
    data["train_config"]["data_preprocessing"].pop("channels")
    with pytest.raises(UserError, match="its images are 3x16x16, those of the first task 1x16x16"):
        trained(data, tmp_path / "other")
    frame = frame_of(run.folder.path)
    assert np.allclose(frame["digits/Loss"] + frame["image_folder/Loss"], frame["Loss"])


def test_outputs_inside_the_network_are_scored_and_trained(tmp_path):
    data = stitched("layer2", "layer3", train_config={"epochs": 1})
    branches = [{"ClassifierHead": {}}, {"ClassifierHead": {}}]
    data["model"]["Assembly"]["parts"][2] = {"ParallelPart": {"parts": branches, "agg": "avg"}}
    data["train_config"]["aux_losses"] = [{"output": "parts.2.net.parts.0", "weight": 0.5}]
    data["metrics"] = [
        {"metric_fn": "topk_accuracy", "metric_fn_args": {"topk": [1, 3]}},
        {"metric_fn": "accuracy", "output": "parts.2.net.parts.0"},
    ]
    (run,) = trained(data, tmp_path)
    frame = frame_of(run.folder.path)
    assert (frame["Top-3 Accuracy"] >= frame["Top-1 Accuracy"]).all()
    assert frame["Accuracy (parts.2.net.parts.0)"].notna().all()
    data["metrics"][1]["output"] = "parts.0"
    with pytest.raises(UserError, match="not a row of scores"):
        trained(data, tmp_path / "wrong")


def test_weights_of_a_whole_network_load_into_the_assembly_it_begins(tmp_path):
    base = stitched("layer2", "layer3", save_checkpoints=True, train_config={"epochs": 1})
    base["model"] = {"Net": NARROW_RESNET}
    (whole,) = trained(base, tmp_path / "base")
    new_head = stitched("layer2", "layer3", load_from=str(whole.folder.checkpoint), strict_load=False, test_only=True)
    body = {"Subnet": {**NARROW_RESNET, "block_output": "layer4"}}
    new_head["model"]["Assembly"]["parts"] = [body, {"ClassifierHead": {}}]
    (run,) = trained(new_head, tmp_path / "head")
    shared_prefixes, head = run.network.state_dict(), whole.network.state_dict()
    assert torch.equal(shared_prefixes["parts.0.net.layer4.0.conv2.weight"], head["parts.0.net.layer4.0.conv2.weight"])
    with pytest.raises(UserError, match="strict_load"):
        trained(new_head | {"strict_load": True}, tmp_path / "strict")


def test_a_finished_run_keeps_its_whole_checkpoint_only_if_asked(tmp_path):
    (kept,) = trained(stitched("layer2", "layer3", save_checkpoints=True), tmp_path / "kept")
    (dropped,) = trained(stitched("layer2", "layer3"), tmp_path / "dropped")
    assert not dropped.folder.checkpoint.exists()
    weights = torch.load(kept.folder.checkpoint, weights_only=True)["model"]
    assert weights.keys() == kept.network.state_dict().keys()
    same(kept.folder.path, dropped.folder.path)
    metadata = kept.folder.read_metadata()
    assert metadata["state"] == "done"
    assert metadata["final"] == kept.final
    assert metadata["config"]["train_config"]["optimizer"] == "AdamW"  # a default, written out
    (loaded,) = trained(stitched("layer2", "layer3", load_from=str(kept.folder.checkpoint)), tmp_path / "loaded")
    record = loaded.folder.read_metadata()["weights"]
    digest = hashlib.sha256(kept.folder.checkpoint.read_bytes()).hexdigest()
    assert record[str(kept.folder.checkpoint)]["sha256"] == digest


def test_bf16_and_channels_last_run(tmp_path):
    (run,) = trained(
        stitched("layer2", "layer3", precision="bf16", channels_last=True, train_config={"epochs": 1}), tmp_path
    )
    assert frame_of(run.folder.path)["Loss"].notna().all()


def test_command_line_wins_over_the_file_and_a_folder_holds_several_seeds(tmp_path, cli):
    folder = write_config(tmp_path / "job", stitched("layer2", "layer3"))
    options = ["--epochs", "1", "--batch-size", "720", "--lr", "0.5", "--seed", "8"]
    assert cli("train", "-c", folder / "config.yml", *options).code == 0
    config = yaml.safe_load((folder / "metadata.yml").read_text())["config"]["train_config"]
    assert (config["epochs"], config["batch_size"], config["optimizer_args"]["lr"], config["seed"]) == (1, 720, 0.5, 8)
    assert list(read_result(folder / "result.pkl")["LR"]) == [0.5, 0.5]
    assert cli("train", "-c", folder / "config.yml", *options[:-1], "9").code == 0
    assert (folder / "result-9.pkl").exists()
    assert (folder / "log-9.txt").exists()
    refused = cli("train", "-c", folder / "config.yml", *options)
    assert refused.code == 2
    assert "--overwrite" in refused.err
    assert cli("train", "-c", folder / "config.yml", *options, "--overwrite").code == 0


def test_what_the_network_costs_is_recorded(tmp_path):
    data = stitched("layer2", "layer3", verbose=True, print_freq=5)
    data["model"] = {"Net": {"model_name": "smallnet", "num_blocks": 1, "width": 4, "in_chans": 1}}
    (run,) = trained(data, tmp_path)
    metadata = run.folder.read_metadata()
    head = 4 * 10  # the number of classes is the data set's
    norm = 2 * 4
    bias = 0 if metadata["parameters"] == 4 * 9 + norm + head + 10 else 4
    assert metadata["parameters"] == 4 * 9 + bias + norm + head + 10
    assert metadata["macs"] == 4 * 9 * 16 * 16 + head
    assert "multiply-adds" in metadata["macs_convention"]
    assert "step 10, loss" in run.folder.log.read_text()


def test_smoke_test_keeps_nothing(tmp_path, cli):
    folder = write_config(tmp_path / "job", stitched("layer2", "layer3", resume_from="of-the-real-run.pt"))
    outcome = cli("train", "-c", folder / "config.yml", "--smoke-test")
    assert outcome.code == 0
    assert "passed" in outcome.out
    assert [path.name for path in folder.iterdir()] == ["config.yml"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("identity"), "is of another config"),
        (lambda state: state.pop("model"), "does not hold what a run resumes from (KeyError: 'model')"),
        (lambda state: state.update(place=7), "does not hold what a run resumes from (TypeError"),
        (lambda state: state.update(optimizer={"state": []}), "does not hold what a run resumes from"),
    ],
)
def test_a_checkpoint_that_lacks_something_is_one_message(tmp_path, change, words):
    """Its digest is right: another version wrote it, or somebody by hand."""
    (first,) = trained(stitched("layer2", "layer3", save_checkpoints=True), tmp_path / "first")
    state = torch.load(first.folder.checkpoint, weights_only=True)
    change(state)
    write_checkpoint(RunFolder(tmp_path), state)
    job = stitched("layer2", "layer3", resume_from=str(tmp_path / "checkpoint.pt"))
    with pytest.raises(UserError) as error:
        trained(job, tmp_path / "second")
    assert words in str(error.value)


def test_a_lack_of_memory_while_resuming_is_not_blamed_on_the_checkpoint(tmp_path, monkeypatch):
    (first,) = trained(stitched("layer2", "layer3", save_checkpoints=True), tmp_path / "first")

    def exhausted(self, state):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.optim.AdamW, "load_state_dict", exhausted)
    job = stitched("layer2", "layer3", resume_from=str(first.folder.checkpoint))
    with pytest.raises((torch.OutOfMemoryError, UserError), match="memory") as error:
        trained(job, tmp_path / "second")
    assert "does not hold" not in str(error.value)
