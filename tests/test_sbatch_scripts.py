"""The scripts in sbatch/ without a Slurm: environments, arguments, and what the preemptible one does when it is stopped.

tests/slurm/test_scripts_on_slurm.py submits them.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPTS = sorted(Path(__file__).parents[1].glob("sbatch/*.sbatch"))
PREEMPTIBLE = next(path for path in SCRIPTS if path.stem == "train-preemptible")


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def start(tmp_path: Path):
    """Start a script in an experiment's folder, with nothing installed but what the test puts into `tmp_path/bin`."""
    folder = tmp_path / "experiments" / "idea"
    folder.mkdir(parents=True)
    (tmp_path / "bin").mkdir()

    def call(script: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        path = f"{tmp_path}/bin:/usr/bin:/bin"
        return subprocess.Popen(
            ["bash", str(script), *arguments], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={"PATH": path, "HOME": str(tmp_path), "SLURM_JOB_ID": "42", **environment},
        )  # fmt: skip

    return call


def test_all_scripts_are_here() -> None:
    assert {path.stem for path in SCRIPTS} == {"train", "train-2gpu", "train-debug", "train-preemptible"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_no_site_and_no_path_stand_in_a_script(script: Path) -> None:
    options = re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", script.read_text(), re.MULTILINE)
    assert dict(options)["output"] == "slurm-%j.out"
    assert not {"partition", "account", "constraint", "qos", "chdir", "nodelist"} & dict(options).keys()
    code = "".join(line for line in script.read_text().splitlines(True)[1:] if not line.startswith("#"))
    assert not re.search(r"(?<![\w}])/(?!dev/null|bin/activate)\w", code)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ("", "stitching is not found on .*; set STITCHING_ENV"),
        ("missing", "STITCHING_ENV=missing is no folder of a virtual environment, and there is no conda on "),
        ("empty", "stitching is not found on .* in empty; set STITCHING_ENV"),
        ("broken", "activating the environment broken failed"),
    ],
)
def test_a_missing_environment_is_one_clear_line(script: Path, environment: str, words: str, start, tmp_path) -> None:
    folder = tmp_path / "experiments" / "idea"
    program(folder / "empty" / "bin" / "activate", "true")
    program(folder / "broken" / "bin" / "activate", "return 3")
    process = start(script, "-c", "config.yml", STITCHING_ENV=environment)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 2
    assert out == ""
    assert len(err.splitlines()) == 1
    assert re.match(f"error: {words}", err), err


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("kind", ["venv", "conda"])
def test_arguments_reach_the_training_in_its_environment(script: Path, kind: str, start, tmp_path) -> None:
    there = tmp_path / "my env"
    for name in ("stitching", "torchrun"):
        program(there / "bin" / name, 'echo "$0|$PWD|$OMP_NUM_THREADS"; printf "<%s>" "$@"')
    enter = f'PATH="{there}/bin:$PATH"'
    if kind == "venv":
        (there / "bin" / "activate").write_text(f"{enter}\n")
    else:
        program(
            tmp_path / "bin" / "conda",
            f"""cat <<'END'\nconda() {{ [[ "$1 $2" == "activate mine" ]] && {enter}; }}\nEND""",
        )
    name = str(there) if kind == "venv" else "mine"
    process = start(script, "-c", "config.yml", "--set", "a=b c", STITCHING_ENV=name, SLURM_CPUS_PER_TASK="3")
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    where, *given = out.splitlines()[-2:]
    name = "torchrun" if script.stem == "train-2gpu" else "stitching"
    assert where == f"{there}/bin/{name}|{tmp_path}/experiments/idea|3"
    assert given[0].endswith("<train><-c><config.yml><--set><a=b c>")
    if kind == "conda":
        process = start(script, STITCHING_ENV="yours")
        _, err = process.communicate(timeout=20)
        assert process.returncode == 2
        assert err.startswith("error: conda cannot activate STITCHING_ENV=yours")


# It ends at the last of `count` signals, each of which it writes down.
LISTENING = """\
#!{python} -IS
import signal, sys
heeded = []
def heed(number, _):
    heeded.append(number)
    with open("heeded", "a") as file:
        print(number, file=file)
    if len(heeded) == {count}:
        sys.exit({code})
for number in (signal.SIGUSR2, signal.SIGTERM):
    signal.signal(number, heed)
open("heeded", "w").close()
while True:
    signal.pause()
"""
# What is blocked waits, ignored or not, and so its arrival can be waited for.
STARTING = """\
#!{python} -IS
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
open("heeded", "w").close()
signal.sigwait([signal.SIGUSR2])
with open("heeded", "a") as file:
    print(signal.SIGUSR2, file=file)
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
os.kill(os.getpid(), signal.SIGUSR2)
"""


def wait(event: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not event():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def stopped(start, tmp_path):
    """Run the preemptible script with a training that answers signals with an exit code; returns code, output, requeues."""

    def call(answer: int, *signals: int, training: str = LISTENING) -> tuple[int, str, str]:
        listening = program(tmp_path / "bin" / "stitching", "")
        listening.write_text(training.format(python=sys.executable, code=answer, count=len(signals)))
        program(tmp_path / "bin" / "scontrol", f'echo "$*" >> {tmp_path}/requeues')
        process = start(PREEMPTIBLE, "-c", "config.yml")
        heeded = tmp_path / "experiments" / "idea" / "heeded"
        wait(heeded.exists)
        for count, number in enumerate(signals, 1):
            os.kill(process.pid, number)
            wait(lambda count=count: len(heeded.read_text().splitlines()) == count)
        out, err = process.communicate(timeout=20)
        requeues = tmp_path / "requeues"
        return process.returncode, out + err, requeues.read_text() if requeues.exists() else ""

    return call


def test_stopped_by_the_scheduler_it_goes_back_to_the_queue(stopped) -> None:
    code, words, requeues = stopped(130, signal.SIGUSR2)
    assert (code, requeues) == (0, "requeue 42\n")
    assert "back to the queue" in words


@pytest.mark.parametrize(
    ("answer", "signals", "expected"),
    [
        (1, [signal.SIGUSR2], 1),  # failed, or stopped without a single step
        (0, [signal.SIGUSR2], 0),  # it had just come to its end
        (130, [signal.SIGTERM], 130),  # scancel
        (130, [signal.SIGUSR2, signal.SIGTERM], 130),
        (130, [signal.SIGTERM, signal.SIGUSR2], 130),
    ],
)
def test_it_does_not_go_back_when_that_would_be_wrong(stopped, answer: int, signals: list[int], expected: int) -> None:
    code, _, requeues = stopped(answer, *signals)
    assert (code, requeues) == (expected, "")


def test_a_signal_while_the_training_starts_does_not_kill_it(stopped) -> None:
    code, words, requeues = stopped(130, signal.SIGUSR2, training=STARTING)
    assert (code, words, requeues) == (0, "", "")


def test_back_from_the_queue_it_resumes(start, tmp_path) -> None:
    program(tmp_path / "bin" / "stitching", 'printf "<%s>" "$@"')
    out, _ = start(PREEMPTIBLE, "-c", "a b.yml", "--overwrite", SLURM_RESTART_COUNT="0").communicate(timeout=20)
    assert out == "<train><-c><a b.yml><--overwrite>"
    out, _ = start(PREEMPTIBLE, "-c", "a b.yml", "--overwrite", SLURM_RESTART_COUNT="2").communicate(timeout=20)
    assert out == "<train><--resume><-c><a b.yml>"
