"""`clean` removes what no run needs any more, and nothing else."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest
from made_runs_on_disk import put_record, put_run

from stitching.launch.schedulers import TaskState
from stitching.launch.schedulers.slurm import Slurm

OLD, NEW = "0ld0ld0ld0ld", "a1b2c3d4e5f6"


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two runs that are done, one of them at the second try, and one that failed."""
    folder = tmp_path / "project" / "sweep"
    put_run(folder, "one")
    put_run(folder, "two")
    put_run(folder, "broken", "failed", failure="it broke")
    put_record(folder, "7", ["one"], ["two", "broken"], code=OLD)
    put_record(folder, "8", ["two"], ["broken"])
    for code in (OLD, NEW):
        (folder.parent / ".code" / code / "stitching").mkdir(parents=True)
        (folder.parent / ".code" / code / "stitching" / "__init__.py").write_text("x" * 5000)
    return folder


@pytest.fixture
def held(monkeypatch) -> set[str]:
    """The tasks that Slurm says it holds."""
    ids: set[str] = set()
    running = TaskState(is_waiting=False)
    monkeypatch.setattr(Slurm, "states", lambda _: dict.fromkeys(ids, running))
    return ids


def without_slurm(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and ".lock" not in path.name}


def left(sweep: Path) -> set[str]:
    """Pickles and logs that are left, by their task, and snapshots."""
    tasks = {path.name.removesuffix("_submitted.pkl") for path in sweep.glob("slurm/*/*.pkl")}
    assert tasks == {path.name.removesuffix("_0_log.out") for path in sweep.glob("slurm/*/*.out")}
    return tasks | {path.name for path in sweep.parent.glob(".code/*") if path.is_dir()}


def test_what_an_unfinished_run_needs_is_left(cli, sweep, held):
    before = files(sweep)
    dry = cli("clean", sweep, "--dry-run")
    assert files(sweep) == before
    assert left(sweep) == {"7_0", "7_1", "8_0", "8_1", OLD, NEW}
    outcome = cli("clean", sweep)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == dry.out.replace("would remove", "removed").replace("would be freed", "freed")
    assert "removed record, pickles and logs of job 7 (" in outcome.out
    assert "removed pickles and logs of 1 tasks of job 8 (2.0 kB)" in outcome.out
    assert f"removed code {OLD} (5.0 kB)" in outcome.out
    assert left(sweep) == {"8_1", NEW}
    assert {name for name in before if not name.startswith("slurm/")} == {
        name for name in files(sweep) if not name.startswith("slurm/")
    }
    assert cli("clean", sweep).out.endswith("0.0 kB freed\n")


def test_nothing_that_slurm_holds_is_removed(cli, sweep, held):
    held.update({"7_0", "8_0"})  # of runs that are done: a process that ends just now
    cli("clean", sweep)
    assert left(sweep) == {"7_0", "8_0", "8_1", OLD, NEW}


def test_when_slurm_cannot_be_asked_all_tasks_of_unfinished_runs_are_left(cli, sweep, monkeypatch):
    without_slurm(monkeypatch)
    outcome = cli("clean", sweep)
    assert "kept all tasks of runs that are not done: there is no Slurm here" in outcome.out
    assert left(sweep) == {"7_1", "8_1", OLD, NEW}


def test_once_all_is_done_results_are_all_that_is_left(cli, sweep, monkeypatch):
    for file in (sweep / "broken").iterdir():
        file.unlink()
    (sweep / "broken").rmdir()
    without_slurm(monkeypatch)
    cli("clean", sweep)
    assert {name.partition("/")[0] for name in files(sweep)} == {"one", "two"}
    assert left(sweep) == set()


def test_other_sweeps_of_the_project_need_their_snapshots(cli, sweep, held):
    other = sweep.with_name("other")
    put_run(other, "waits", "submitted")
    put_record(other, "9", ["waits"], code=OLD)
    held.add("9")
    cli("clean", sweep)
    assert left(sweep) == {"8_1", OLD, NEW}
    assert left(other) == {"9", OLD, NEW}


def test_a_submission_that_was_cut_off_is_left_to_the_next_submit(cli, sweep, held, monkeypatch):
    monkeypatch.setenv("PATH", "")
    record = put_record(sweep, None, ["one"], code=OLD)
    cli("clean", sweep)
    assert (sweep / "slurm" / f"{record.name}.json").is_file()
    assert left(sweep) >= {OLD, "None"}


def test_snapshots_are_left_while_a_submit_uses_them_or_a_record_is_damaged(cli, sweep, held):
    with open(sweep.parent / ".code" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert "a submit or a local sweep is using them" in cli("clean", sweep).out
    assert left(sweep) == {"8_1", OLD, NEW}
    (record,) = (sweep / "slurm").glob("*.json")
    record.write_text("{}")
    assert "is damaged, and it is not known which" in cli("clean", sweep).out
    assert left(sweep) == {"8_1", OLD, NEW}


def test_a_folder_is_found_by_any_of_its_names(cli, sweep, held, monkeypatch):
    monkeypatch.chdir(sweep / "one")
    cli("clean", "..")
    assert left(sweep) == {"8_1", NEW}
