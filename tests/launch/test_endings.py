"""Why a task's process ended that could not say so: the cause that is on record, from real processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from small_sweeps import ROW, gaps, in_this_process, plan_of, write_sweep

import stitching.launch.endings as endings
from stitching.launch.endings import Ending, count_oom_kills, ending_of_log, ending_of_process, read_end
from stitching.launch.schedulers.slurm_accounting import exit_code
from stitching.launch.schedulers.worker_pool import run_locally
from stitching.launch.status import sweep_status
from stitching.runs.folder import RunFolder

PYTHON = sys.executable


def ending_of(command: list[str], oom_kills: int = 0) -> Ending:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    return ending_of_process(done.returncode, done.stderr, oom_kills=oom_kills)


@pytest.mark.parametrize(
    ("command", "cause", "reason"),
    [
        (["bash", "-c", "kill -9 $$"], "killed", "killed by SIGKILL"),
        (["bash", "-c", "bash -c 'kill -9 $$'; exit $?"], "killed", "killed by SIGKILL"),  # as a shell tells it
        (["bash", "-c", "kill -TERM $$"], "killed", "killed by SIGTERM"),
        (["bash", "-c", "kill -40 $$"], "killed", "killed by signal 40"),
        (["bash", "-c", "exit 3"], "error", "its process ended with exit code 3"),
        (["bash", "-c", "echo no such module >&2; exit 3"], "error", "no such module"),
        ([PYTHON, "-c", "import os; os.abort()"], "killed", "killed by SIGABRT"),
        ([PYTHON, "-c", "raise ValueError('no')"], "error", "ValueError: no"),
        ([PYTHON, "-c", "raise MemoryError"], "out of memory", "MemoryError"),
        (["bash", "-c", f"ulimit -v 200000; exec {PYTHON} -c 'bytearray(10**9)'"], "out of memory", "MemoryError"),
        (
            ["bash", "-c", "echo \"terminate called after throwing an instance of 'std::bad_alloc'\" >&2; kill -ABRT $$"],
            "out of memory", "killed by SIGABRT: terminate called after throwing an instance of 'std::bad_alloc'",
        ),
        (["bash", "-c", "echo 'slurmstepd: error: Detected 1 oom_kill event in StepId=7.0' >&2; kill -9 $$"], "out of memory", "killed by SIGKILL: memory ran out"),
        (["bash", "-c", "echo 'ImportError: libx.so: cannot allocate memory in static TLS block' >&2; exit 1"], "error", "ImportError: libx.so: cannot allocate memory in static TLS block"),
    ],
    ids=lambda value: str(value)[-50:],
)  # fmt: skip
def test_causes_and_reasons(command, cause, reason):
    assert ending_of(command) == Ending(cause, reason)


def test_a_kill_is_for_memory_where_the_kernel_counted_one(tmp_path, monkeypatch):
    (tmp_path / "vmstat").write_text("nr_free_pages 7\noom_kill 3\noom_kill_x 9\n")
    monkeypatch.setattr(endings, "_VMSTAT", tmp_path / "vmstat")
    assert count_oom_kills() == 3
    assert ending_of(["bash", "-c", "kill -9 $$"], oom_kills=1) == Ending(
        "out of memory", "killed by SIGKILL: memory ran out"
    )
    assert (
        ending_of(["bash", "-c", "kill -TERM $$"], oom_kills=1).cause == "killed"
    )  # that is not how the kernel does it
    monkeypatch.setattr(endings, "_VMSTAT", tmp_path / "nowhere")
    assert count_oom_kills() == 0


def test_a_traceback_with_more_behind_it_gives_its_exception():
    output = "Traceback (most recent call last):\n  File 'x'\nOSError: no space\nsrun: error: vm: task 0: Exited with exit code 1\n"
    assert ending_of_process(1, output) == Ending("error", "OSError: no space")
    assert ending_of_process(1, output + "a warning: semaphores leaked\n").reason == "OSError: no space"
    assert ending_of_process(1, "srun: error: vm: task 0: Exited\n").reason == "srun: error: vm: task 0: Exited"


def test_memory_counts_only_where_it_was_the_end_of_it():
    early = "note: CUDA out of memory, tried alone\n" + "epoch 1\n" * 30
    assert ending_of_process(1, early + "ValueError: no\n") == Ending("error", "ValueError: no")


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ("slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME LIMIT ***", "time limit"),
        ("slurmstepd: error: *** STEP 7.0 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO PREEMPTION ***", "preempted"),
        ("slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO NODE FAILURE, SEE ... ***", "node failure"),
        ("srun: error: n1: task 0: Out Of Memory", "out of memory"),
        ("epoch 3, loss 1.2", None),
        ("", None),
    ],
)  # fmt: skip
def test_logs_of_jobs_that_no_accounting_knows(tmp_path, words, cause):
    (tmp_path / "log").write_text("DUE TO PREEMPTION\n" + "epoch\n" * 1000 + words + "\n")
    ending = ending_of_log(read_end(tmp_path / "log"))
    assert (ending.cause if ending else None) == cause
    assert read_end(tmp_path / "none") == ""


@pytest.mark.parametrize(
    ("script", "steps", "code"),
    [
        ("1:0", "1:0", 1), ("3:0", "0:0", 3), ("72:0", "0:0", 72), ("11:0", "139:0", 139),
        ("9:0", "0:9", -9), ("0:9", "0:0", -9), ("9:0", "0:0", -9), ("0:0", "0:125", -125), ("", "", 0),
    ],
)  # fmt: skip
def test_exit_codes_as_accounting_has_them(script, steps, code):
    """As sacct gave them for scripts and steps that exited, or that a signal ended."""
    assert exit_code(script, steps) == code


@pytest.fixture
def limited_python(tmp_path, monkeypatch) -> Path:
    """Processes of tasks get less memory than torch needs."""
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nulimit -v 1000000\nexec {PYTHON} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    return program


def test_a_memory_limit_is_on_record_and_retry_finds_it(cli, tmp_path, limited_python, monkeypatch):
    sweep = write_sweep(tmp_path / "small.yml", **ROW | {"gaps": gaps([1, 1]), "stitchers": ["affine"]})
    outcome = cli("submit", sweep, "--cluster", "local")
    assert outcome.code == 1
    assert "failed to map segment" in outcome.out
    plan = plan_of(sweep)
    runs = sweep_status(plan.folder, [plan.expected(run) for run in plan.runs])
    assert {(run.state, run.cause) for run in runs} == {("failed", "out of memory")}
    assert all(plan.folder_of(run).read_metadata()["cause"] == "out of memory" for run in plan.runs)
    assert "ImportError" in plan.folder_of(plan.runs[0]).log.read_text()
    assert "no failed runs to retry" in cli("retry", sweep, "--failed").out
    monkeypatch.setattr("stitching.launch.schedulers.worker_pool.run_locally", in_this_process)
    assert "2 runs done, 0 done before" in cli("retry", sweep, "--out-of-memory").out


def test_a_process_that_cannot_be_started_is_on_record(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere"))
    folder = RunFolder(tmp_path / "run")
    failures = run_locally([[folder]], jobs=1, on_progress=lambda *_: None)
    assert "its process cannot be started" in failures["run"]
    assert folder.read_metadata()["cause"] == "error"
