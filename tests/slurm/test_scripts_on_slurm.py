"""The scripts in sbatch/ on a real Slurm: submitted from an experiment's folder, trained to a result, put back, resumed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import forked
import pandas as pd
import pytest
import yaml

from stitching.runs.step_log import TIMING_COLUMNS, read_result

pytestmark = pytest.mark.usefixtures("slurm")

SCRIPTS = Path(__file__).parents[2] / "sbatch"


class Experiments:
    """A project with the scripts, a folder for each experiment, and an environment that must be activated."""

    def __init__(self, root: Path, config: str) -> None:
        self.root, self.config = root, config
        shutil.copytree(SCRIPTS, root / "sbatch")
        programs = root / "venv" / "bin"
        programs.mkdir(parents=True)
        for name, module in (("stitching", "stitching"), ("torchrun", "torch.distributed.run")):
            (programs / name).write_text(f'#!/bin/bash\nexec "{sys.executable}" -m {module} "$@"\n')
            (programs / name).chmod(0o755)
        (programs / "activate").write_text(f'PATH="{programs}:$PATH"\n')

    def folder(self, name: str, **train_config: object) -> Path:
        job = yaml.safe_load(self.config)
        job["train_config"] |= train_config
        path = self.root / "experiments" / name
        path.mkdir(parents=True)
        (path / "config.yml").write_text(yaml.safe_dump(job))
        return path

    def sbatch(
        self, folder: Path, script: str, *arguments: str, options: tuple[str, ...] = (), env: str = "venv"
    ) -> str:
        """Submit from the folder, as a user would; returns the job's id."""
        path = os.pathsep.join(["/usr/bin", "/bin", "/usr/sbin"])  # nothing of what these tests run in
        command = ["sbatch", "--parsable", *options, f"../../sbatch/{script}.sbatch", "-c", "config.yml", *arguments]
        environment = {**os.environ, "PATH": path, "STITCHING_ENV": str(self.root / env), "OMP_NUM_THREADS": "1"}
        environment["PYTHON_EXEC"] = sys.executable  # what torchrun starts
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture
def experiments(tmp_path: Path, small_job: str) -> Experiments:
    return Experiments(tmp_path, small_job)


def shown(job: str) -> dict[str, str]:
    """What Slurm says of a job: JobState, Restarts, ExitCode, ..."""
    words = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=True).stdout.split()
    return dict(word.split("=", 1) for word in words if "=" in word)


def wait(what: Callable[[], bool], folder: Path, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, log_of(folder)
        time.sleep(0.2)


def wait_for(job: str, folder: Path, seconds: float = 120) -> dict[str, str]:
    over = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "OUT_OF_MEMORY", "NODE_FAIL")
    wait(lambda: shown(job)["JobState"] in over, folder, seconds)
    return shown(job)


def log_of(folder: Path) -> str:
    return "\n".join(path.read_text() for path in [*folder.glob("slurm-*.out"), *folder.glob("log.txt")])


def frame_of(folder: Path) -> pd.DataFrame:
    frame = read_result(folder / "result.pkl")
    return frame.drop(columns=[name for name in TIMING_COLUMNS if name in frame])


def assert_undisturbed(folder: Path, experiments: Experiments, **train_config: object) -> None:
    """It is what the same job leaves here, with as many threads: their number changes the last bits."""
    alone = experiments.folder("undisturbed", **train_config)
    command = [sys.executable, "-m", "stitching", "train", "-c", str(alone / "config.yml")]
    forked.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    pd.testing.assert_frame_equal(frame_of(folder), frame_of(alone), check_exact=True)


def test_every_script_trains_from_an_experiments_folder(forked_on_slurm, experiments) -> None:
    partitions = {"train": "gpu", "train-preemptible": "preempt", "train-debug": "debug", "train-2gpu": "gpu"}
    jobs = {}
    for script, partition in partitions.items():
        folder = experiments.folder(script)
        jobs[folder] = experiments.sbatch(folder, script, "--seed", "7", options=("-p", partition))
    for folder, job in jobs.items():
        known = wait_for(job, folder)
        assert known["JobState"] == "COMPLETED", log_of(folder)
        assert known["Partition"] == partitions[folder.name]
        processes = 2 if folder.name == "train-2gpu" else 1
        assert f"gres/gpu={processes}" in known["TRES"] or f"gres:gpu:{processes}" in known.get("TresPerNode", ""), (
            known
        )
        assert len(frame_of(folder)) > 0
        metadata = yaml.safe_load((folder / "metadata.yml").read_text())
        assert (metadata["seed"], metadata.get("processes", 1)) == (7, processes)
        assert (folder / f"slurm-{job}.out").exists()


def test_a_job_that_cannot_begin_says_why_and_ends(forked_on_slurm, experiments) -> None:
    (experiments.root / "bare" / "bin").mkdir(parents=True)
    (experiments.root / "bare" / "bin" / "activate").touch()
    jobs = {}
    for name, env, arguments, words in (
        (
            "nowhere",
            "nowhere",
            (),
            f"error: STITCHING_ENV={experiments.root}/nowhere is no folder of a virtual environment",
        ),
        ("bare", "bare", (), "error: stitching is not found on "),
        ("mistake", "venv", ("--set", "train_config.epohcs=3"), "did you mean 'epochs'"),
    ):
        folder = experiments.folder(name)
        jobs[folder] = words, experiments.sbatch(folder, "train-preemptible", *arguments, env=env)
    for folder, (words, job) in jobs.items():
        known = wait_for(job, folder)
        assert known["JobState"] == "FAILED"
        assert known["ExitCode"] == "2:0"
        assert known["Restarts"] == "0"
        assert log_of(folder).count("error: ") == 1
        assert words in log_of(folder)


@pytest.mark.slow
def test_a_preempted_job_comes_back_and_ends_as_if_nothing_had_been(experiments) -> None:
    folder = experiments.folder("idea", epochs=60)
    job = experiments.sbatch(folder, "train-preemptible", options=("-p", "preempt"))
    wait((folder / "checkpoint.pt").exists, folder)
    subprocess.run(["scancel", "--batch", "--signal=USR2", job], check=True)
    wait(lambda: "back to the queue" in log_of(folder), folder)
    known = wait_for(job, folder)
    assert known["JobState"] == "COMPLETED", log_of(folder)
    assert known["Restarts"] == "1"
    assert log_of(folder).count("resumed at epoch") == 1
    assert_undisturbed(folder, experiments, epochs=60)


def test_scancel_ends_a_preemptible_job_for_good(forked_on_slurm, experiments) -> None:
    folder = experiments.folder("idea", epochs=1000)
    job = experiments.sbatch(folder, "train-preemptible")
    wait((folder / "checkpoint.pt").exists, folder)
    subprocess.run(["scancel", job], check=True)
    known = wait_for(job, folder)
    assert (known["JobState"], known["Restarts"]) == ("CANCELLED", "0")
    wait(lambda: "stopped at epoch" in log_of(folder), folder, 20)


@pytest.mark.slow
def test_the_time_limit_costs_a_preemptible_job_nothing(experiments) -> None:
    folder = experiments.folder("idea", epochs=500)
    job = experiments.sbatch(folder, "train-preemptible", options=("--time=1", "--signal=B:USR2@40"))
    known = wait_for(job, folder, 600)
    assert known["JobState"] == "COMPLETED", log_of(folder)
    assert int(known["Restarts"]) >= 1
    assert_undisturbed(folder, experiments, epochs=500)


@pytest.mark.slow
def test_put_back_by_the_administrator_it_goes_on(experiments) -> None:
    folder = experiments.folder("idea", epochs=400)
    job = experiments.sbatch(folder, "train-preemptible", "--overwrite")
    wait((folder / "checkpoint.pt").exists, folder)
    subprocess.run(["scontrol", "requeue", job], check=True)
    wait(lambda: "resumed at epoch" in log_of(folder), folder)
    assert wait_for(job, folder)["JobState"] == "COMPLETED", log_of(folder)
    assert_undisturbed(folder, experiments, epochs=400)


@pytest.mark.slow
def test_before_its_time_is_over_an_ordinary_job_saves(experiments) -> None:
    folder = experiments.folder("idea", epochs=100_000)
    # Slurm sends the signal up to a minute early: 30 to 90 s after the start, when the job trains.
    job = experiments.sbatch(folder, "train", options=("--time=2", "--signal=B:USR2@30"))
    known = wait_for(job, folder, 240)
    assert (known["JobState"], known["ExitCode"]) == ("FAILED", "130:0")
    assert (folder / "checkpoint.pt").exists()
    assert "stitching train -c config.yml --resume" in log_of(folder)
