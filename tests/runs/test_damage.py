"""Damage on disk: whatever file of a run it hits, either the same numbers come out, or it is said."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from damages import damaged

from stitching.config.errors import UserError
from stitching.models.weights import read_weights
from stitching.runs.folder import RunFolder, write_yaml
from stitching.runs.state import is_whole
from stitching.runs.step_log import StepLog, read_result, read_steps
from stitching.training.checkpoints import newest_whole_checkpoint, write_checkpoint

ROWS = [{"Step": step, "Epoch": 1 + step // 4, "Loss": 1 / (step + 3), "LR": 0.1} for step in range(12)]
ROWS[-1]["Overall/Test Accuracy"] = 0.5  # and NaN in every other row


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def test_a_damaged_checkpoint_is_never_taken(folder):
    state = {"model": {"weight": torch.arange(3000.0)}, "place": {"epoch": 1}, "rows": ROWS}
    write_checkpoint(folder, state)
    first = folder.checkpoint.read_bytes()
    write_checkpoint(folder, state | {"place": {"epoch": 2}})
    assert folder.previous_checkpoint.read_bytes() == first
    assert newest_whole_checkpoint(folder) == (folder.checkpoint, [])
    assert torch.load(folder.checkpoint, weights_only=True)["place"] == {"epoch": 2}
    data = folder.checkpoint.read_bytes()
    aside = folder.path / "checkpoint.damaged-1.pt"
    for changed in damaged(data, 400):
        folder.checkpoint.write_bytes(changed)
        path, notes = newest_whole_checkpoint(folder)
        assert path == folder.previous_checkpoint
        assert f"renamed to {aside.name}" in notes[0]
        assert aside.read_bytes() == changed
        aside.unlink()


def test_damaged_weights_are_never_taken(tmp_path):
    weights = {"weight": torch.arange(3000.0), "bias": torch.arange(7.0)}
    path = tmp_path / "weights.pt"
    torch.save(weights, path)
    for changed in damaged(path.read_bytes(), 200):
        path.write_bytes(changed)
        try:
            loaded = read_weights(path)
        except UserError:
            continue  # told
        assert loaded.keys() == weights.keys()
        assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_both_files_of_a_result_hold_the_same(folder):
    StepLog(ROWS).save(folder.result)
    steps = read_steps(folder)
    pd.testing.assert_frame_equal(steps, read_result(folder.result), check_exact=True, check_column_type=False)
    pd.testing.assert_frame_equal(steps, pd.read_parquet(folder.steps), check_exact=True)
    pd.testing.assert_frame_equal(steps, pd.read_pickle(folder.result), check_exact=True, check_column_type=False)


def test_a_damaged_result_is_never_taken(folder):
    metadata = {"digests": StepLog(ROWS).save(folder.result)}
    assert is_whole(folder, metadata)
    for path in (folder.result, folder.steps):
        data = path.read_bytes()
        for changed in damaged(data, 200):
            path.write_bytes(changed)
            assert not is_whole(folder, metadata)
        path.write_bytes(data)
    assert is_whole(folder, metadata)
    assert not is_whole(folder, {}), "nothing is on record"
    folder.steps.unlink()
    assert not is_whole(folder, metadata)


def test_damage_to_the_steps_of_a_run_that_is_not_done_yet_is_said(folder):
    """Nothing else has their digest on record then."""
    StepLog(ROWS).save(folder.result)
    whole = read_steps(folder)
    data = folder.steps.read_bytes()
    said = 0
    for changed in damaged(data, 400):
        folder.steps.write_bytes(changed)
        try:
            pd.testing.assert_frame_equal(read_steps(folder), whole, check_exact=True)
        except UserError as error:
            said += str(folder.steps) in error.problem
    assert said > 300


def test_the_result_of_another_run_is_not_that_of_one_that_is_done(folder):
    metadata = {"digests": StepLog(ROWS).save(folder.result)}
    read_steps(folder, metadata)
    StepLog(ROWS[:-1]).save(folder.result)
    read_steps(folder)
    with pytest.raises(UserError, match="not the file that the run wrote"):
        read_steps(folder, metadata)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet", b"PAR1" + bytes(50) + b"PAR1"])
def test_another_file_is_no_result(folder, content):
    folder.steps.write_bytes(content)
    with pytest.raises(UserError, match="no result of a run"):
        read_steps(folder)


@pytest.mark.parametrize("brief", [False, True])
def test_damaged_metadata_is_never_taken(folder, brief):
    known = {"name": "a run", "seed": 3, "final": {"Overall/Test Accuracy": 0.5}, "config": {"model": {"width": 8}}}
    write_yaml(folder.metadata, known)
    whole = folder.read_metadata(brief=brief)
    assert whole == {key: value for key, value in known.items() if key == "final" or not brief}
    assert yaml.safe_load(folder.metadata.read_text()) == known, "it is plain YAML for all others"
    data = folder.metadata.read_bytes()
    for changed in damaged(data, 400):
        folder.metadata.write_bytes(changed)
        with pytest.raises(UserError, match="cannot read"):
            folder.read_metadata(brief=brief)
    for edited in (data.replace(b"0.5", b"0.9"), data[: data.index(b"# sha256")], b"state: done\n", b""):
        folder.metadata.write_bytes(edited)
        with pytest.raises(UserError, match="was edited"):
            folder.read_metadata(brief=brief)
