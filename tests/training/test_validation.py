"""The validation split: training images that nothing is trained on, the same for all runs, and what is told of them."""

from __future__ import annotations

import pytest
import torch
import yaml
from small_jobs import NARROW_RESNET, frame_of, job_of, same, stitched, trained, write_config
from yaml_files import read_yaml

from stitching.config.errors import UserError
from stitching.config.preprocessing import Preprocessing
from stitching.data.loading import Batches
from stitching.models.building import build
from stitching.models.spec import ModelSpec

SPLIT = {"fraction": 0.1}
TRAIN, VAL, TEST = 1293, 144, 360  # scikit-learn's 1797 digits, a fifth of them the test set


def _images(split: str, **settings) -> tuple[torch.Tensor, torch.Tensor]:
    given = {"batch_size": 500, "seed": 1, "validation": (0.1, 0)} | settings
    batches = Batches("digits", None, preprocessing=Preprocessing(), split=split, **given)  # type: ignore[arg-type]
    images, labels = zip(*batches.epoch(0), strict=True)
    return torch.cat(images), torch.cat(labels)


def _rows(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def test_training_and_validation_images_are_all_training_images_and_have_none_in_common():
    train, val, whole = _images("train")[0], _images("val")[0], _images("train", validation=None)[0]
    assert (len(train), len(val), len(whole)) == (TRAIN, VAL, TRAIN + VAL)
    assert not _rows(train) & _rows(val)
    assert _rows(train) | _rows(val) == _rows(whole)
    test = _images("test")[0]
    assert len(test) == TEST
    assert torch.equal(test, _images("test", validation=None)[0])


def test_which_images_are_held_out_depends_on_the_seed_of_the_split_alone():
    val = _images("val")[0]
    assert torch.equal(val, _images("val", seed=2, batch_size=7)[0])
    other = _images("val", validation=(0.1, 1))[0]
    assert len(other) == len(val)
    assert _rows(other) != _rows(val)


@pytest.mark.parametrize("fraction", [0.0001, 0.9999])
def test_a_split_that_leaves_nothing_is_told(fraction):
    with pytest.raises(UserError, match="of 1437 training images are") as told:
        _images("val", validation=(fraction, 0))
    assert told.value.path == ("validation", "fraction")


def test_the_columns_are_of_the_images_that_were_held_out(tmp_path):
    """What the trainer says of a whole network, against a count of our own."""
    job = stitched("layer1", "layer2", test_only=True, train_config={"validation": SPLIT, "batch_size": 100})
    job["model"] = {"Net": NARROW_RESNET}
    (run,) = trained(job, tmp_path)
    network = build(ModelSpec.parse("timm/resnet18", **{k: v for k, v in NARROW_RESNET.items() if k not in ("backend", "model_name")}), 3)  # fmt: skip
    (row,) = frame_of(tmp_path / "run-0").to_dict("records")
    for split, count in (("Val", VAL), ("Test", TEST)):
        given = Preprocessing(image_size=16)
        batches = Batches("digits", None, preprocessing=given, batch_size=100, seed=3, split=split.lower(), validation=(0.1, 0))  # type: ignore[arg-type]  # fmt: skip
        with torch.no_grad():
            right = sum(int((network.eval()(x).argmax(1) == y).sum()) for x, y in batches.epoch(0))
        assert row[f"Overall/{split} Accuracy"] == right / count
    metadata = read_yaml(tmp_path / "run-0" / "metadata.yml")
    assert metadata["validation"] == {"fraction": 0.1, "seed": 0, "images": VAL}
    assert metadata["test_images"] == TEST
    assert run.final["Overall/Val Accuracy"] == row["Overall/Val Accuracy"]


def test_every_epoch_is_validated_and_a_run_without_a_split_has_no_such_columns(tmp_path):
    trained(stitched("layer2", "layer3", train_config={"validation": SPLIT}), tmp_path / "with")
    frame = frame_of(tmp_path / "with" / "run-0")
    assert frame["Overall/Val Accuracy"].notna().sum() == frame["Overall/Test Accuracy"].notna().sum() == 2
    assert frame["Overall/Val Loss"].dropna().gt(0).all()
    trained(stitched("layer2", "layer3"), tmp_path / "without")
    assert not [name for name in frame_of(tmp_path / "without" / "run-0") if "Val" in name]


def test_runs_with_other_splits_share_no_loop_and_those_with_one_leave_what_each_leaves_alone(tmp_path):
    from stitching.training.job_data import shared_key

    jobs = [stitched("layer1", "layer3", train_config={"validation": SPLIT}), stitched("layer2", "layer3", train_config={"validation": SPLIT})]  # fmt: skip
    other = stitched("layer2", "layer3", train_config={"validation": {"fraction": 0.1, "seed": 1}})
    assert shared_key(job_of(jobs[0], tmp_path)) != shared_key(job_of(other, tmp_path))
    trained(jobs, tmp_path / "pack")
    for i, job in enumerate(jobs):
        trained(job, tmp_path / f"alone-{i}")
        same(tmp_path / "pack" / f"run-{i}", tmp_path / f"alone-{i}" / "run-0")


@pytest.mark.parametrize(
    ("given", "words"),
    [("0.1", "fraction"), ("{fraction: 1.5}", "fraction"), ("{fracton: 0.1}", "fraction"), ("{fraction: 0.1, seed: -1}", "seed")],
)  # fmt: skip
def test_mistakes_in_the_split_are_told_with_their_line(tmp_path, cli, given, words):
    job = stitched("layer2", "layer3")
    folder = write_config(tmp_path, job)
    text = yaml.safe_dump(job, sort_keys=False).replace("  dataset: digits\n", f"  dataset: digits\n  validation: {given}\n")  # fmt: skip
    (folder / "config.yml").write_text(text)
    outcome = cli("train", "-c", folder / "config.yml")
    assert outcome.code == 2
    line = next(number for number, words in enumerate(text.splitlines(), 1) if "validation" in words)
    assert f"config.yml:{line}" in outcome.err
    assert words in outcome.err
    assert not (folder / "result.pkl").exists()
