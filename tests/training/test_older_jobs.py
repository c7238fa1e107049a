"""Keys of older job files, each in a training of two steps."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from small_jobs import frame_of, job_of, trained
from yaml_files import read_yaml

from stitching.config.errors import UserError
from stitching.runs.identity import identity
from stitching.training.job_data import TaskData
from stitching.training.losses import make_loss

ADAPTER = {"SimpleAdapter": {"num_conv": 1, "out_channels": 4}}


def job(**train_config):
    """An adapter with a head; trained on two batches of four digits."""
    settings = {
        "dataset": "digits",
        "data_preprocessing": {"image_size": 8},
        "epochs": 1,
        "max_batches": 2,
        "batch_size": 4,
    }
    return {
        "model": {"Assembly": {"parts": [ADAPTER, {"ClassifierHead": {}}]}},
        "train_config": settings | train_config,
    }


def tasks(*each):
    """A job on two data sets with a head each, from all keys of each."""
    heads = {"ParallelPart": {"parts": [{"ClassifierHead": {}}, {"ClassifierHead": {}}]}}
    return job(dataset=None, tasks=list(each)) | {"model": {"Assembly": {"parts": [heads]}}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set of 12 training and 4 test images of two classes, in colour and in two sizes."""
    from PIL import Image

    root = tmp_path_factory.mktemp("older")
    for part, count in (("train", 12), ("val", 4)):
        for i in range(count):
            path = root / "data" / "image_folder" / part / f"class-{i % 2}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20 + 10 * (i % 3), 24), (100 * (i % 2), 9 * i, 50)).save(path)
    return root


def row(folder, data) -> pd.Series:
    """The last row of the job's dataframe."""
    (run,) = trained(data, folder)
    assert run.failure is None
    return frame_of(run.folder.path).iloc[-1]


def test_all_keys_of_a_task_at_once(folder, tmp_path):
    own = {
        "data_augmentation": ["RandomHorizontalFlip"],
        "random_resize_scale": [0.9, 1.0],
        "channels": 1,
        "mean": [0.5],
        "std": [0.5],
    }
    second = {
        "dataset": "image_folder",
        "max_batches": 1,
        "data_preprocessing": own,
        "loss_fn": "mse_loss",
        "loss_scale": 0.25,
        "batch_size": 5,
    }
    data = tasks({"dataset": "digits"}, second) | {"data_path": str(folder / "data")}
    data["train_config"] |= {"data_preprocessing": {"image_size": [8, 12]}, "max_batches": 3, "max_grad_norm": 0}
    batches = TaskData(job_of(data, tmp_path)).train
    assert [(len(each), each.shape) for each in batches] == [(3, (1, 8, 12)), (1, (1, 8, 12))]
    last = row(tmp_path, data)
    assert last["Loss"] == pytest.approx(last["digits/Loss"] + 0.25 * last["image_folder/Loss"])
    assert last["image_folder/Loss"] < 0.7 * last["digits/Loss"], "an error of two scores, and a cross entropy of ten"
    assert last["Overall/Test image_folder/Accuracy"] in (0, 0.25, 0.5, 0.75, 1)


def test_a_task_has_the_losses_of_its_own_in_tests_too(tmp_path, folder):
    """Test losses are not scaled."""
    losses = []
    for scale in (1.0, 3.0):
        second = {
            "dataset": "image_folder",
            "loss_fn": "mse_loss",
            "loss_scale": scale,
            "data_preprocessing": {"channels": 1, "mean": [0.5], "std": [0.5]},
        }
        data = tasks({"dataset": "digits"}, second) | {"data_path": str(folder / "data"), "test_only": True}
        losses.append(row(tmp_path / str(scale), data)["Overall/Test image_folder/Loss"])
    assert losses[0] == losses[1]


def test_the_squared_error_is_of_labels_as_vectors(tmp_path):
    scores, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    expected = F.mse_loss(scores, F.one_hot(labels, 3).float())
    assert torch.allclose(make_loss("mse_loss", {}, 3)(scores, labels), expected)
    assert torch.allclose(make_loss("mse_loss", {}, 3).values(scores, labels, "sum"), 6 * expected)


def test_losses_are_metrics_too(tmp_path):
    names = ["cross_entropy", "mse_loss", "cosine_similarity"]
    metrics = [{"metric_fn": name} for name in names] + [{"metric_fn": "topk_accuracy", "metric_fn_args": {"topk": 5}}]
    last = row(tmp_path, job() | {"metrics": metrics})
    assert last["Cross Entropy"] == pytest.approx(last["Loss"], rel=1e-5)
    assert last["Overall/Test Cross Entropy"] == pytest.approx(last["Overall/Test Loss"], rel=1e-5)
    assert -1 <= last["Overall/Test Cosine Similarity"] <= 1
    assert last["Overall/Test MSE Loss"] > 0
    assert 0.2 < last["Overall/Test Top-5 Accuracy"] < 0.9
    assert "Overall/Test Top-1 Accuracy" not in last
    squares = row(tmp_path / "mse", job(loss_fn="mse_loss") | {"metrics": metrics})
    assert squares["MSE Loss"] == pytest.approx(squares["Loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("change", "same_as"),
    [
        ({"max_grad_norm": 0}, {}),
        ({"data_preprocessing": {"image_size": [8, 8], "resize_mode": "nearest", "to_rgb": True}},
         {"data_preprocessing": {"image_size": 8, "interpolation": "nearest", "channels": 3}}),
        ({"data_preprocessing": {"image_size": 8, "random_resize_scale": [0.5, 1.0]}},
         {"data_preprocessing": {"image_size": 8, "random_resize_scale": [0.5, 1.0], "train_crop": "random_resized"}}),
        ({"data_augmentation": ["RandAugment"]}, {"data_preprocessing": {"image_size": 8, "data_augmentation": [{"transform": "RandAugment"}]}}),
    ],
)  # fmt: skip
def test_older_spellings_are_the_same_job(tmp_path, change, same_as):
    assert identity(job_of(job(**change), tmp_path)) == identity(job_of(job(**same_as), tmp_path))


@pytest.mark.parametrize(
    "change",
    [
        {"data_augmentation": ["RandAugment"]},
        {"data_preprocessing": {"image_size": 8, "random_resize_scale": [0.5, 1.0]}},
        {"data_preprocessing": {"image_size": 8, "resize_mode": "pad"}},
        {"dataset": None, "tasks": [{"dataset": "digits", "loss_scale": 2.0}]},
        {"dataset": None, "tasks": [{"dataset": "digits", "loss_fn": "mse_loss"}]},
        {"dataset": None, "tasks": [{"dataset": "digits", "max_batches": 1}]},
    ],
)
def test_older_keys_that_matter_make_another_job(tmp_path, change):
    assert identity(job_of(job(**change), tmp_path)) != identity(job_of(job(), tmp_path))


@pytest.mark.parametrize(("verbose", "says_steps"), [(0, False), (1, True), (3, True)])
def test_how_much_is_logged_is_a_number_too(tmp_path, verbose, says_steps):
    (run,) = trained(job() | {"verbose": verbose, "print_freq": 1, "project": "older"}, tmp_path)
    assert ("step 1, loss" in run.folder.log.read_text()) == says_steps
    assert read_yaml(run.folder.metadata)["project"] == "older"
    assert run.identity == identity(job_of(job(), tmp_path)), "it changes no result"


ALL_ODDITIES = """\
assembly:
  - Subnet: {backend: timm, model_name: resnet18, pretrained: false, in_chans: 1, channels: [8, 8, 12, 16], block_output: layer2, frozen: true, out_format: [img, 6]}
  - ParallelPart:
      parts:
        - SwinTransformerBlock: {num_heads: 2, window_size: [3, 3], drop_path_rate: 0.1, do_shift: true, mlp_ratio: 1}
        - SimpleAdapter: {num_conv: 1, num_fc: 0, out_channels: 12, init_identity: true}
      agg: concat
      out_format: [img, [6, 6]]
      reformat_options: {class_token: zeroes}
  - VisionTransformerBlock: {num_heads: 2, mlp_ratio: 1, in_format: [bert, 9]}
  - SimpleAdapter: {num_conv: 0, num_fc: 1, out_channels: 6}
head:
  ParallelPart: {agg: none, parts: [{ClassifierHead: {}}, {ClassifierHead: {pooled_size: [1, 1]}}]}
reformat_options: {class_token: mean}
project: odd
verbose: 3
print_freq: 1
data_path: data
train_config:
  tasks:
    - {dataset: digits, batch_size: 120, loss_fn: mse_loss, loss_scale: 0.5}
    - dataset: image_folder
      batch_size: 3
      max_batches: 2
      data_preprocessing: {to_rgb: false, channels: 1, mean: [0.5], std: [0.5], resize_mode: squash, random_resize_scale: [0.9, 1.0]}
  data_preprocessing: {image_size: [32, 32], resize_mode: bilinear}
  data_augmentation: [{RandAugment: {num_ops: 1}}, RandomHorizontalFlip]
  epochs: 1
  max_batches: 2
  max_grad_norm: 0
  loss_fn: cross_entropy
  loss_fn_args: {label_smoothing: 0.1, reduction: mean}
  aux_losses: [{output: parts.4.net.parts.0, loss_fn: cross_entropy, weight: 0.0}]
  optimizer: SGD
  lr: 0.01
metrics:
  - {metric_fn: accuracy}
  - {metric_fn: topk_accuracy, metric_fn_args: {topk: 2}}
  - {metric_fn: cross_entropy}
  - {metric_fn: cosine_similarity}
  - {metric_fn: mse_loss}
"""


def test_one_file_with_all_older_keys_is_smoke_tested_and_trained(folder, cli):
    path = folder / "config.yml"
    path.write_text(ALL_ODDITIES)
    outcome = cli("train", "-c", path, "--smoke-test")
    assert (outcome.code, "smoke test passed" in outcome.out) == (0, True), outcome
    assert cli("train", "-c", path).code == 0
    frame = frame_of(folder)
    assert len(frame) == 2
    assert frame["Loss"].notna().all()
    names = ["Accuracy", "Top-2 Accuracy", "Cross Entropy", "Cosine Similarity", "MSE Loss"]
    assert (
        frame.iloc[-1][[f"Overall/Test {task}/{name}" for task in ("digits", "image_folder") for name in names]]
        .notna()
        .all()
    )
    assert read_yaml(folder / "metadata.yml")["project"] == "odd"
    log = (folder / "log.txt").read_text()
    assert "its LeakyReLU changes negative ones" in log
    assert "step 2, loss" in log


def test_outputs_have_the_names_of_torchvisions_feature_extraction(tmp_path):
    """A value that is no module's output, with the path of its part and without, in an auxiliary loss and metrics."""
    back = {"Subnet": {"model_name": "torchvision/shufflenet_v2_x0_5", "pretrained": False, "block_input": "conv5"}}
    adapter = {"SimpleAdapter": {"num_conv": 1, "out_channels": 192}}
    data = job(aux_losses=[{"output": "mean", "weight": 0.5}], batch_size=90, max_batches=1) | {
        "model": {"Assembly": {"parts": [adapter, back]}}
    }
    names = ["fc", "parts.1.net.fc", "parts.1.net.mean"]
    data["metrics"] = [{"metric_fn": "mse_loss", "output": name} for name in names] + [{"metric_fn": "mse_loss"}]
    last = row(tmp_path, data)
    inner, outer, mean = (last[f"MSE Loss ({name})"] for name in names)
    assert inner == outer == last["MSE Loss"]
    assert mean != inner
    for name, words in (("parts.1.net.mena", "did you mean"),):
        data["metrics"][1]["output"] = name
        with pytest.raises(UserError, match=words) as caught:
            trained(data, tmp_path / name)
        assert caught.value.path == ("metrics", 1, "output")
    twice = {
        "Assembly": {
            "parts": [adapter, back, {"SimpleAdapter": {"num_conv": 1, "out_channels": 192, "in_format": "img"}}, back]
        }
    }
    data["metrics"][1]["output"] = "mean"
    with pytest.raises(UserError, match="2 parts have 'mean'"):
        trained(data | {"model": twice}, tmp_path / "twice")
