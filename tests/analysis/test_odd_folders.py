"""One odd file, whatever is odd about it, takes nothing away from the runs beside it."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_runs import RESNET, VIT, make_base, make_run
from odd_metadata import ODD

from stitching import list_runs, load_results, read_result, unfinished_runs
from stitching.analysis.plots.gallery import FIGURES
from stitching.config.errors import UserError
from stitching.runs.folder import RunFolder, write_yaml
from stitching.runs.step_log import ACCURACY, StepLog, _as_parquet, read_steps

ROW = {"Step": [1, 2], "Epoch": [1, 2], "Loss": [2.0, 1.0], ACCURACY: [0.5, 0.6]}
SIZE = {"source_depth": 0.25, "destination_depth": 0.5, "parameters": 10**6, "macs": 10**9}
VAL = "Overall/Val Accuracy"

# Results that no run left, each with what is said of it.
ODD_RESULTS = {
    "text": (ROW | {"Loss": ["a", "b"]}, "its column Loss holds"),
    "dates": (ROW | {"Loss": pd.to_datetime(["2025-01-01"] * 2)}, "its column Loss holds timestamp"),
    "nested": (ROW | {"Loss": [[1.0], [2.0]]}, "its column Loss holds list"),
    "booleans": (ROW | {"Epoch": [True, False]}, "its column Epoch holds bool"),
    "no epoch": ({name: ROW[name] for name in ROW if name != "Epoch"}, "it has no column Epoch"),
    "epoch is NaN": (ROW | {"Epoch": [1, np.nan]}, "a row has no Epoch"),
    "step without end": (ROW | {"Step": [1, np.inf]}, "a row has no Step"),
    "wide": (ROW | {f"column {n}": [1, 2] for n in range(3000)}, "it has 3,004 columns"),
    "name": (ROW | {"Overall/Test \x1b[2J": [1, 2]}, r"Overall/Test \x1b[2J cannot be printed"),
    "no rows": ({name: [] for name in ROW}, "is still empty"),
    "no columns": ({}, "is still empty"),
}
# Metadata that a schema lets pass, and what makes of it must bear.
STRANGE = [
    {"name": "$x_1$ and $y$", "adapter": "[b]odd[/b] \\[/red] $a^b$", "failure": "[/] \x1b[2J"},
    {"adapter": "<script>alert(1)</script>", "source": "timm/$a$_$b$"},
    {"gap": "text", "run": 3, "folder": "elsewhere", "base": 7, "problem": "none", "dropped_blocks": "x"},
    {"Step": "x", "Epoch": [1], ACCURACY: "good", "number of the run": "a", "of another kind": {"a": [1]}},
    {"lr": "slow", "day": "2025-01-01", "huge": 2**62, "wild": float("nan"), "flag": True},
    {"control": "of another version"},
    {"state": "of another version"},
    {"also": [{}, {"name": "cell", "first_deleted_block": 3, "last_deleted_block": 3, "adapter": "finetune"}]},
    {"config": {"train_config": {"dataset": "a\x1b[2J", "optimizer_args": {"lr": float("inf")}}}},
    {"config": {"train_config": {"optimizer_args": [1, 2], "epochs": {}}, "model": {"Net": {"model_name": 3}}}},
    {"config": {"model": {"Net": "x"}}},
    {"final": {}, "source_depth": 0, "destination_depth": 1, "macs": 0, "parameters": 0, "test_images": 0},
    {"first_deleted_block": None, "last_deleted_block": None},
    {"adapter": None},
]


def _remake(run: Path, columns: dict, result: str = "result.parquet") -> None:
    """A result with these columns, whatever they are, and its digest where there can be one."""
    frame = pd.DataFrame(columns)
    try:
        (run / result).write_bytes(_as_parquet(frame))
    except (ValueError, TypeError, OSError):
        frame.to_parquet(run / result)


def _good(folder: Path) -> Path:
    for number, (adapter, seed) in enumerate((adapter, seed) for adapter in ("affine", "finetune") for seed in (1, 2)):
        run = make_run(folder, f"good-{number}", 0, adapter=adapter, seed=seed, **SIZE)
        (run / "config.yml").touch()
        accuracies = {ACCURACY: 0.5 + seed / 10, VAL: 0.5, "Overall/Test Agreement": 0.5}
        StepLog([{"Step": 1, "Epoch": 1, "Loss": 1.0, **accuracies}]).save(run / "result.pkl")
    make_base(folder / "base", 0.9, {"Net": {"backend": "timm", "model_name": "vit_tiny"}})
    return folder


def _odd(folder: Path) -> list[str]:
    """Runs that cannot be read, by name."""
    for number, text in enumerate(ODD):
        run = make_run(folder, f"odd-{number}", 0.99)
        (run / "metadata.yml").write_text(text)
    for name, (columns, _) in ODD_RESULTS.items():
        _remake(make_run(folder, f"odd-result-{name}", 0.99), columns)
    shutil.rmtree(make_run(folder, "odd-folder", 0.99) / "result.parquet", ignore_errors=True)
    (folder / "odd-folder" / "result.parquet").unlink()
    (folder / "odd-folder" / "result.parquet").mkdir()
    for run in folder.glob("odd-*"):
        (run / "config.yml").touch()
    (make_run(folder, "half-1", 0.99) / "metadata.yml").unlink()  # a result alone
    make_run(folder, "half-2", 0.99)
    write_yaml(folder / "half-2" / "metadata.yml", {"state": "done"})  # a result and no name
    return sorted(path.name for path in folder.glob("odd-*"))


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> Path:
    folder = _good(tmp_path_factory.mktemp("odd") / "sweep")
    _odd(folder)
    return folder


def test_each_odd_run_is_listed_with_its_reason_and_the_rest_is_loaded(odd):
    names = sorted(path.name for path in odd.glob("odd-*"))
    left = unfinished_runs(odd)
    assert sorted(left["name"]) == names
    reasons = left.set_index("name")["reason"]
    for number, words in enumerate(ODD.values()):
        assert words in reasons[f"odd-{number}"], number
    for name, (_, words) in ODD_RESULTS.items():
        assert words in reasons[f"odd-result-{name}"], name
    assert set(load_results(odd)["name"]) == {"good-0", "good-1", "good-2", "good-3", "base", "half-2"}
    assert len(list_runs(odd)) == len(names) + 6


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_collect(odd, tmp_path, cli, ending):
    outcome = cli("collect", odd, "-o", tmp_path / f"all.{ending}")
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("left out ") == len(list(odd.glob("odd-*")))
    assert "Traceback" not in outcome.err


def test_results(odd, cli):
    outcome = cli("results", odd)
    assert outcome.code == 0, outcome.err
    (line,) = (line for line in outcome.out.splitlines() if RESNET in line)
    assert line.rstrip().endswith("1-2  0.650 [0.015, 1.000]  0.650 [0.015, 1.000]"), line


def test_report(odd, tmp_path, cli):
    outcome = cli("report", odd, "-o", tmp_path / "report.html")
    assert outcome.code == 0, outcome.err
    page = (tmp_path / "report.html").read_text()
    table = page[page.index('id="unfinished-table"') :]
    assert table[: table.index("</table>")].count("<tr>") - 1 == len(list(odd.glob("odd-*")))
    assert "macs: Input should be a valid integer" in table
    assert "\x1b" not in page[page.index("<main") :]


def test_status(odd, cli):
    outcome = cli("status", odd, "--all", "--json")
    assert outcome.code == 0, outcome.err
    runs = {row["name"]: row for row in json.loads(outcome.out)}
    for number, words in enumerate(ODD.values()):
        assert runs[f"odd-{number}"]["state"] == "failed"
        assert words in runs[f"odd-{number}"]["words"]
    outcome = cli("status", odd, "--all")
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize("name", [name for name in FIGURES if name not in ("setting", "cross-test")])
def test_figures(odd, tmp_path, cli, name):
    outcome = cli("plot", odd, "--figure", name, "-o", tmp_path / "figure.svg")
    assert outcome.code == 0, outcome.err
    assert "Traceback" not in outcome.err


def test_what_is_strange_but_fits_is_borne(tmp_path, cli):
    folder = _good(tmp_path / "sweep")
    for number, about in enumerate(STRANGE):
        run = make_run(folder, f"strange [/] ${number}$", 0.7, seed=3, **SIZE)
        write_yaml(run / "metadata.yml", RunFolder(run).read_metadata() | about)
        (run / "config.yml").touch()
    table = tmp_path / "all.parquet"
    page = tmp_path / "report.html"
    for arguments in (
        ("results", folder, "--figure", tmp_path / "a.svg"), ("collect", folder, "-o", table),
        ("report", folder, "-o", page), ("plot", folder, "--figure", "depth", "-o", tmp_path / "b.png"),
        ("plot", folder, "--figure", "progress", "-o", tmp_path / "b.png"), ("status", folder),
    ):  # fmt: skip
        outcome = cli(*arguments)
        assert outcome.code == 0, (arguments, outcome.err)
        assert "\x1b" not in outcome.out + outcome.err
    rows = pd.read_parquet(table)
    rows = rows[rows["folder"].str.contains("/strange", regex=False) & (rows["Epoch"] == 2)]
    assert rows["folder"].nunique() == len(STRANGE)
    assert set(rows[ACCURACY]) == {0.7}
    assert "\x1b" not in page.read_text()
    assert "<script>alert" not in page.read_text()


def test_a_result_alone_is_no_run(tmp_path, cli):
    folder = _good(tmp_path / "sweep")
    for name in ("result.pkl", "result.parquet"):
        (folder / name).write_bytes((folder / "good-0" / name).read_bytes())
    assert cli("results", folder).code == 0
    assert len(list_runs(folder)) == 5
    assert len(read_steps(RunFolder(folder))) == 1
    assert VIT in cli("results", folder).out


class _Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_no_command_opens_a_pickle(cli, tmp_path):
    run = make_run(tmp_path / "runs", "one", 0.5)
    make_run(tmp_path / "runs", "two", 0.6)
    write_yaml(run / "config.yml", {})
    (run / "result.pkl").write_bytes(pickle.dumps(_Hostile(tmp_path / "opened")))
    runs = tmp_path / "runs"
    for words in (
        ["status", runs], ["results", runs], ["collect", runs, "-o", tmp_path / "all.csv"],
        ["plot", runs, "-o", tmp_path / "gap.png"], ["report", runs, "-o", tmp_path / "report.html"],
    ):  # fmt: skip
        assert cli(*words).code == 0, words
    assert "its result is gone or damaged" in cli("status", runs).out
    with pytest.raises(UserError, match=r"it asks for posix\.mkdir"):
        read_result(run / "result.pkl")
    assert not (tmp_path / "opened").exists()
