"""The cluster called `local`: tasks in processes on this machine, a bounded number at once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stitching.config.errors import UserError
from stitching.launch.endings import Ending, count_oom_kills, ending_of_process
from stitching.launch.snapshots import current_snapshot, snapshot_environment
from stitching.launch.tasks import note_failure
from stitching.processes import cpus_of_process
from stitching.progress import ProgressCallback
from stitching.runs.causes import KILLED
from stitching.runs.folder import RunFolder
from stitching.runs.stopping import Interrupted
from stitching.training.failures import cause_of

__all__ = ["run_locally"]


def run_locally(tasks: list[list[RunFolder]], *, jobs: int, on_progress: ProgressCallback) -> dict[str, str]:
    """Run every task in a process of its own, so that a crash ends no other task.

    Ctrl-C and SIGTERM are passed on: every process saves a checkpoint of its runs and ends. A second one ends them at
    once.

    Returns:
        The runs that failed, by name, each with its reason.

    Raises:
        Interrupted: Ctrl-C or SIGTERM came, and everything is saved.
    """
    if not tasks:
        return {}
    with current_snapshot(tasks[0][0].path.parent) as snapshot:
        return _run_pool(_Pool(len(tasks), jobs, on_progress, snapshot), tasks, jobs)


def _run_pool(pool: _Pool, tasks: list[list[RunFolder]], jobs: int) -> dict[str, str]:
    with _signals_as_ctrl_c(), ThreadPoolExecutor(jobs) as threads:
        waiting: set[Future[None]] = {threads.submit(pool.run, number, task) for number, task in enumerate(tasks)}
        while waiting:
            try:
                finished, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
            except KeyboardInterrupt:
                pool.stop()
                continue
            for future in finished:
                future.result()
    if pool.stopping:
        raise Interrupted
    return pool.failures


@contextmanager
def _signals_as_ctrl_c() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # SIGINT too: a shell without job control starts what is in its background with SIGINT ignored.
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Pool:
    def __init__(self, tasks: int, jobs: int, on_progress: ProgressCallback, snapshot: Path) -> None:
        self.progress = [(0, 0)] * tasks
        self.on_progress = on_progress
        self.failures: dict[str, str] = {}
        self.processes: set[subprocess.Popen[str]] = set()
        self.stopping = False
        # One thread each, unless the user says otherwise. Processes that each start one for every core spend most of
        # their time waiting for one another; and a number that depended on how many there are would change the last
        # bits of a result with the size of the packs.
        self.environment = {"OMP_NUM_THREADS": "1"} | snapshot_environment(snapshot)
        share = cpus_of_process() // min(jobs, tasks)  # for the processes that load images
        self.environment["STITCHING_CPUS"] = str(max(1, share))
        self.snapshot = snapshot
        self.lock = threading.Lock()

    def run(self, number: int, folders: list[RunFolder]) -> None:
        """Run one task to its end and note which of its runs failed."""
        paths = [str(path) for path in (self.snapshot, *(folder.path for folder in folders))]
        command = [sys.executable, "-m", "stitching.launch.start", *paths]
        with self.lock:
            if self.stopping:
                return
            oom_kills = count_oom_kills()
            try:
                # A session of its own: Ctrl-C in the terminal comes to us alone, and we decide what to pass on.
                process = subprocess.Popen(
                    command,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    errors="replace",
                    env=self.environment,
                    start_new_session=True,
                )
            except OSError as error:  # no memory for it, or no process more
                for folder in folders:
                    self._note_failure(folder, Ending(cause_of(error), f"its process cannot be started: {error}"))
                return
            self.processes.add(process)
        errors: list[str] = []
        reader = threading.Thread(target=_read_errors, args=(process.stderr or [], errors), daemon=True)
        reader.start()
        failures = self._listen(number, process)
        code = process.wait()
        reader.join()
        with self.lock:
            self.processes.discard(process)
        self.failures |= failures
        if code == 0 or self.stopping:
            return
        output = "".join(errors)
        ending = ending_of_process(code, output, oom_kills=count_oom_kills() - oom_kills)
        for folder in folders:
            if folder.path.name not in failures:
                self._note_failure(folder, ending, output)

    def _listen(self, number: int, process: subprocess.Popen[str]) -> dict[str, str]:
        """Pass a task's progress on; returns the failures that it reports at its end."""
        failures: dict[str, str] = {}
        for line in process.stdout or []:
            try:
                event: Any = json.loads(line)
            except json.JSONDecodeError:
                continue  # something that a library printed
            if not isinstance(event, dict):
                continue
            if "failures" in event:
                failures = event["failures"]
            elif "words" in event:
                with self.lock:
                    self.progress[number] = (event["done"], event["total"])
                    done, total = map(sum, zip(*self.progress, strict=True))
                    self.on_progress(done, total, event["words"])
        return failures

    def _note_failure(self, folder: RunFolder, ending: Ending, output: str = "") -> None:
        """Record why a run is not done whose process ended without saying so."""
        try:
            metadata = folder.read_metadata() or {}
        except UserError as error:
            metadata = {"failure": error.problem}
        if metadata.get("state") == "done":
            return
        reason = metadata.get("failure")
        if not reason:
            if metadata.get("state") == "stopped":
                ending = Ending(KILLED, "stopped by a signal")
            reason = ending.reason
            note_failure(folder, reason, output, cause=ending.cause)
        self.failures[folder.path.name] = reason

    def stop(self) -> None:
        """Ask every process to save and end."""
        with self.lock:
            self.stopping = True
            for process in self.processes:
                process.send_signal(signal.SIGINT)


def _read_errors(lines: Iterable[str], errors: list[str]) -> None:
    """Pass a task's notes on to the user, and keep the rest of what it writes to standard error."""
    for line in lines:
        if line.startswith("note: "):
            print(line, end="", file=sys.stderr, flush=True)
        else:
            errors.append(line)
