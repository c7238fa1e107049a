"""Scores of a sweep's gaps: the numbers, the one pass over the images, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from small_sweeps import (
    KNOWN,
    NINE_GAPS,
    RESNET,
    SMALLNET,
    VIT,
    frame_of,
    gaps,
    go,
    plan_of,
    stitched_runs,
    write_sweep,
)
from typer.testing import CliRunner

import stitching.data.loading as loading
import stitching.training.shared_prefixes as shared_prefixes
from stitching.cli import app
from stitching.config.errors import UserError
from stitching.config.yaml import load_yaml
from stitching.similarity.measures import ImageVectors
from stitching.sweeps.scores import Scores, score

TWO = {"models": [RESNET, VIT], "gaps": gaps([1, 2], [3, 4])}


def scored(path: Path, images: int = 100) -> Scores:
    return score(load_yaml(path), images, KNOWN)


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Scores:
    """The scores of two gaps in every pair of two networks."""
    folder = tmp_path_factory.mktemp("two")
    return scored(write_sweep(folder / "small.yml", **TWO, stitchers=["affine", "finetune"]))


def test_every_gap_of_every_pair_is_scored_once_whatever_the_stitchers(two):
    table = two.table()
    assert len(table) == 4 * 2
    assert not table.duplicated(["source", "destination", "first_deleted_block", "last_deleted_block"]).any()
    assert table["declined"].isna().all()
    assert table["cka"].between(-0.2, 1.01).all()
    assert table["procrustes"].between(0, 2).all()
    assert (table["r2"] <= 1).all()
    assert table[["accuracy", "destination_accuracy"]].stack().between(0, 1).all()
    assert (two.dataset, two.seed, two.fit_images) == ("digits", 3, 100)
    assert (two.held_out, two.held_out_images) == ("test", 100)


def test_nine_gaps_take_one_pass_over_the_images(tmp_path, monkeypatch):
    batches, computed = [], []
    forward, epoch = shared_prefixes.SharedPrefixes.forward, loading.Batches.epoch
    monkeypatch.setattr(
        shared_prefixes.SharedPrefixes,
        "forward",
        lambda *args: computed.append(sum(map(len, args[0].ends))) or forward(*args),
    )
    monkeypatch.setattr(loading.Batches, "epoch", lambda self, *args: batches.append(len(self)) or epoch(self, *args))
    scored(write_sweep(tmp_path / "small.yml", gaps=gaps(*NINE_GAPS)), images=250)
    assert batches == [5, 5]  # one pass over the training images, one over the test images
    assert (
        computed == [8 - 1] * 10
    )  # every place is computed once a batch, be it a source's end or a destination's start


def test_a_gap_scored_again_does_not_depend_on_the_others_or_the_stitchers(two, tmp_path):
    whole = two.table()
    alone = scored(write_sweep(tmp_path / "small.yml", **{**TWO, "pairs": "self", "gaps": gaps([3, 4])})).table()
    same = whole[(whole["source"] == whole["destination"]) & (whole["first_deleted_block"] == 3)]
    pd.testing.assert_frame_equal(same.reset_index(drop=True), alone, check_exact=True)


def test_the_stitched_accuracy_is_the_untrained_accuracy_of_the_stitcher(tmp_path):
    keys = {
        "gaps": gaps([1, 2]), "pairs": "cross", "stitchers": ["affine_least_squares"], "checkpoint_initial_model": True,
        "train_config": {"max_steps": 1}, "models": [RESNET, VIT],
    }  # fmt: skip
    path = write_sweep(tmp_path / "small.yml", **keys)
    table = scored(path, images=500).table()
    assert set(table["held_out_images"]) == {360}  # all there are
    assert set(table["held_out"]) == {"test"}
    plan, submission = go(path)
    assert not submission.failures
    untrained = []
    for run in stitched_runs(plan):
        frame = frame_of(plan.folder / run.name)
        assert frame["Step"][0] == 0
        untrained.append(frame["Overall/Test Accuracy"][0])
    assert untrained == pytest.approx(table["accuracy"].tolist(), abs=1e-9)
    assert table["accuracy"].nunique() > 1


def test_a_class_token_that_the_source_has_not_is_fitted_and_counts(tmp_path, monkeypatch):
    pair = [["timm/resnet18", "timm/vit_tiny_patch16_224"]]
    path = write_sweep(tmp_path / "small.yml", models=[RESNET, VIT], pairs=pair, gaps=gaps([3, 4]))
    (fitted,) = scored(path, images=60).rows
    monkeypatch.setattr(ImageVectors, "count", 0)  # then there is nothing to fit the token to, and it stays at zero
    (left_at_zero,) = scored(path, images=60).rows
    assert fitted.r2 > left_at_zero.r2
    assert fitted.procrustes != left_at_zero.procrustes
    assert fitted.cka == left_at_zero.cka


def test_what_cannot_be_scored_is_declined_with_the_reason(tmp_path):
    for_others = {**VIT, "img_size": 16}  # of a row that begins with another model it would never see an image
    path = write_sweep(tmp_path / "small.yml", models=[RESNET, for_others], pairs="all", gaps=gaps([1, 2]))
    table = scored(path).table().set_index(["source", "destination"])
    (resnet, vit) = "timm/resnet18", "timm/vit_tiny_patch16_224"
    assert pd.isna(table.loc[(resnet, resnet), "declined"])
    assert "cannot take them" in table.loc[(resnet, vit), "declined"]
    assert pd.isna(table.loc[(resnet, vit), "accuracy"])


def test_only_the_first_values_of_a_grid_are_scored(tmp_path):
    grid = {"train_config.optimizer_args.lr": [0.1, 0.2]}
    found = scored(write_sweep(tmp_path / "small.yml", grid=grid, seeds=[5, 6]))
    assert found.seed == 5
    assert found.notes == [
        "of the grid, only the first values are scored (train_config.optimizer_args.lr: 0.1)",
        "of the seeds, only the first is used (5)",
    ]


def call(*words: object):
    return CliRunner().invoke(app, ["score", *map(str, words)], catch_exceptions=False)


def test_the_command_prints_and_saves(tmp_path):
    path = write_sweep(tmp_path / "small.yml", models=[SMALLNET], gaps=gaps([1, 1], [1, 2]), project="p")
    (tmp_path / "experiments").mkdir()
    result = call(path, "--images", 60)
    assert result.exit_code == 0
    for words in ("CKA", "Procrustes", "R2", "local/smallnet", "1-2", "60 training images of digits", "seed 3"):
        assert words in result.stdout
    saved = pd.read_csv(tmp_path / "experiments" / "p" / "small" / "scores.csv")
    assert len(saved) == 2
    result = call(path, "--images", 60, "-o", tmp_path / "other.csv", "--json")
    (first, second) = json.loads(result.stdout)
    assert (first["first_deleted_block"], second["last_deleted_block"]) == (1, 2)
    assert first["r2"] == pytest.approx(saved["r2"][0])
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "other.csv"), saved)


def test_wrong_words_are_told(tmp_path):
    with pytest.raises(UserError, match="of no table"):
        call(write_sweep(tmp_path / "small.yml"), "-o", "scores.xlsx")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        call(write_sweep(tmp_path / "small.yml", models=[SMALLNET]), "--images", 4, "-o", tmp_path / "file" / "x.csv")
    with pytest.raises(UserError, match="least squares fits an adapter between frozen parts"):
        plan_of(write_sweep(tmp_path / "small.yml", stitchers=["affine_least_squares"], unfrozen=True))


def test_a_sweep_without_gaps_has_nothing_to_score(tmp_path):
    path = tmp_path / "rates.yml"
    path.write_text("project: rates\njob: job.yml\n")
    with pytest.raises(UserError) as error:
        call(path)
    assert f"{path}:2: job: a sweep with `job:` has no gaps to score" in str(error.value)
    assert "one of the keys models, stages, src_stages, dest_stages" in str(error.value)


def test_a_missing_data_set_is_told_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr("stitching.sweeps.scores.build_stitched_network", lambda *_: pytest.fail("built a network"))
    with pytest.raises(UserError) as error:
        scored(write_sweep(tmp_path / "small.yml", data_path=str(tmp_path), train_config={"dataset": "cifar10"}))
    assert error.value.path[:2] == ("train_config", "dataset")
