"""Options that take several values however they are spelt, and where data sets are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.main import get_command

from stitching.cli import app


def parsed(*words: str) -> dict:
    command = get_command(app).commands["submit"]
    with command.make_context("submit", ["a.yml", "--cluster", "local", *words, "b.yml"]) as context:
        return context.params


@pytest.mark.parametrize(
    ("words", "seeds"),
    [
        ("--seeds 1 2 3", [1, 2, 3]),
        ("--seeds 1,2,3", [1, 2, 3]),
        ("--seeds=1,2", [1, 2]),
        ("--seeds=1 2", [1, 2]),
        ("--seeds 1, 2, 3", [1, 2, 3]),
        ("--seeds 1,2 3 --seeds=4", [1, 2, 3, 4]),
        ("--seeds 7 --pack 2", [7]),
        ("--seeds -1 -2", [-1, -2]),  # told by the schema, with the key
    ],
)
def test_several_seeds(words, seeds):
    params = parsed(*words.split())
    assert list(params["seeds"]) == seeds
    assert [str(path) for path in params["sweeps"]] == ["a.yml", "b.yml"]


@pytest.mark.parametrize("words", ["--only failed stopped", "--only failed,stopped", "--only=failed stopped"])
def test_several_states(words):
    params = parsed(*words.split())
    assert list(params["only"]) == ["failed", "stopped"]
    assert [str(path) for path in params["sweeps"]] == ["a.yml", "b.yml"]


@pytest.mark.parametrize(("words", "problem"), [("-1", "found -1"), ("1 1", "is repeated"), ("x", "--seeds")])
def test_wrong_seeds_are_told(cli, write, words, problem):
    sweep = write("small.yml", "models: [local/smallnet]\ntrain_config: {dataset: digits}\n")
    outcome = cli("plan", sweep, "--seeds", *words.split())
    assert (outcome.code, problem in outcome.err) == (2, True), outcome
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("command", [["plan"], ["submit", "--cluster", "local"], ["retry"]])
def test_data_is_looked_for_where_the_command_says(cli, write, tmp_path: Path, monkeypatch, command):
    """The classes of an image folder are its folders, so that every one of these commands looks into it."""
    model = "{model_name: smallnet, num_blocks: 4, width: 8, num_classes: 2}"
    config = "{dataset: image_folder, data_preprocessing: {image_size: 16}}"
    sweep = write("small.yml", f"models: [{model}]\ngaps: [{{blocks_to_drop: [9, 9]}}]\ntrain_config: {config}\n")
    for name in ("cat", "dog"):
        write(f"elsewhere/image_folder/train/{name}/1.png", "")
        write(f"elsewhere/image_folder/val/{name}/1.png", "")
    monkeypatch.chdir(tmp_path)
    outcome = cli(*command, sweep, "--data-path", "nowhere")
    assert (outcome.code, str(tmp_path / "nowhere") in outcome.err) == (2, True), outcome
    outcome = cli(*command, sweep, "--data-path", "elsewhere")
    assert (outcome.code, "[9, 9]" in outcome.err, "elsewhere" in outcome.err) == (2, True, False), outcome
