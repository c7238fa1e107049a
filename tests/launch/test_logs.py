"""The logs of a run: its own, its job's in Slurm, and following the first while it is written."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from user_errors import assert_user_error

from stitching.launch.logs import followed_log, log_files
from stitching.launch.records import new_record, write_record
from stitching.runs.folder import write_yaml


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "sweep" / "a-run"
    path.mkdir(parents=True)
    (path / "config.yml").write_text("model: {}\n")
    return path


def submitted(run: Path, job: str, output: str) -> Path:
    """A record of the run's task, and what its job printed."""
    records = run.parent / "slurm"
    record = replace(new_record(records, "test", "a1b2c3", [[run.name]]), job=job)
    (records / record.name).mkdir(parents=True)
    write_record(records, record)
    (task,) = record.submitted(records)
    task.log.write_text(output)
    return task.log


def test_the_logs_of_a_run_and_of_its_newest_job_are_printed(cli, run):
    (run / "log.txt").write_text("epoch 1\n")
    submitted(run, "10", "old job\n")
    submitted(run, "9", "new job\n")  # Slurm begins again at 1 some day
    outcome = cli("logs", run)
    assert outcome.code == 0, outcome.err
    assert outcome.out == "epoch 1\nnew job\n"
    assert str(run / "log.txt") in outcome.err


def test_a_job_that_never_came_to_the_run_shows_its_own_output(cli, run):
    log = submitted(run, "9", "venv/bin/activate: No such file\n")
    assert cli("logs", run).out == "venv/bin/activate: No such file\n"
    assert log_files(run) == [log]


def test_following_ends_with_the_run_and_prints_whole_lines_once(run):
    write_yaml(run / "metadata.yml", {"state": "running"})

    def write() -> None:
        with open(run / "log.txt", "w") as log:
            for words in ("epoch 1", ", loss 2\nepoch", " 2, loss 1\n"):
                log.write(words)
                log.flush()
                time.sleep(0.05)
            log.write("the end")
        write_yaml(run / "metadata.yml", {"state": "done"})

    writer = threading.Thread(target=write)
    writer.start()
    lines = list(followed_log(run, every=0.01))
    writer.join()
    assert lines == ["epoch 1, loss 2", "epoch 2, loss 1", "the end"]


def test_what_is_no_run_is_told(cli, run):
    assert_user_error(cli("logs", run.parent / "nothing"), str(run.parent / "nothing"), "there is no folder here")
    assert_user_error(cli("logs", run.parent), str(run.parent), "is no folder of a run")
    assert_user_error(cli("logs", "--follow", run.parent), str(run.parent), "is no folder of a run")
    assert_user_error(cli("logs", run), str(run), "has no log yet")
