"""From run folders to one dataframe: every number is one that a run left, also when it comes from what was kept."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest
from made_runs import ACCURACY, RESNET, make_base, make_run
from yaml_files import read_yaml

from stitching import last_epoch, list_runs, load_results, unfinished_runs
from stitching.analysis import read_runs
from stitching.config.errors import UserError
from stitching.runs.folder import write_yaml
from stitching.runs.step_log import StepLog

LR = "train_config.optimizer_args.lr"


def _config(lr: float = 0.1, **more):
    return {"train_config": {"seed": 3, "optimizer_args": {"lr": lr, "betas": [0.9, 0.99]}}, "workers": lr, **more}


def _log(run: Path, *accuracies: float) -> None:
    rows = [{"Step": 10 * epoch, "Epoch": epoch, "Loss": 1.0, ACCURACY: a} for epoch, a in enumerate(accuracies, 1)]
    StepLog(rows).save(run / "result.pkl")


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(read_runs, "_SETTLED_NS", -1)  # the tests' files are younger than what is kept otherwise


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "sweep"


def test_a_row_for_each_run_and_epoch_with_what_tells_runs_apart(folder):
    make_run(folder, "a", 0.5, config=_config(0.1), parameters=7, macs=9)
    make_run(folder, "b", 0.6, gap=(3, 6), config=_config(0.2))
    make_base(folder / "base", 0.9, {"Net": {"backend": "timm", "model_name": "resnet18"}})
    results = load_results(folder)
    assert results["name"].tolist() == ["a"] * 3 + ["b"] * 3 + ["base"] * 3
    assert results["Epoch"].tolist() == [1, 2, 3] * 3
    first, second, base = (rows.iloc[0] for _, rows in last_epoch(results).groupby("name"))
    assert (first["gap"], first["dropped_blocks"], first[LR], first["parameters"]) == ("1-2", 2, 0.1, 7)
    assert (second["gap"], second["dropped_blocks"], second[LR]) == ("3-6", 4, 0.2)
    assert pd.isna(first["base"])
    assert base["base"] == RESNET
    assert last_epoch(results)[ACCURACY].tolist() == [0.5, 0.6, 0.9]
    # What is the same everywhere, or changes no result, is no column.
    assert not {"train_config.optimizer_args.betas", "workers", "train_config.seed"} & set(load_results(folder / "a"))


def test_a_run_of_several_networks_has_a_row_for_each(tmp_path):
    run = make_run(tmp_path, "supernet", 0.9)
    rows = [(variant, epoch) for epoch in (1, 2) for variant in (0, 1, 2)]
    log = [{"Step": 1, "Epoch": epoch, "Variant": variant, ACCURACY: variant / 10} for variant, epoch in rows]
    StepLog(log).save(run / "result.pkl")
    table = load_results(tmp_path)
    assert list(zip(table["Variant"], table["Epoch"], strict=True)) == rows
    assert list(table[ACCURACY]) == [0, 0.1, 0.2] * 2


def test_several_folders_are_one_table_and_none_counts_twice(folder):
    make_run(folder / "one", "a", 0.5)
    make_run(folder / "two", "b", 0.6)
    assert last_epoch(load_results([folder / "one", folder / "two"]))["name"].tolist() == ["a", "b"]
    assert last_epoch(load_results([folder, folder / "two"]))["name"].tolist() == ["a", "b"]


def test_unfinished_and_broken_runs_are_listed(folder):
    make_run(folder, "good", 0.5)
    make_run(folder, "going", 0.4, state="running")
    failed = make_run(folder, "failed", 0.5, state="failed", failure="CUDA out of memory")
    (failed / "result.parquet").unlink()
    (make_run(folder, "broken", 0.5) / "result.parquet").write_bytes(b"no pickle")
    (make_run(folder, "mad", 0.5) / "metadata.yml").write_text("a: [b")
    StepLog([{"Loss": 1.0}]).save(make_run(folder, "odd", 0.5) / "result.pkl")
    assert set(load_results(folder)["name"]) == {"good", "going"}
    left = unfinished_runs(folder).set_index("name")
    assert sorted(left.index) == ["broken", "failed", "going", "mad", "odd"]
    assert left["reason"]["failed"] == "CUDA out of memory"
    assert "is no result" in left["reason"]["broken"]
    assert "cannot read" in left["reason"]["mad"]
    states = {"broken": "unreadable", "failed": "failed", "going": "running", "mad": "unreadable", "odd": "unreadable"}
    assert left["state"].to_dict() == states
    assert "no column Step" in left["reason"]["odd"]
    assert len(list_runs(folder)) == 6


def test_nothing_to_load_is_told(folder, tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        load_results(folder)
    run = make_run(folder, "a", 0.5, state="submitted")
    (run / "result.parquet").unlink()
    with pytest.raises(UserError, match="logged anything yet"):
        load_results(folder)
    assert unfinished_runs(folder)["state"].tolist() == ["submitted"]


# ------------------------------------------------------------------------ what is kept


def _counted(monkeypatch) -> list[str]:
    """The results that are read from now on."""
    read: list[str] = []
    real = read_runs.read_steps
    monkeypatch.setattr(
        read_runs, "read_steps", lambda place, about: (read.append(place.path.name), real(place, about))[1]
    )
    return read


def test_a_second_load_reads_nothing_and_says_the_same(folder, monkeypatch):
    make_run(folder, "a", 0.5, config=_config(0.1))
    make_run(folder, "b", 0.6, config=_config(0.2), also=[{"name": "c", "last_deleted_block": 4}])
    first = load_results(folder)
    read = _counted(monkeypatch)
    pd.testing.assert_frame_equal(load_results(folder), first)
    assert read == []


@pytest.mark.parametrize("what", ["result", "metadata", "gone", "new"])
def test_what_changed_is_read_again_and_only_that(folder, monkeypatch, what):
    runs = [make_run(folder, name, 0.5) for name in "ab"]
    load_results(folder)
    read = _counted(monkeypatch)
    if what == "result":
        before = (runs[0] / "result.parquet").stat()
        _log(runs[0], 0.1, 0.2, 0.7)
        os.utime(runs[0] / "result.parquet", ns=(before.st_atime_ns, before.st_mtime_ns))  # as a copy that keeps times
    elif what == "metadata":
        path = runs[0] / "metadata.yml"
        write_yaml(path, read_yaml(path) | {"adapter": "finetu"})  # of the same size
    elif what == "gone":
        (runs[0] / "metadata.yml").unlink()
    else:
        make_run(folder, "c", 0.9)
    kept = last_epoch(load_results(folder))
    assert read == {"result": ["a"], "metadata": ["a"], "gone": [], "new": ["c"]}[what]
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent / "empty"))
    pd.testing.assert_frame_equal(kept, last_epoch(load_results(folder)))


def test_a_file_that_may_change_again_unseen_is_not_kept(folder, monkeypatch):
    make_run(folder, "a", 0.5)
    monkeypatch.setattr(read_runs, "_SETTLED_NS", 60_000_000_000)
    load_results(folder)
    read = _counted(monkeypatch)
    load_results(folder)
    assert read == ["a"]


@pytest.mark.parametrize("damage", [b"", b"no parquet", b"\n", None])
def test_damage_counts_as_empty(folder, damage, tmp_path):
    make_run(folder, "a", 0.5)
    first = load_results(folder)
    (path,) = (tmp_path / "cache").rglob("*.kept")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if damage is None else damage)
    pd.testing.assert_frame_equal(load_results(folder), first)


def test_no_flipped_bit_of_what_is_kept_changes_a_number(folder, tmp_path):
    make_run(folder, "a", 0.5)
    first = load_results(folder)
    (path,) = (tmp_path / "cache").rglob("*.kept")
    data = path.read_bytes()
    assert read_runs._RunCache.load(path).runs
    for place in range(0, len(data), 5):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        assert read_runs._RunCache.load(path).runs == [], place
    pd.testing.assert_frame_equal(load_results(folder), first)
    assert path.read_bytes() == data  # whole again


def test_where_nothing_can_be_kept_it_is_read(folder, tmp_path, monkeypatch):
    make_run(folder, "a", 0.5)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert last_epoch(load_results(folder))[ACCURACY].tolist() == [0.5]


def test_steps_are_read_each_time(folder, tmp_path):
    run = make_run(folder, "a", 0.5)
    rows = [{"Step": step, "Epoch": 1 + step // 2, "Loss": float(step)} for step in range(4)]
    StepLog(rows).save(run / "result.pkl")
    assert load_results(folder, steps=True)["Loss"].tolist() == [0, 1, 2, 3]
    assert not (tmp_path / "cache").exists()
    assert load_results(folder)["Loss"].tolist() == [1, 3]
