"""The processes that load images: whose signals they obey, and that they end with their parent."""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from multiprocessing.synchronize import Event
from pathlib import Path

import forked
from small_batches import pets, same

from stitching.data import loading


def test_workers_leave_signals_to_the_parent(folder: Path) -> None:
    expected = list(pets(folder).epoch(0))
    others = multiprocessing.active_children()
    batches = pets(folder, workers=2)
    epoch = batches.epoch(0)
    seen = [next(epoch)]
    workers = [child for child in multiprocessing.active_children() if child not in others]
    assert len(workers) == 2
    for name in ("INT", "USR2", "TERM"):  # from another process, as Slurm's are
        subprocess.run(["kill", f"-{name}", *(str(worker.pid) for worker in workers)], check=True)
    seen += list(epoch)
    assert same(seen, expected)
    assert len(list(batches.epoch(1))) == len(expected)  # which the same workers load
    assert all(worker.is_alive() for worker in workers)


def test_workers_obey_their_parent_only_from_the_very_start() -> None:
    go, ready, question, answer = (multiprocessing.Event() for _ in range(4))
    worker = multiprocessing.Process(target=_stuck_worker, args=(go, ready, question, answer))
    with loading._delayed_signals():
        worker.start()
    for name in ("INT", "USR2", "TERM"):
        subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)
    go.set()
    assert ready.wait(20)
    subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
    question.set()
    assert answer.wait(20)
    worker.terminate()
    worker.join(timeout=20)
    assert worker.exitcode == 0


def _stuck_worker(go: Event, ready: Event, question: Event, answer: Event) -> None:
    go.wait()
    loading._start_worker(0)
    ready.set()
    question.wait()
    answer.set()
    signal.pause()


def test_workers_end_with_a_killed_parent(folder: Path) -> None:
    script = f"""
import multiprocessing, os, signal
from stitching.data.loading import Batches
from stitching.config.preprocessing import Preprocessing
batches = Batches("image_folder", {str(folder)!r}, preprocessing=Preprocessing(image_size=16), batch_size=4, seed=0,
                  split="train", workers=2)
next(batches.epoch(0))
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert _ends_of_children(script, folder, 2)


def test_a_worker_that_begins_after_its_parent_was_killed_ends_too(tmp_path: Path) -> None:
    script = """
import multiprocessing, os, signal, time
from stitching.data import loading
def begin_late(parent=os.getpid()):
    while os.getppid() == parent:
        time.sleep(0.01)
    loading._start_worker(0)
    signal.pause()
worker = multiprocessing.get_context("fork").Process(target=begin_late)
worker.start()
print(worker.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert _ends_of_children(script, tmp_path, 1)


def _ends_of_children(script: str, folder: Path, count: int) -> bool:
    """Whether the children whose pids the script prints are gone soon after it was killed."""
    output = folder / "output.txt"  # not a pipe, which they would hold open
    with output.open("w") as out:
        forked.popen([sys.executable, "-c", script], stdout=out.fileno()).wait(timeout=60)
    ends = []
    pids = output.read_text().split()
    assert len(pids) == count
    for pid in pids:
        with suppress(ProcessLookupError):  # it is gone already
            ends.append(os.pidfd_open(int(pid)))
    return all(select.select([end], [], [], 30)[0] for end in ends)
