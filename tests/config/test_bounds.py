"""No number, text or list of a config makes anything overflow, fill the memory or run without end."""

from __future__ import annotations

import time

import pytest
import torch

from stitching.config.clusters import Profile
from stitching.config.errors import UserError
from stitching.config.job_files import override
from stitching.config.schema import validated
from stitching.config.sweep import read_sweep
from stitching.config.train_config import TrainConfig
from stitching.config.yaml import Document, load_yaml, parse_assignments
from stitching.cutting.formats import Format
from stitching.nets.build import build_network
from stitching.nets.buildable import BuildOptions
from stitching.nets.parts.heads import ClassifierHeadPart
from stitching.runs.kinds import read_job
from stitching.training.optim import try_training

ADAPTER = "model.Assembly.parts"
SWEEP = "models: [local/smallnet]\ntrain_config: {dataset: digits}\n"


@pytest.mark.parametrize(
    "assignment",
    [
        *(f"train_config.{key}" for key in [
            "seed=10000000000000000000000", "seed=9223372036854775808", "epochs=1000000", "batch_size=1000000000000",
            "max_steps=10000000000", "max_batches=10000000000", "max_grad_norm=.inf", "lr=.inf", "lr=.nan", "lr=1e999",
            "data_preprocessing.image_size=1000000", "data_preprocessing.mean=[.nan]", "data_preprocessing.std=[.inf]",
            "data_preprocessing.crop_pct=1e-300", "validation={fraction: 0.1, seed: 10000000000000000000000}",
            "optimizer_args={lr: .inf}", "optimizer_args={lr: 0.1, betas: [.nan, 0.9]}", "optimizer_args={eps: -.inf}",
            "loss_fn_args={label_smoothing: .nan}", "loss_fn_args={ignore_index: 10000000000000000000000}",
            "aux_losses=[{output: parts.0, weight: .inf}]",
            "lr_scheduler_args={gamma: .nan}", f"optimizer={'x' * 20_000}",
        ]),
        "workers=100000", "print_freq=10000000000", "checkpoint_minutes=.inf", "checkpoint_minutes=1e10", "start_epoch=1000000",
        f"device={'x' * 20_000}",
        *(f"model={{SimpleAdapter: {{num_conv: 1, {argument}}}}}" for argument in [
            "out_channels: 1000000000000", "in_channels: 1000000", "hid_channels: 1000000", "kernel_size: 1000000",
            "stride: 1000000", "padding: 1000000", "in_format: [img, [1000000, 1000000, 1000000]]",
        ]),
        *(f"model={{{kind}: {{{argument}}}}}" for kind, argument in [
            ("SimpleAdapter", "num_conv: 10000000"), ("SimpleAdapter", "num_fc: 10000000"),
            ("VisionTransformerBlock", "num_heads: 1000000"), ("VisionTransformerBlock", "mlp_ratio: 1e300"),
            ("VisionTransformerBlock", "embed_dim: 1000000"), ("SwinTransformerBlock", "window_size: 1000000"),
            ("ClassifierHead", "pooled_size: 1000000"), ("ClassifierHead", "pooled_size: [1, 1000000]"),
            ("ClassifierHead", "num_classes: 1000000"), ("DeRyAdapter", "num_conv: 10000000"),
            ("Net", "model_name: smallnet, width: .nan"), ("Net", "model_name: smallnet, width: 10000000000000000000000"),
        ]),
    ],
    ids=lambda text: text[:60],
)  # fmt: skip
def test_no_job_holds_numbers_without_bounds(write, small_job, assignment):
    path = write("config.yml", small_job)
    document = load_yaml(path)
    ((key, value),) = parse_assignments([assignment], "--set", "a=1").items()
    override(document, key, value, "command line")
    with pytest.raises(UserError, match=key.replace(".", r"\.")) as caught:
        read_job(document)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seeds: [1, 10000000000000000000000]\n", "seeds.1"),
        ("gaps: [{blocks_to_drop: [1, 1000000]}]\n", "blocks_to_drop"),
        ("gaps: [{blocks_to_drop: [1, 1], num_downsamples: 1000000}]\n", "num_downsamples"),
        ("gaps: {max_dropped: 1000000}\n", "max_dropped"),
        ("grid: {train_config.lr: [.nan]}\n", "finite"),
        ("grid: {" + ", ".join(f"k{i}: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]" for i in range(9)) + "}\n", "1,000,000,000"),
    ],
)
def test_no_sweep_holds_numbers_without_bounds(write, text, words):
    with pytest.raises(UserError, match=r"sweep\.yml:3") as caught:
        read_sweep(load_yaml(write("sweep.yml", SWEEP + text)))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "key", ["gpus", "processes", "cpus", "minutes", "signal_seconds", "array_parallelism", "memory_gb"]
)
def test_no_profile_holds_numbers_without_bounds(tmp_path, key):
    with pytest.raises(UserError, match=key):
        validated(Profile, Document(tmp_path / "clusters.yml", {key: 10**12}))


def test_keys_from_outside_have_bounds(write, small_job):
    document = load_yaml(write("config.yml", small_job))
    with pytest.raises(UserError, match="900 parts"):
        override(document, ".".join(["a"] * 900), 1, "command line")
    with pytest.raises(UserError, match="expected a mapping") as caught:
        override(document, "model.Assembly.parts.0", 1, "command line")
    assert len(str(caught.value)) < 300


def test_parts_that_would_fill_the_memory_are_not_built():
    head = ClassifierHeadPart(num_classes=100_000, pooled_size=4096)
    for meta in (True, False):  # on the meta device nothing is needed, and the plan is to tell it all the same
        with pytest.raises(UserError, match=r"GB|allocate memory"):
            build_network(head, Format.parse(["img", [2048, 7, 7]]), BuildOptions(meta=meta))


def test_a_schedule_of_a_billion_steps_is_tried_in_a_moment():
    args = {"max_lr": 1.0, "total_steps": 10**6, "cadence": "steps"}
    config = TrainConfig(dataset="digits", lr_scheduler="OneCycleLR", lr_scheduler_args=args)  # type: ignore[arg-type]
    began = time.perf_counter()
    with pytest.raises(UserError, match="total steps is 1000000"):
        try_training(config, 10**9, torch.device("cpu"))
    try_training(config, 10**6 - 1, torch.device("cpu"))
    assert time.perf_counter() - began < 20
