"""A user's own files in sweeps: what runs is what was planned, `explain` names what changed, and reading imports nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_sweeps import SMALLNET, cluster_of, gaps, plan_of, submit, write_sweep
from yaml_files import read_yaml

from stitching.config.errors import UserError
from stitching.launch.explain import explain
from stitching.runs.folder import write_yaml
from stitching.runs.kinds import load_job
from stitching.runs.step_log import ACCURACY, StepLog

QUEUE = cluster_of(lambda tasks, **_: {})
MODEL = """
from torch import nn
def make_net():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
"""


@pytest.fixture(params=["plugins", "module"])
def own(request, tmp_path) -> tuple[Path, Path]:
    """A sweep, and the file of a user's own that it names."""
    file = tmp_path / "mine.py"
    if request.param == "plugins":
        file.write_text("x = 1\n")
        return write_sweep(tmp_path / "small.yml", models=[SMALLNET], gaps=gaps([1, 1]), plugins=["mine.py"]), file
    file.write_text(MODEL)
    sweep = tmp_path / "small.yml"
    sweep.write_text(
        "job:\n  model: {Net: {module: 'mine.py:make_net'}}\n"
        "  train_config: {dataset: digits, data_preprocessing: {image_size: 8}, epochs: 1}\n"
    )
    return sweep, file


def test_code_that_is_edited_between_plan_and_submit_is_not_run_as_what_was_planned(own):
    sweep, file = own
    plan = plan_of(sweep)
    file.write_text(file.read_text() + "# edited\n")
    with pytest.raises(UserError, match=r"mine\.py was edited while the sweep was planned\n.*Submit again"):
        submit(plan, QUEUE)
    assert not list(plan.folder.glob("*/config.yml"))


def test_explain_names_the_file_whose_code_changed(own, monkeypatch):
    sweep, file = own
    plan = plan_of(sweep)
    submit(plan, QUEUE)
    for run in plan.runs:
        folder = plan.folder / run.name  # as a run leaves it that has started
        write_yaml(
            folder / "metadata.yml", {**read_yaml(folder / "metadata.yml"), "config": read_yaml(folder / "config.yml")}
        )
    file.write_text(file.read_text() + "# edited\n")
    monkeypatch.setattr("stitching.config.plugins._LOADED", {})  # as in a process that starts now
    plan = plan_of(sweep)
    run = next(run for run in plan.runs if not run.only_tests)
    lines = explain(plan, run.name)
    assert "is stale" in lines[0]
    (line,) = [line for line in lines if "mine.py" in line]
    assert line.startswith("  the code in mine.py: ")
    assert not [line for line in lines if "not on record" in line]


def test_commands_that_read_results_import_no_code_of_users(cli, tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(f"from pathlib import Path\nPath({str(tmp_path / 'mark')!r}).write_text('')\n{MODEL}")
    folder = tmp_path / "runs"
    for number, model in enumerate(({"module": f"{plugin}:make_net"}, {**SMALLNET, "backend": "of_a_plugin"})):
        config = {
            "plugins": [str(plugin)], "model": {"Net": model},
            "train_config": {"dataset": "digits", "epochs": 1},
        }  # fmt: skip
        run = folder / f"run-{number}"
        run.mkdir(parents=True)
        digests = StepLog([{"Step": 1, "Epoch": 1, "Loss": 1.0, ACCURACY: 0.5}]).save(run / "result.pkl")
        metadata = {
            "name": run.name, "source": "a", "destination": "b", "first_deleted_block": 1, "last_deleted_block": 2,
            "adapter": "affine", "seed": number, "state": "done", "digests": digests, "config": config,
        }  # fmt: skip
        write_yaml(run / "metadata.yml", metadata)
        write_yaml(run / "config.yml", config)
        (run / "log.txt").write_text("a line\n")
    for command in (
        ("status", folder), ("status", folder, "--json"), ("results", folder), ("collect", folder, "-o", tmp_path / "all.csv"),
        ("plot", folder, "-o", tmp_path / "a.svg"), ("report", folder, "-o", tmp_path / "a.html"), ("logs", folder / "run-0"),
        ("clean", folder),
    ):  # fmt: skip
        outcome = cli(*command)
        assert outcome.code == 0, (command, outcome.err)
        assert not (tmp_path / "mark").exists(), command
    assert read_yaml(folder / "run-0" / "config.yml")["plugins"] == [str(plugin)]
    load_job(folder / "run-0" / "config.yml")
    assert (tmp_path / "mark").exists(), "the plugin leaves a mark where a command does import it"
