"""Wrong sweeps are told, not traced: exit code 2, one message with file and line, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from user_errors import assert_user_error, files_below

SWEEP = """\
project: tests
models:
  - {model_name: smallnet, num_blocks: 4, width: 8, in_chans: 1}
  - {backend: timm, model_name: resnet18, channels: [8, 8, 16, 16], in_chans: 1, num_classes: 10, pretrained: false}
pairs: [[local/smallnet, timm/resnet18]]
gaps:
  - {blocks_to_drop: [1, 2]}
stitchers: [affine, downsample_then_block]
seeds: [1, 2]
grid: {train_config.optimizer_args.lr: [0.01, 0.1]}
frozen_norm: running
train_config:
  dataset: digits
  data_preprocessing: {image_size: 32}
  epochs: 1
  optimizer_args: {lr: 0.01}
"""

# What is replaced in the sweep, by what, the line that the message must name (0: the file alone), words it must have.
WRONG: list[tuple[str, str, int, str]] = [
    # typos in every key
    ("project:", "porject:", 1, "did you mean 'project'"),
    ("models:", "modles:", 2, "did you mean 'models'"),
    ("{model_name: smallnet", "{modelname: convnet", 3, "did you mean 'model_name'"),
    ("backend: timm", "bakend: timm", 4, "did you mean 'backend'"),
    ("pretrained: false", "pretraind: false", 4, "did you mean 'pretrained'"),
    ("pairs:", "piars:", 5, "did you mean 'pairs'"),
    ("gaps:", "gap:", 6, "did you mean 'gaps'"),
    ("blocks_to_drop:", "block_to_drop:", 7, "did you mean 'blocks_to_drop'"),
    ("[1, 2]}", "[1, 2], num_downsample: 1}", 7, "did you mean 'num_downsamples'"),
    ("stitchers:", "stichers:", 8, "did you mean 'stitchers'"),
    ("seeds:", "seed:", 9, "did you mean 'seeds'"),
    ("grid:", "grids:", 10, "did you mean 'grid'"),
    ("frozen_norm:", "frozennorm:", 11, "did you mean 'frozen_norm'"),
    ("train_config:\n", "trainconfig:\n", 12, "did you mean 'train_config'"),
    ("epochs: 1", "epoch: 1", 15, "did you mean 'epochs'"),
    # names that do not exist
    ("model_name: smallnet", "model_name: convent", 3, "did you mean 'convnet'"),
    ("model_name: resnet18", "model_name: resnet81", 4, "there is no model in timm 'resnet81'"),
    ("width: 8", "widht: 8", 3, "did you mean 'width'"),
    ("[[local/smallnet,", "[[local/smalnet,", 5, "did you mean 'local/smallnet'"),
    ("timm/resnet18]]", "resnet18]]", 5, "did you mean 'timm/resnet18'"),
    ("[affine,", "[afine,", 8, "did you mean 'affine'"),
    ("stitchers: [affine, downsample_then_block]", "stitchers: defualt", 8, "did you mean 'default'"),
    ("pairs: [[local/smallnet, timm/resnet18]]", "pairs: selff", 5, "did you mean 'self'"),
    ("gaps:\n  - {blocks_to_drop: [1, 2]}", "gaps: al", 6, "did you mean 'all'"),
    ("seeds:", "depths: block\nseeds:", 9, "did you mean 'blocks'"),
    ("seeds:", "depths: [blocks.0, layer1]\nseeds:", 9, "blocks.0"),
    ("in_chans: 1}", "in_chans: 1, cut_at: block}", 3, "did you mean 'blocks'"),
    ("in_chans: 1}", "in_chans: 1, cut_at: [blocks.0, blocks.7]}", 3, "blocks.7"),
    ("dataset: digits", "dataset: digit", 13, "did you mean 'digits'"),
    ("epochs: 1", "epochs: 1\n  optimizer: AdamX", 16, "did you mean 'Adamax'"),
    ("epochs: 1", "epochs: 1\n  lr_scheduler: CosineAnealingLR", 16, "did you mean 'CosineAnnealingLR'"),
    ("epochs: 1", "epochs: 1\n  loss_fn: cross_entrpy", 16, "did you mean 'cross_entropy'"),
    ("frozen_norm:", "metrics: [{metric_fn: acuracy}]\nfrozen_norm:", 11, "did you mean 'accuracy'"),
    ("optimizer_args: {lr: 0.01}", "optimizer_args: {lr: 0.01, weight_deacy: 1}", 16, "did you mean 'weight_decay'"),
    # gaps that do not fit
    ("[1, 2]}", "[1, 7]}", 7, "last at most 6"),
    ("[1, 2]}", "[4, 5]}", 7, "first at most 3"),
    ("[1, 2]}", "[2, 1]}", 7, "1 <= first <= last"),
    ("[1, 2]}", "[0, 1]}", 7, "1 <= first <= last"),
    ("[1, 2]}", "[1]}", 7, "at least 2"),
    ("[1, 2]}", "[1, 2], num_downsamples: 5}", 7, "5 downsamplings declared"),
    ("  - {blocks_to_drop: [1, 2]}", "  - {blocks_to_drop: [1, 2]}\n  - {blocks_to_drop: [1, 2]}", 6, "is repeated in gaps"),
    ("gaps:\n  - {blocks_to_drop: [1, 2]}", "gaps: {max_dropped: 0}", 6, "greater than or equal to 1"),
    ("gaps:\n  - {blocks_to_drop: [1, 2]}", "gaps: {max_droped: 2}", 6, "did you mean 'max_dropped'"),
    ("gaps:\n  - {blocks_to_drop: [1, 2]}", "gaps: !include nowhere.yml", 6, "there is no file"),
    # empty lists, doubles, wrong types
    ("gaps:\n  - {blocks_to_drop: [1, 2]}", "gaps: []", 6, "at least 1"),
    ("[affine, downsample_then_block]", "[]", 8, "at least 1"),
    ("[affine, downsample_then_block]", "[affine, affine]", 8, "is repeated"),
    ("seeds: [1, 2]", "seeds: []", 9, "at least 1"),
    ("seeds: [1, 2]", "seeds: [1, 1]", 9, "is repeated"),
    ("seeds: [1, 2]", "seeds: [one]", 9, "expected a whole number"),
    ("seeds: [1, 2]", "seeds: 3", 9, "expected a list"),
    ("[[local/smallnet, timm/resnet18]]", "[]", 5, "at least 1"),
    ("[[local/smallnet, timm/resnet18]]", "[[local/smallnet]]", 5, "at least 2"),
    ("project: tests", "project: a/b", 1, "the name of one folder"),
    # the grid
    ("{train_config.optimizer_args.lr: [0.01, 0.1]}", "{train_config.optimizer_args.lr: []}", 10, "at least 1"),
    ("{train_config.optimizer_args.lr: [0.01, 0.1]}", "{train_config.optimizer_args.lr: 0.1}", 10, "expected a list"),
    ("{train_config.optimizer_args.lr: [0.01, 0.1]}", "{train_config.optimizer_args.lr: [fast]}", 10, "expected a number"),
    ("{train_config.optimizer_args.lr: [0.01, 0.1]}", "{train_config.optimizer_args.lr: [0.1, -1]}", 10, "-1"),
    ("{train_config.optimizer_args.lr: [0.01, 0.1]}", "{train_config.optimizer_args.lr: [0.1, 0.1]}", 10, "is repeated"),
    ("{train_config.optimizer_args.lr: [0.01, 0.1]}", "{trainconfig.epochs: [1, 2]}", 10, "did you mean 'train_config'"),
    ("{train_config.optimizer_args.lr: [0.01, 0.1]}", "{train_config.epohcs: [1, 2]}", 10, "did you mean 'epochs'"),
    ("{train_config.optimizer_args.lr: [0.01, 0.1]}", "{train_config.epochs: [1, two]}", 10, "expected a whole number"),
    ("{train_config.optimizer_args.lr: [0.01, 0.1]}", "{train_config.epochs.lr: [1, 2]}", 10, "expected a mapping"),
    ("{train_config.optimizer_args.lr: [0.01, 0.1]}", "{metrics_output: [a.pkl, b.pkl]}", 10, "metrics_output"),
    ("{train_config.optimizer_args.lr: [0.01, 0.1]}", "{train_config.seed: [1, 2]}", 10, "one of them"),
    ("{train_config.optimizer_args.lr: [0.01, 0.1]}", "{train_config.dataset: [digits, digitz]}", 10, "did you mean 'digits'"),
    # what does not fit together
    ("models:\n", "stages: []\nmodels:\n", 0, "one of: models; stages"),
    ("num_classes: 10", "num_classes: 3", 2, "10 classes"),
    ("in_chans: 1}", "in_chans: 3}", 8, "cannot"),
    ("dataset: digits", "tasks: [{dataset: digits}, {dataset: cifar10}]", 13, "2 data sets"),
    ("epochs: 1", "dataset: digits", 15, "is repeated"),
    ("  - {model_name: smallnet", "  - {model_name: smallnet}\n  - {model_name: smallnet", 4, "is listed twice"),
    ("frozen_norm:", "resume_from: nowhere.pt\nfrozen_norm:", 11, "of one run"),
    ("frozen_norm:", "load_from: nowhere.pt\nfrozen_norm:", 11, "nowhere.pt"),
    ("frozen_norm:", "metrics: [{metric_fn: accuracy, output: parts.77}]\nfrozen_norm:", 11, "parts.77"),
    ("epochs: 1", "epochs: 2\n  lr_scheduler: CosineAnnealingLR\n  lr_scheduler_args: {T_max: 0}", 17, "ZeroDivisionError"),
    ("epochs: 1", "epochs: 1\n  loss_fn_args: {weight: [1, 2, 3]}", 16, "cross_entropy does not take"),
    ("{train_config.optimizer_args.lr: [0.01, 0.1]}", "{resume_from: [a.pt, b.pt]}", 10, "resume_from"),
    ("{train_config.optimizer_args.lr: [0.01, 0.1]}", "{load_from: [/a.pt, b.pt]}", 10, "'b.pt' is a relative path"),
    # what makes a model's constructor raise, or load files
    ("[8, 8, 16, 16]", "[8, 8, 16]", 4, "timm/resnet18 with channels: [8, 8, 16]"),
    ("num_classes: 10,", "num_classes: 10, act_layer: x,", 4, "act_layer: x"),
    ("num_classes: 10,", "num_classes: 10, block: 3,", 4, "block: 3"),
    ("num_classes: 10,", "num_classes: 10, checkpoint_path: other.pt,", 4, "as `ckp_path`"),
    ("num_classes: 10,", "num_classes: 10, layers: [99999, 1, 1, 1],", 4, "more than 10,000 layers"),
    ("backend: timm, model_name: resnet18, channels: [8, 8, 16, 16]", "backend: torchvision, model_name: resnet18, weights: IMAGENET1K_V1", 4, "takes no published weights"),
    # checkpoints
    ("in_chans: 1}", "in_chans: 1, ckp_path: nowhere.pt}", 3, "nowhere.pt"),
    ("in_chans: 1}", "in_chans: 1, ckp_path: broken.pt}", 3, "broken.pt"),
    ("in_chans: 1}", "in_chans: 1, ckp_path: ~nobody-at-all/x}", 3, "no path"),
    ("in_chans: 1}", "in_chans: 1, ckp_path: /dev/zero}", 3, "a device"),
    ("in_chans: 1}", "in_chans: 1, ckp_path: other.pt}", 3, "do not fit local/smallnet"),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "broken.pt").write_bytes(b"PK not a checkpoint")
    torch.save({"some.weight": torch.zeros(2, 3)}, tmp_path / "other.pt")
    return tmp_path


def test_the_sweep_is_right_as_it_stands(cli, write, folder):
    before = files_below(folder)
    outcome = cli("plan", write("sweep.yml", SWEEP))
    assert outcome.code == 0, outcome.err
    assert "10 runs" in outcome.out  # the two whole networks are tested
    assert set(files_below(folder)) - set(before) == {folder / "sweep.yml"}


@pytest.mark.parametrize(("old", "new", "line", "words"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_sweeps_are_told(cli, write, folder, old, new, line, words):
    assert SWEEP.count(old) >= 1
    path = write("sweep.yml", SWEEP.replace(old, new, 1))
    before = files_below(folder)
    place = f"{path}:{line}: " if line else str(path)
    assert_user_error(cli("plan", path), place, words)
    assert_user_error(cli("submit", path, "--cluster", "local"), place, words)
    assert files_below(folder) == before


STAGES = """\
stages:
  - Subnet: {model_name: smallnet, in_chans: 1, width: 8, block_output: blocks.0, out_format: [img, [8, 16, 16]]}
  - Subnet: {model_name: smallnet, in_chans: 1, width: 8, block_input: blocks.1, block_output: blocks.1}
  - Subnet: {model_name: smallnet, in_chans: 1, width: 8, block_input: blocks.2, in_format: [img, [8, 8, 8]]}
gaps: [{blocks_to_drop: [1, 1], num_downsamples: 1}]
stitchers: [affine]
train_config: {dataset: digits, data_preprocessing: {image_size: 32}}
"""


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("out_format: [img, [8, 16, 16]]", "out_format: [img, [8, 17, 17]]", 2, "the model has img 8x16x16"),
        ("in_format: [img, [8, 8, 8]]", "in_format: [img, [4, 8, 8]]", 4, "the model has img 8x8x8"),
        ("out_format: [img", "out_format: [imag", 2, "did you mean 'img'"),
        ("block_output: blocks.0", "block_outptu: blocks.0", 2, "did you mean 'block_output'"),
        ("block_input: blocks.1", "block_input: block.1", 3, "did you mean 'blocks.1'"),
        ("block_input: blocks.1, block_output: blocks.1", "block_input: blocks.2, block_output: blocks.0", 3, "does not come after"),
        ("num_downsamples: 1", "num_downsamples: 3", 5, "16x16 becomes 8x8"),
        ("stages:", "src_stages:", 0, "src_stages together with dest_stages"),
        ("  - Subnet: {model_name: smallnet, in_chans: 1, width: 8, block_input: blocks.1", "  - Net: {model_name: smallnet", 1, "a stage is a Net here"),
        ("gaps:", "pairs: self\ngaps:", 5, "with `models:` only"),
        ("block_input: blocks.2, in_format", "block_input: blocks.2, block_output: blocks.3, in_format", 1, "its head included"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_wrong_stages_are_told(cli, write, folder, old, new, line, words):
    assert cli("plan", write("right.yml", STAGES)).code == 0
    assert old in STAGES
    path = write("sweep.yml", STAGES.replace(old, new, 1))
    before = files_below(folder)
    assert_user_error(cli("plan", path), f"{path}:{line}: " if line else str(path), words)
    assert files_below(folder) == before


def test_rows_too_short_for_a_gap_are_told(cli, write, folder):
    lines = STAGES.splitlines(keepends=True)
    path = write("sweep.yml", "".join([lines[0], lines[1], lines[3], *lines[5:]]))
    assert_user_error(cli("plan", path), str(path), "there is no gap")


@pytest.mark.parametrize("text", ["", "3\n", "- a\n- b\n", "\x00", "a: b: c\n"])
def test_files_that_are_no_sweep(cli, write, folder, text):
    path = write("sweep.yml", text)
    assert_user_error(cli("plan", path), str(path), "")


def test_files_that_are_not_there(cli, write, folder):
    write("sweep.yml", SWEEP)
    assert_user_error(cli("plan", folder / "swep.yml"), str(folder / "swep.yml"), "sweep.yml")
    (folder / "empty").mkdir()
    assert_user_error(
        cli("submit", folder / "empty", "--cluster", "local"), "", f"there is no sweep in {folder / 'empty'}"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--cluster", "locl"], "did you mean 'local'"),
        (["--cluster", "local", "--pack", "0"], "--pack"),
        (["--cluster", "local", "--jobs", "0"], "--jobs"),
        ([], "--cluster"),
    ],
)
def test_wrong_options_of_submit(cli, write, folder, options, words):
    path = write("sweep.yml", SWEEP)
    before = files_below(folder)
    outcome = cli("submit", path, *options)
    assert outcome.code == 2
    assert words in outcome.err
    assert "Traceback" not in outcome.err
    assert files_below(folder) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resnet18"], "local/NAME, timm/NAME, torchvision/NAME, module:FILE:FUNCTION"),
        (["tim/resnet18"], "did you mean 'timm'"),
        (["timm/resnet81"], "there is no model in timm 'resnet81'"),
        (["timm/resnet50.a1_in2k"], "did you mean 'resnet50.a1_in1k'"),
        (["torchvision/swin_tt"], "did you mean 'swin_t'"),
        (["local/smallnet", "--arg", "widht=8"], "did you mean 'width'"),
        (["local/smallnet", "--arg", "width"], "no assignment"),
        (["local/smallnet", "--arg", "width=[8"], "is not YAML"),
        (["local/smallnet", "--arg", "num_blocks=0"], "1 or more"),
        (["timm/vit_tiny_patch16_224", "--image-size", "32"], "32"),
        (["local/smallnet", "--image-size", "big"], "--image-size"),
    ],
)
def test_wrong_inspect_input(cli, arguments, words):
    outcome = cli("inspect", *arguments)
    assert outcome.code == 2, outcome
    assert words in outcome.err
    assert "Traceback" not in outcome.err


def test_results_of_nothing(cli, tmp_path):
    assert_user_error(cli("results", tmp_path / "nowhere"), "there is no folder", "nowhere")
    assert_user_error(cli("results", tmp_path), f"no run in {tmp_path} has logged anything yet", "stitching submit")
