"""Records of what was submitted: checked when they are read, and of no use to a folder that they are not of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_runs_on_disk import put_record, put_run

from stitching.config.errors import UserError
from stitching.launch.records import damaged_records, read_records
from stitching.launch.submitted import settle_records, submitted_tasks
from stitching.runs.code import code_digest


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = tmp_path / "project" / "sweep"
    put_run(folder, "one")
    return folder


@pytest.fixture
def queue(tmp_path: Path, monkeypatch) -> Path:
    """A file with what Slurm's queue lists; there is no accounting."""
    listed = tmp_path / "queue"
    listed.touch()
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "squeue").write_text(f'#!/bin/sh\nwhile read -r line; do echo "$line"; done < {listed}\n')
    (programs / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    return listed


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.json", b'{"mine": 1}'),
        ("123.json", b"[1, 2]"),
        ("123.json", b'[{"id": 3}]'),
        ("999999999999999999999999.json", b"\x93NUMPY\xff\xfe"),
        ("20261121.json", b"{}"),
        ("\u0663.json", b"{}"),
    ],
)
def test_what_is_not_ours_is_left_alone(cli, sweep, name, content):
    record = put_record(sweep, "7", ["one"])
    (sweep / "slurm" / name).write_bytes(content)
    outcome = cli("status", sweep)
    assert (outcome.code, outcome.err) == (0, "")
    assert "1 done" in outcome.out
    assert read_records(sweep / "slurm") == [record]
    assert (sweep / "slurm" / name).read_bytes() == content


def test_a_damaged_record_is_told_and_not_used(cli, sweep, queue):
    record = put_record(sweep, "7", ["one"])
    path = sweep / "slurm" / f"{record.name}.json"
    whole = path.read_text()
    for damaged in (whole.replace('"7"', '"8"'), whole[:100], ""):
        path.write_text(damaged)
        assert submitted_tasks(sweep / "slurm") == []
        assert damaged_records(sweep / "slurm") == [path]
        outcome = cli("status", sweep, "--json")
        assert outcome.err == f"note: {path} is damaged: its job is not known here\n"
        assert json.loads(outcome.out)[0]["state"] == "done"
    settle_records(sweep / "slurm")
    queue.write_text(f"12|{record.job_name}\n")
    with pytest.raises(UserError, match="slurm still holds the job 12"):
        settle_records(sweep / "slurm")


def test_a_submission_that_was_cut_off_is_completed_or_dropped(sweep, queue):
    came, lost = put_record(sweep, None, ["one"], ["two"]), put_record(sweep, None, ["three"])
    queue.write_text(f"12|interactive|x\n77|{came.job_name}\n")
    slurm = sweep / "slurm"
    assert [(task.id, task.runs) for task in submitted_tasks(slurm)] == [("77_0", ("one",)), ("77_1", ("two",))]
    assert {record.job for record in read_records(slurm)} == {None}  # looking changes nothing
    settle_records(slurm)
    (record,) = read_records(slurm)
    assert (record.name, record.job) == (came.name, "77")
    assert {"77_0_submitted.pkl", "77_1_submitted.pkl"} <= {path.name for path in (slurm / came.name).iterdir()}
    assert not (slurm / lost.name).exists()  # the job, should it come yet, has no pickle to run
    settle_records(slurm)


def test_logs_move_with_the_folder_and_queued_jobs_do_not(sweep):
    put_record(sweep, "7", ["one"])
    (task,) = submitted_tasks(sweep / "slurm")
    assert task.log.is_file()
    assert task.left_behind == ""
    moved = sweep.rename(sweep.with_name("moved"))
    (there,) = submitted_tasks(moved / "slurm")
    assert there.log == moved / task.log.relative_to(sweep)
    assert there.log.is_file()
    assert there.left_behind == str(sweep)
    sweep.symlink_to(moved)  # what the job looks for is there again
    assert submitted_tasks(moved / "slurm")[0].left_behind == ""


def test_status_tells_what_other_code_made(cli, sweep):
    commit = "0123456789abcdef"
    for name in ("two", "three"):
        put_run(sweep, name, code={"digest": "a1b2c3d4e5f6", "commit": commit, "modified": False})
    put_run(sweep, "four", code={"digest": code_digest()})
    outcome = cli("status", sweep)
    assert "4 done\n2 runs were made by other code (a1b2c3d4e5f6, commit 0123456789)\n" in outcome.out
    runs = {run["name"]: run for run in json.loads(cli("status", sweep, "--json").out)}
    assert {name for name, run in runs.items() if run["other_code"]} == {"two", "three"}
    assert (runs["two"]["code"], runs["two"]["commit"]) == ("a1b2c3d4e5f6", commit)
    assert (runs["one"]["code"], runs["four"]["code"]) == (None, code_digest())
