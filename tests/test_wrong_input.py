"""Wrong input is told, not traced: exit code 2, one message with file and line, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from user_errors import assert_user_error, files_below

# What is replaced in the small job, by what, the line that the message must name (0: the file alone), words it must have.
TRAIN: list[tuple[str, str, int, str]] = [
    # typos in every section
    ("model:", "modle:", 1, "did you mean 'model'"),
    ("Assembly:", "Asembly:", 2, "did you mean 'Assembly'"),
    ("parts:", "prats:", 3, "did you mean 'parts'"),
    ("- Subnet: {", "- SubNet: {", 4, "did you mean 'Subnet'"),
    ("- SimpleAdapter", "- SimpelAdapter", 5, "did you mean 'SimpleAdapter'"),
    ("model_name: smallnet", "model_nam: convnet", 4, "did you mean 'model_name'"),
    ("model_name: smallnet", "model_name: convent", 4, "did you mean 'convnet'"),
    ("block_output: blocks.0", "block_outptu: blocks.0", 4, "did you mean 'block_output'"),
    ("block_output: blocks.0", "block_output: block.0", 4, "did you mean 'blocks.0'"),
    ("block_input: blocks.1", "block_input: blocks.9", 6, "blocks.1"),
    ("frozen: true", "forzen: true", 4, "did you mean 'frozen'"),
    ("num_conv: 1", "num_conv: 0", 5, "neither of num_conv and num_fc"),
    ("num_conv: 1", "num_conv: 1, in_format: [img, [8]]", 5, "also without C"),
    ("num_conv: 1", "num_conv: 1, in_format: [img, 0]", 5, "above zero"),
    ("- SimpleAdapter: {num_conv: 1, kernel_size: 1, out_channels: 8}", "- SwinTransformerBlock: {window_size: [7, 7, 7]}", 5, "at most 2"),
    ("- SimpleAdapter: {num_conv: 1, kernel_size: 1, out_channels: 8}", "- SwinTransformerBlock: {drop_path_rate: 2}", 5, "less than 1"),
    ("- SimpleAdapter: {num_conv: 1, kernel_size: 1, out_channels: 8}", "- ParallelPart: {parts: [], reformat_option: 1}", 5, "did you mean 'reformat_options'"),
    ("num_conv: 1", "num_convs: 1", 5, "did you mean 'num_conv'"),
    ("kernel_size: 1", "kernelsize: 1", 5, "did you mean 'kernel_size'"),
    ("train_config:", "train_cfg:", 7, "did you mean 'train_config'"),
    ("dataset: digits", "datasett: digits", 8, "did you mean 'dataset'"),
    ("dataset: digits", "dataset: digit", 8, "did you mean 'digits'"),
    ("image_size: 8", "imagesize: 8", 9, "did you mean 'image_size'"),
    ("epochs: 2", "epoch: 2", 10, "did you mean 'epochs'"),
    ("batch_size: 256", "batchsize: 256", 11, "did you mean 'batch_size'"),
    ("lr: 0.01", "learning_rate: 0.01", 12, "lr"),
    ("lr: 0.01", "lr: 0.01, weight_deacy: 0.1", 12, "did you mean 'weight_decay'"),
    ("optimizer_args:", "optimizer: AdamX\n  optimizer_args:", 12, "did you mean 'Adamax'"),
    ("epochs: 2", "epochs: 2\n  lr_scheduler: CosineAnealingLR", 11, "did you mean 'CosineAnnealingLR'"),
    ("epochs: 2", "epochs: 2\n  lr_scheduler: CosineAnnealingLR\n  lr_scheduler_args: {Tmax: 2}", 12, "did you mean 'T_max'"),
    ("epochs: 2", "epochs: 2\n  loss_fn: cross_entrpy", 11, "did you mean 'cross_entropy'"),
    ("epochs: 2", "epochs: 2\n  loss_fn_args: {label_smooth: 0.1}", 11, "label_smooth"),
    ("train_config:", "metrics: [{metric_fn: acuracy}]\ntrain_config:", 7, "did you mean 'accuracy'"),
    ("train_config:", "metrics: [{metric_fn: topk_accuracy, metric_fn_args: {k: 5}}]\ntrain_config:", 7, "topk"),
    ("train_config:", "metrics: [{metric_fn: accuracy, output: parts.7}]\ntrain_config:", 7, "parts."),
    ("train_config:", "frozen_norm: batched\ntrain_config:", 7, "did you mean 'batch'"),
    ("train_config:", "precision: fp16\ntrain_config:", 7, "fp32, bf16"),
    ("train_config:", "reformat_options: {class_token: median}\ntrain_config:", 7, "zeros, ones, avg"),
    ("train_config:", "save_checkpoint: true\ntrain_config:", 7, "did you mean 'save_checkpoints'"),
    ("epochs: 2", "epochs: 2\n  aux_losses: [{output: parts.0, weigth: 1}]", 11, "did you mean 'weight'"),
    # wrong types and values
    ("epochs: 2", "epochs: two", 10, "expected a whole number"),
    ("epochs: 2", "epochs: 2.5", 10, "whole number"),
    ("epochs: 2", "epochs: -1", 10, "greater than or equal to 0"),
    ("batch_size: 256", "batch_size: 0", 11, "greater than or equal to 1"),
    ("batch_size: 256", "batch_size: '256'", 11, "expected a whole number"),
    ("lr: 0.01", "lr: fast", 12, "lr"),
    ("lr: 0.01", "lr: -0.01", 12, "learning rate"),
    ("frozen: true", "frozen: 1", 4, "expected true or false"),
    ("kernel_size: 1", "kernel_size: 0", 5, "greater than or equal to 1"),
    ("image_size: 8", "image_size: [8, 8, 3]", 9, "at most 2"),
    ("image_size: 8", "image_size: big", 9, "expected a whole number or a list"),
    ("image_size: 8", "image_size: 8, resize_mode: squish", 9, "did you mean 'squash'"),
    ("image_size: 8", "image_size: 8, resize_mode: nearest, interpolation: bicubic", 9, "one of them"),
    ("image_size: 8", "image_size: 8, random_resize_scale: [1, 0.9]", 9, "[least, most]"),
    ("image_size: 8", "image_size: 8, random_resize_scale: [0.9, 1.0], train_crop: pad", 9, "train_crop: random_resized"),
    ("image_size: 8", "image_size: 8, to_rgb: true, channels: 1", 9, "one of them"),
    ("image_size: 8", "image_size: 8, data_augmentation: [RandomHorizontalFlop]", 9, "did you mean 'RandomHorizontalFlip'"),
    ("image_size: 8", "image_size: 8, data_augmentation: [{RandAugment: {magnitud: 3}}]", 9, "did you mean 'magnitude'"),
    ("image_size: 8", "image_size: 8, data_augmentation: [{RandomRotation: {degrees: -3}}]", 9, "RandomRotation"),
    ("image_size: 8", "image_size: 8, data_augmentation: [{Resize: {size: 9}}]", 9, "as image_size says"),
    ("image_size: 8", "image_size: 8, data_augmentation: [__import__('os')]", 9, "there is no transform"),
    ("image_size: 8", "image_size: 8, data_augmentation: [[RandAugment]]", 9, "is no transform"),
    ("image_size: 8", "image_size: 8, data_augmentation: [{AutoAugment: {policy: mnist}}]", 9, "imagenet, svhn"),
    ("dataset: digits", "tasks: [{dataset: digits, loss_fn: mse}]", 8, "did you mean 'mse_loss'"),
    ("dataset: digits", "tasks: [{dataset: digits, loss_fn: mse_loss, loss_fn_args: {p: 1}}]", 8, "mse_loss does not take"),
    ("dataset: digits", "tasks: [{dataset: digits, loss_fn_args: {p: 1}}]", 8, "without loss_fn"),
    ("dataset: digits", "tasks: [{dataset: digits, loss_scale: -1}]", 8, "greater than or equal to 0"),
    ("dataset: digits", "tasks: [{dataset: digits, max_batches: 0}]", 8, "greater than or equal to 1"),
    ("dataset: digits", "tasks: [{dataset: digits}, {dataset: cifar10, data_preprocessing: {channels: 1, image_size: 9}}]", 8, "Set image_size"),
    ("dataset: digits", "tasks: [{dataset: digits, data_preprocessing: {data_augmentation: [Flop]}}]", 8, "there is no transform"),
    ("epochs: 2", "epochs: 2\n  max_grad_norm: -1", 11, "greater than or equal to 0"),
    ("train_config:", "metrics: [{metric_fn: topk_accuracy, metric_fn_args: {topk: 0}}]\ntrain_config:", 7, "above zero"),
    ("train_config:", "metrics: [{metric_fn: cross_entropy, metric_fn_args: {smooth: 1}}]\ntrain_config:", 7, "label_smoothing"),
    ("train_config:", "verbose: 4\ntrain_config:", 7, "less than or equal to 3"),
    ("optimizer_args: {lr: 0.01}", "optimizer_args: 3", 12, "expected a mapping"),
    ("- SimpleAdapter: {num_conv: 1, kernel_size: 1, out_channels: 8}", "- SimpleAdapter", 5, "a part is one class name"),
    ("epochs: 2", "epochs: 2\n  seed: -3", 11, "greater than or equal to 0"),
    ("epochs: 2", "epochs: 2\n  epochs: 3", 11, "is repeated"),
    # what is missing, or too much
    ("dataset: digits", "max_steps: 5", 7, "exactly one of dataset, tasks"),
    ("num_conv: 1, ", "", 5, "exactly one of num_conv, num_fc"),
    ("num_conv: 1", "num_conv: 1, num_fc: 1", 5, "exactly one of num_conv, num_fc"),
    ("model_name: smallnet, ", "", 4, "'model_name' is missing"),
    ("train_config:", "assembly: []\ntrain_config:", 7, "assembly"),
    ("train_config:", "resume_from: a.pt\nload_from: b.pt\ntrain_config:", 8, "one of them"),
    ("epochs: 2", "lr: 0.5", 10, "one of them"),
    # what does not fit together
    ("block_input: blocks.1", "block_input: blocks.1, in_format: [img, [8, 4, 4, 4]]", 6, "[C, H, W]"),
    ("block_input: blocks.1", "block_input: blocks.1, in_format: [imag, [8, 4, 4]]", 6, "did you mean 'img'"),
    ("block_input: blocks.1", "block_input: blocks.1, in_format: [img, [16, 4, 4]]", 6, "16 channels"),
    ("out_channels: 8", "out_channels: 12", 6, "cannot take"),
    ("out_channels: 8", "in_channels: 9, out_channels: 8", 5, "9 channels"),
    ("num_conv: 1, kernel_size: 1", "num_conv: 1, kernel_size: 1, init_identity: true, stride: 2", 5, "size of the map"),
    ("in_chans: 1, block_output", "in_chans: 3, block_output", 4, "cannot take"),
    ("width: 8, in_chans: 1, block_output", "widht: 8, in_chans: 1, block_output", 4, "width"),
    ("block_output: blocks.0", "block_input: blocks.1, block_output: blocks.0", 4, "does not come after"),
    ("num_blocks: 2, width: 8, in_chans: 1, block_input", "num_blocks: 2, num_classes: 4, width: 8, in_chans: 1, block_input", 0, "10 classes"),
    ("model_name: smallnet", "backend: timmm, model_name: smallnet", 4, "did you mean 'timm'"),
    ("model_name: smallnet", "backend: timm, model_name: resnet81", 4, "did you mean"),
    ("num_conv: 1, kernel_size: 1", "num_conv: 1, kernel_size: 1, in_format: bert", 5, "works on img, in_format is bert"),
    *(("- SimpleAdapter: {num_conv: 1, kernel_size: 1, out_channels: 8}", f"- {part}", 5, words) for part, words in (
        ("ResNetBasicBlock: {norm_type: bachnorm}", "did you mean 'batchnorm'"),
        ("ResNetBottleneck: {final_rlu: false}", "did you mean 'final_relu'"),
        ("DeRyAdapter: {num_conv: 0, output_channel: 9}", "no layer maps 8 channels to 9"),
    )),
    ("model_name: smallnet", "model_name: convnet", 4, "is smallnet now"),
    ("- SimpleAdapter: {num_conv: 1, kernel_size: 1, out_channels: 8}", "- ParallelPart: {parts: [{ClassifierHead: {}}]}", 6, "one tensor"),
    # what would go wrong in the middle of training
    *(("epochs: 2", f"epochs: 2\n  lr_scheduler: {name}\n  lr_scheduler_args: {{{args}}}", 12, words) for name, args, words in [
        ("CosineAnnealingLR", "T_max: '10'", "TypeError"),
        ("CosineAnnealingLR", "T_max: 0", "ZeroDivisionError"),
        ("StepLR", "step_size: 0", "ZeroDivisionError"),
        ("StepLR", "step_size: 1, last_epoch: 1", "StepLR"),
        ("MultiStepLR", "milestones: [a]", "expected numbers"),
        ("CyclicLR", "base_lr: 0.1, max_lr: 1, step_size_up: 0", "ZeroDivisionError"),
        ("OneCycleLR", "max_lr: 1, total_steps: 11, cadence: steps", "11"),
        ("SequentialLR", "milestones: [1], schedulers: [{lr_scheduler: ConstantLR, lr_scheduler_args: {cadence: steps}}, {lr_scheduler: ConstantLR}]", "one cadence"),
    ]),
    ("lr: 0.01", "lr: 0.01, foreach: true, fused: true", 12, "fused"),
    ("lr: 0.01", "lr: 0.01, capturable: true", 12, "capturable"),
    ("epochs: 2", "epochs: 2\n  loss_fn_args: {weight: [1, 2, 3]}", 11, "cross_entropy does not take"),
    ("epochs: 2", "epochs: 2\n  loss_fn_args: {weight: [a]}", 11, "cross_entropy does not take"),
    ("image_size: 8", "image_size: 8, mean: []", 9, "at least 1"),
    ("image_size: 8", "image_size: 8, std: [1.0e-300]", 9, "not finite"),
    ("image_size: 8", "image_size: 8, mean: [1.0e+300]", 9, "not finite"),
    ("epochs: 2", "epochs: 2\n  loss_fn_args: {ignore_index: a}", 11, "cross_entropy does not take"),
    ("train_config:", "metrics_output: out/result.pkl\ntrain_config:", 7, "save_dir says in which folder"),
    *(("train_config:", f"metrics_output: {name}\ntrain_config:", 7, "a file that ends with .pkl") for name in (
        "metadata.yml", "checkpoint.pt", "log.txt", "config.yml", ".run.lock", "result.parquet", "result", ".pkl",
        ".run.lock.pkl", '"a\\tb.pkl"', "a" * 300 + ".pkl",
    )),
    ("train_config:", "device: meta\ntrain_config:", 7, "cpu, cuda"),
    ("train_config:", "adapter_init: publishd\ntrain_config:", 7, "did you mean 'published'"),
    ("train_config:", "published: yes please\ntrain_config:", 7, "true or false"),
    # files
    # what makes a model's constructor raise, or never end
    ("width: 8, in_chans: 1, block_output", "width: [8], in_chans: 1, block_output", 4, "local/smallnet cannot be built with in_chans: 1"),
    ("num_blocks: 2", "num_blocks: 1000000", 4, "numbers up to 100,000"),
    ("num_blocks: 2", "num_blocks: 90000", 4, "more than 10,000 layers"),
    ("frozen: true}", "frozen: true, weights: DEFAULT}", 4, "the name of weights of a torchvision model"),
    ("frozen: true}", "frozen: true, ckp_path: nowhere.pt}", 4, "nowhere.pt"),
    ("frozen: true}", "frozen: true, ckp_path: broken.pt}", 4, "broken.pt"),
    *(("frozen: true}", f"frozen: true, ckp_path: {name}}}", 4, words) for name, words in [
        ("data", "is a folder"), ("~nobody-at-all/x", "no path"), ('"a\\0b"', "U+0000"), ("/dev/zero", "a device"),
        ("n" * 300, "no path"), ("round.pt", "no path"), ('""', "at least 1 character"),
    ]),
    *(("train_config:", f'{key}: ""\ntrain_config:', 7, "at least 1 character")
      for key in ("load_from", "resume_from", "save_dir")),
    ("train_config:", "save_dir: ~nobody-at-all/x\ntrain_config:", 7, "save_dir: '~nobody-at-all/x' is no path"),
    ("train_config:", "load_from: data\ntrain_config:", 7, "is a folder"),
    ("train_config:", "load_from: ~nobody-at-all/x\ntrain_config:", 7, "no path"),
    ("train_config:", 'resume_from: "a\\0b"\ntrain_config:', 7, "U+0000"),
    ("frozen: true}", "frozen: true, ckp_path: other.pt}", 4, "do not fit"),
    ("train_config:", "load_from: other.pt\ntrain_config:", 7, "do not fit"),
    ("train_config:", "load_from: broken.pt\ntrain_config:", 7, "broken.pt"),
    ("train_config:", "resume_from: nowhere.pt\ntrain_config:", 7, "nowhere.pt"),
    ("train_config:", "resume_from: other.pt\ntrain_config:", 7, "no training to resume"),
    ("dataset: digits", "dataset: mnist", 8, "mnist"),
    ("dataset: digits", "dataset: image_folder", 8, "image"),
    ("train_config:", "device: gpu\ntrain_config:", 7, "cpu, cuda"),
    # YAML itself
    ("epochs: 2", "epochs: [2", 0, "not YAML"),
    ("model:\n", "model: !include nowhere.yml\nrest:\n", 1, "there is no file"),
    ("model:\n", "model: !include config.yml\nrest:\n", 1, "include each other"),
    ("model:\n", "model: !!python/name:os.system\nrest:\n", 1, "not allowed"),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "broken.pt").write_bytes(b"PK not a checkpoint")
    torch.save({"some.weight": torch.zeros(2, 3)}, tmp_path / "other.pt")
    (tmp_path / "round.pt").symlink_to("round.pt")
    (tmp_path / "data" / "train").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(("old", "new", "line", "words"), TRAIN, ids=lambda value: str(value)[:40])
def test_train_tells_what_is_wrong(cli, write, small_job, folder, old, new, line, words):
    assert old in small_job
    path = write("config.yml", small_job.replace(old, new, 1))
    before = files_below(folder)
    assert_user_error(
        cli("train", "-c", path, "--data-path", folder / "data"), f"{path}:{line}: " if line else str(path), words
    )
    assert files_below(folder) == before


def test_there_are_enough_of_them():
    assert len(TRAIN) >= 60


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--set", "train_config.epochs"], "no assignment"),
        (["--set", "train_config.epohcs=3"], "did you mean 'epochs'"),
        (["--lr", "-1"], "lr"),
        (["--resume", "--overwrite"], "one of them"),
        (["--device", "tpu7"], "cannot use the device"),
        (["--set", "device=" + "[" * 900], "nested more than 100 deep"),
        (["--set", ".".join("a" * 900) + "=1"], "900 parts"),
        (["--set", 'device="\\ud800"'], "U+D800"),
        (["--set", "train_config..=1"], "unknown key ''"),
        (["--set", "=1"], "no assignment"),
        (["--set", "model.Assembly.parts.0=1"], "expected a mapping"),
        (["--set", "workers=\udcff"], "is no text"),
        (["--data-path", "a\0b"], "is no text"),
    ],
)
def test_wrong_options_are_told(cli, write, small_job, folder, options, words):
    path = write("config.yml", small_job)
    before = files_below(folder)
    outcome = cli("train", "-c", path, *options)
    assert outcome.code == 2
    assert words in outcome.err
    assert "Traceback" not in outcome.err
    assert files_below(folder) == before


@pytest.mark.parametrize("text", ["", "3\n", "- a\n- b\n", "\x00", "a: b: c\n"])
def test_files_that_are_no_config(cli, write, folder, text):
    path = write("config.yml", text)
    outcome = cli("train", "-c", path)
    assert outcome.code == 2
    assert str(path) in outcome.err
    assert "Traceback" not in outcome.err


def test_a_missing_config_offers_what_is_there(cli, write, small_job, folder):
    write("config.yml", small_job)
    outcome = cli("train", "-c", folder / "confg.yml")
    assert outcome.code == 2
    assert "config.yml" in outcome.err


@pytest.mark.parametrize(
    "command",
    [["plan"], ["status"], ["logs"], ["plan", "*"], ["submit", "--cluster", "local"], ["train", "-c"]],
    ids=lambda command: " ".join(command),
)
def test_paths_that_no_system_has_are_told(cli, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    mark = "*" if "*" in command else ""
    outcome = cli(*(word for word in command if word != "*"), "x" * 300 + mark)
    assert outcome.code == 2
    assert "File name too long" in outcome.err
    assert files_below(tmp_path) == {}


def test_images_have_bounds(cli):
    for pixels in ("0", "10000000"):
        assert cli("inspect", "local/smallnet", "--image-size", pixels).code == 2
