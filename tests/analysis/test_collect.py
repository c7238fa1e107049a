"""One table of everything that runs have logged."""

from __future__ import annotations

import pandas as pd
import pytest
from made_runs import ACCURACY, make_run
from user_errors import assert_user_error
from yaml_files import read_yaml

from stitching import load_results
from stitching.runs.folder import write_yaml
from stitching.runs.step_log import StepLog

ROWS = [
    {"Step": 0, "Epoch": 0, ACCURACY: 0.1},
    {"Step": 1, "Epoch": 1, "Loss": 4.0},
    {"Step": 2, "Epoch": 1, "Loss": 3.0, ACCURACY: 0.5},
    {"Step": 3, "Epoch": 2, "Loss": 2.0},
]


@pytest.fixture
def sweep(tmp_path):
    folder = tmp_path / "sweep"
    for name, more in (("a", {"lr": 0.1}), ("b", {"lr": "slow", "state": "stopped"})):
        StepLog(ROWS).save(make_run(folder, name, 0.5, **more) / "result.pkl")
    return folder


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_row_for_each_run_and_epoch(cli, sweep, tmp_path, ending):
    path = tmp_path / f"all.{ending}"
    outcome = cli("collect", sweep, "-o", path)
    assert outcome.code == 0, outcome.err
    assert "6 rows of 2 runs" in outcome.out
    table = pd.read_parquet(path) if ending == "parquet" else pd.read_csv(path)
    assert table["name"].tolist() == ["a"] * 3 + ["b"] * 3
    assert table["Epoch"].tolist() == [0, 1, 2] * 2
    assert table["Loss"].tolist()[1:3] == [3.0, 2.0]
    assert table[ACCURACY].tolist()[:2] == [0.1, 0.5]
    assert pd.isna(table[ACCURACY][2])
    assert table["state"].tolist() == ["done"] * 3 + ["stopped"] * 3
    assert table["lr"].tolist()[::3] == ["0.1", "slow"]


def test_a_row_for_each_step(sweep):
    assert load_results(sweep, steps=True)["Step"].tolist() == [0, 1, 2, 3] * 2


def test_cells_of_the_same_network_have_their_rows_each(sweep):
    path = sweep / "a" / "metadata.yml"
    write_yaml(path, {**read_yaml(path), "also": [{"name": "a2", "last_deleted_block": 7}]})
    table = load_results(sweep)
    assert table[table["name"] == "a"]["last_deleted_block"].tolist() == [2] * 3
    assert table[table["name"] == "a2"]["last_deleted_block"].tolist() == [7] * 3
    assert set(table[table["name"].isin(["a", "a2"])]["run"]) == {str(sweep / "a" / "result.pkl")}


def test_what_cannot_be_read_is_named_and_the_rest_is_collected(cli, sweep, tmp_path):
    (sweep / "a" / "result.parquet").write_bytes(b"no pickle")
    make_run(sweep, "c", 0.5)
    (sweep / "c" / "result.parquet").unlink()
    outcome = cli("collect", sweep, "-o", tmp_path / "all.csv")
    assert outcome.code == 0
    assert f"left out {sweep / 'a'}" in outcome.err
    assert f"left out {sweep / 'c'}" in outcome.err
    assert set(pd.read_csv(tmp_path / "all.csv")["name"]) == {"b"}


def test_mistakes_are_told(cli, sweep, tmp_path):
    assert_user_error(cli("collect", sweep, "-o", tmp_path / "x.xls"), "the ending of", ".parquet, .csv")
    assert_user_error(cli("collect", tmp_path / "none", "-o", tmp_path / "x.csv"), "there is no folder", str(tmp_path))
    assert_user_error(cli("collect", sweep, "-o", tmp_path / "none" / "x.csv"), "cannot write", "No such file")
    (tmp_path / "empty").mkdir()
    assert_user_error(cli("collect", tmp_path / "empty", "-o", tmp_path / "x.csv"), "no run in", "logged anything")
    assert not (tmp_path / "x.csv").exists()
