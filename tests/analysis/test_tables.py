"""From run folders to tables: every number is one that a run left, and none is mixed with another silently."""

from __future__ import annotations

import pandas as pd
import pytest
from made_runs import ACCURACY, RESNET, VIT, make_base, make_run
from yaml_files import read_yaml

from stitching import load_results, load_runs
from stitching.analysis.formulas import wilson_interval
from stitching.analysis.report import make_report
from stitching.analysis.statistics import summarize, varied_settings
from stitching.analysis.tables import accuracy_table, adapters_in, add_measures, base_networks, load_bases
from stitching.config.errors import UserError
from stitching.runs.folder import write_yaml
from stitching.runs.step_log import StepLog

LR = "train_config.optimizer_args.lr"


def test_a_row_for_each_finished_run(tmp_path):
    make_run(tmp_path, "a", 0.5)
    make_run(tmp_path, "b", 0.7, gap=(3, 4), adapter="finetune")
    make_run(tmp_path, "going", 0.9, state="running")
    make_run(tmp_path / "stale", "old", 0.9)
    runs = load_runs(tmp_path)
    assert list(runs["accuracy"]) == [0.5, 0.7]
    assert list(runs["adapter"]) == ["affine", "finetune"]
    assert runs["folder"][0] == str(tmp_path / "a")


def test_a_network_of_several_cells_has_a_row_for_each(tmp_path):
    make_run(tmp_path, "a", 0.5, also=[{"name": "b", "last_deleted_block": 4}])
    runs = load_runs(tmp_path)
    assert list(zip(runs["name"], runs["last_deleted_block"], runs["accuracy"], strict=True)) == [
        ("a", 2, 0.5),
        ("b", 4, 0.5),
    ]


def test_runs_of_several_seeds_in_one_folder(tmp_path):
    run = make_run(tmp_path, "a", 0.5)
    other = make_run(tmp_path, "b", 0.7, seed=2)
    for ending in ("pkl", "parquet"):
        (other / f"result.{ending}").rename(run / f"result-2.{ending}")
    (other / "metadata.yml").rename(run / "metadata-2.yml")
    runs = load_runs(run).set_index("seed")
    assert runs["accuracy"].to_dict() == {1: 0.5, 2: 0.7}


def test_the_table_has_stitchers_in_order_and_means_over_seeds(tmp_path):
    for seed, accuracy in ((1, 0.5), (2, 0.6)):
        make_run(tmp_path, f"a{seed}", accuracy, seed=seed)
    make_run(tmp_path, "b", 0.8, adapter="downsample_then_linear")
    make_run(tmp_path, "c", 0.9, pair=(VIT, VIT))
    table = accuracy_table(load_runs(tmp_path))
    assert list(table.columns) == ["downsample_then_linear", "affine"]
    assert table.loc[(RESNET, VIT, "1-2"), "affine"] == pytest.approx(0.55)
    assert table.loc[(RESNET, VIT, "1-2"), "downsample_then_linear"] == 0.8
    assert pd.isna(table.loc[(VIT, VIT, "1-2"), "downsample_then_linear"])
    assert len(table) == 2


def test_other_settings_are_rows_of_their_own(tmp_path):
    make_run(tmp_path, "a", 0.5, **{LR: 0.1})
    make_run(tmp_path, "b", 0.7, **{LR: 0.01})
    runs = load_runs(tmp_path)
    assert varied_settings(runs) == [LR]
    table = accuracy_table(runs)
    assert table["affine"].to_dict() == {(RESNET, VIT, "1-2", 0.1): 0.5, (RESNET, VIT, "1-2", 0.01): 0.7}


def test_what_is_the_same_everywhere_is_no_setting(tmp_path):
    make_run(tmp_path, "a", 0.5, frozen_norm="running", device="cpu", **{LR: 0.1})
    make_run(tmp_path, "b", 0.7, frozen_norm="running", device="cuda", seed=2, macs=3, **{LR: 0.1})
    assert varied_settings(load_runs(tmp_path)) == []


def test_unknown_stitchers_come_last(tmp_path):
    for name in ("zebra", "affine", "ape", "finetune"):
        make_run(tmp_path, name, 0.5, adapter=name)
    assert adapters_in(load_runs(tmp_path))[-2:] == ["ape", "zebra"]


def test_base_networks(tmp_path):
    net = {"backend": "timm", "model_name": "resnet18"}
    make_base(tmp_path / "base", 0.97, {"Net": net})
    assert base_networks(load_bases(tmp_path / "base"))["accuracy"].to_dict() == {RESNET: 0.97}
    make_base(tmp_path / "stitched", 0.9, {"Assembly": {"parts": []}})
    with pytest.raises(UserError, match=r"stitched is of a stitched network\n.*base network"):
        load_bases([tmp_path / "base", tmp_path / "stitched"])


def _no_accuracy(run):
    StepLog([{"Step": 1, "Epoch": 1, "Overall/Test Loss": 1.0}]).save(run / "result.pkl")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda run: (run / "result.parquet").unlink(), "there is no result"),
        (lambda run: (run / "result.parquet").write_bytes(b"\x80"), "is no result of a run"),
        (lambda run: (run / "metadata.yml").write_text("a: [b"), "cannot read"),
        (_no_accuracy, "has no 'Overall/Test Accuracy'"),
        (lambda run: write_yaml(run / "metadata.yml", {"state": "done"}), "not of a sweep"),
    ],
)
def test_damage_is_told(cli, tmp_path, damage, words):
    damage(make_run(tmp_path, "a", 0.5))
    outcome = cli("results", tmp_path)
    assert outcome.code == 2
    assert words in outcome.err
    assert "Traceback" not in outcome.err


def test_the_command_prints_what_the_runs_left(cli, tmp_path):
    for seed, accuracy in ((1, 0.5), (2, 0.6)):
        make_run(tmp_path / "sweep", f"a{seed}", accuracy, seed=seed, **{LR: 0.1})
    make_run(tmp_path / "sweep", "b", 0.75, **{LR: 0.2})
    make_base(tmp_path / "base", 0.97, {"Net": {"backend": "timm", "model_name": "resnet18"}})
    outcome = cli("results", tmp_path / "sweep", "--base", tmp_path / "base", "--figure", tmp_path / "figure.pdf")
    assert outcome.code == 0, outcome.err
    title = " ".join(outcome.out.split())  # it wraps where the path is long
    assert "means over 2 seeds of the adapter, base networks fixed, with 95% intervals over seeds" in title
    lines = [line.split() for line in outcome.out.splitlines()]
    (low, high), *_ = summarize(load_runs(tmp_path / "sweep"))[["low", "high"]].to_numpy()
    assert [RESNET, "0.970", VIT, "1-2", "0.1", "0.550", f"[{low:.3f},", f"{high:.3f}]"] in lines
    assert [RESNET, "0.970", VIT, "1-2", "0.2", "0.750"] in lines  # of one seed
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")


def test_one_seed_has_the_interval_of_its_test_images(cli, tmp_path):
    make_run(tmp_path, "a", 0.5, test_images=100)
    make_run(tmp_path, "b", 0.75, adapter="finetune", test_images=400)
    words = " ".join(cli("results", tmp_path).out.split())
    assert "means over" not in words
    assert "with 95% intervals over test images" in words
    low, high = wilson_interval(0.5, 100)
    assert f"1-2 0.750 [0.705, 0.790] 0.500 [{low:.3f}, {high:.3f}]" in words
    make_run(
        tmp_path, "c", 0.6, seed=2, test_images=100
    )  # of two seeds now; the other one has no interval of this kind
    words = " ".join(cli("results", tmp_path).out.split())
    assert "with 95% intervals over seeds" in words
    assert words.count("[") == 1


def test_one_seed_of_unknown_images_has_a_mean_alone(cli, tmp_path):
    make_run(tmp_path, "a", 0.5)
    words = " ".join(cli("results", tmp_path).out.split())
    assert "1-2 0.500" in words
    assert "95%" not in words
    assert "[" not in words


def test_the_command_tells_what_is_not_in_its_means(cli, tmp_path):
    make_run(tmp_path, "a", 0.5)
    bad = make_run(tmp_path, "bad", 0.5, seed=2, epoch=1)
    StepLog([{"Step": 1, "Epoch": 1, "Loss": 1.0, ACCURACY: float("nan")}]).save(bad / "result.pkl")
    for seed in (3, 4):
        reason = f"diverged at step {seed}: the loss is nan"
        make_run(tmp_path, f"c{seed}", 0.9, seed=seed, state="failed", failure=reason, cause="diverged")
    make_run(tmp_path, "d", 0.9, seed=5, state="running")
    (make_run(tmp_path, "e", 0.9, seed=6) / "metadata.yml").write_text("macs: abc")
    outcome = cli("results", tmp_path)
    assert outcome.code == 0, outcome.err
    words = " ".join(outcome.out.split())
    assert "1-2 0.500 (1 NaN)" in words
    assert "means over 2 seeds of the adapter, base networks fixed" in words
    assert "note: 1 finished run has no test accuracy (NaN), and is in no mean: bad" in words
    assert "note: not in the table: 2 failed (diverged), 1 running, 1 unreadable" in words
    assert "c3: diverged at step 3: the loss is nan" in words
    assert "macs: Input should be a valid integer" in words
    page = make_report([tmp_path])
    assert "1 finished run has no test accuracy (NaN), and is in no mean: bad." in page
    assert page.count("<td>diverged</td>") == 2


def test_each_sweep_is_measured_by_its_own_base_networks(tmp_path):
    """The same model, trained otherwise or tested on other images, has another accuracy in another sweep."""
    net = {"Net": {"backend": "timm", "model_name": "vit_tiny"}}
    for sweep, base in (("one", 0.9), ("two", 0.8)):
        make_run(tmp_path / sweep, "a", 0.5)
        make_base(tmp_path / sweep / "base-vit", base, net)
    make_run(tmp_path / "three", "a", 0.5)  # has none of its own, and so that of all others
    measured = add_measures(load_results(tmp_path))
    last = measured[measured["Epoch"] == 2].set_index(measured[measured["Epoch"] == 2]["folder"].str.split("/").str[-2:].str.join("/"))  # fmt: skip
    assert last.loc[["one/a", "two/a", "three/a"], "penalty"].tolist() == pytest.approx([0.4, 0.3, 0.35])
    assert last.loc["one/base-vit", "penalty"] == 0


def test_a_network_that_was_tested_with_several_sizes_of_images_is_each_runs_own(tmp_path):
    key = "train_config.data_preprocessing.image_size"
    for size, accuracy, base in ((32, 0.5, 0.9), (64, 0.7, 0.8)):
        config = {"train_config": {"data_preprocessing": {"image_size": size}}}
        make_run(tmp_path, f"a-{size}", accuracy, config=config)
        folder = make_base(tmp_path / f"base-{size}", base, {"Net": {"backend": "timm", "model_name": "vit_tiny"}})
        metadata = read_yaml(folder / "metadata.yml")
        metadata["config"] |= config
        write_yaml(folder / "metadata.yml", metadata)
    measured = add_measures(load_results(tmp_path))
    measured = measured[(measured["Epoch"] == 2) & measured["base"].isna()].set_index(key)
    assert measured["penalty"].to_dict() == pytest.approx({32: 0.4, 64: 0.1})
