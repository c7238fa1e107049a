"""The cluster called `local`: tasks in processes on this machine, a bounded number at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from stitching.config.errors import UserError
from stitching.training.files import RunFolder, write_yaml
from stitching.training.trainer import Interrupted

__all__ = ["run_locally"]


def run_locally(tasks: list[list[Path]], *, jobs: int, told: Callable[[int, int, str], None]) -> dict[str, str]:
    """Run every task in a process of its own, so that none can take its neighbours along.

    Ctrl-C is passed on: every process saves a checkpoint of its runs and ends.

    Returns:
        The runs that failed, by name, each with its reason.

    Raises:
        Interrupted: Ctrl-C came, and everything is saved.
    """
    pool = _Pool(len(tasks), told)
    with ThreadPoolExecutor(jobs) as threads:
        waiting: set[Future[None]] = {threads.submit(pool.run, number, task) for number, task in enumerate(tasks)}
        try:
            while waiting:
                finished, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()
        except KeyboardInterrupt:
            pool.stop()
            wait(waiting)
            raise Interrupted from None
    return pool.failures


class _Pool:
    def __init__(self, tasks: int, told: Callable[[int, int, str], None]) -> None:
        self.progress = [(0, 0)] * tasks
        self.told = told
        self.failures: dict[str, str] = {}
        self.processes: set[subprocess.Popen[str]] = set()
        self.stopping = False
        self.lock = threading.Lock()

    def run(self, number: int, folders: list[Path]) -> None:
        """Run one task to its end and note which of its runs failed."""
        command = [sys.executable, "-m", "stitching.sweeps.tasks", *map(str, folders)]
        with self.lock:
            if self.stopping:
                return
            # A session of its own: Ctrl-C in the terminal comes to us alone, and we decide what to pass on.
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
            )
            self.processes.add(process)
        errors: list[str] = []
        reader = threading.Thread(target=lambda: errors.extend(process.stderr or []), daemon=True)
        reader.start()
        refused = self._listen(number, process)
        code = process.wait()
        reader.join()
        self.processes.discard(process)
        if code == 0 or self.stopping:
            return
        for folder in folders:
            self._note_failure(folder, code, refused, errors)

    def _listen(self, number: int, process: subprocess.Popen[str]) -> str | None:
        """Pass a task's progress on; returns the message with which it refused to start, if it did."""
        refused = None
        for line in process.stdout or []:
            try:
                event: dict[str, Any] = json.loads(line)
            except json.JSONDecodeError:
                continue  # something that a library printed
            if "error" in event:
                refused = str(event["error"])
                continue
            with self.lock:
                self.progress[number] = (event["done"], event["total"])
                done, total = map(sum, zip(*self.progress, strict=True))
                self.told(done, total, event["words"])
        return refused

    def _note_failure(self, folder: Path, code: int, refused: str | None, errors: list[str]) -> None:
        """Put on record why a run is not done: in its metadata and in our answer."""
        run = RunFolder(folder)
        metadata = run.read_metadata() or {}
        if metadata.get("state") == "done":
            return
        reason = metadata.get("failure") or refused
        if not reason and code < 0:
            reason = f"killed by {signal.Signals(-code).name}"
        if not reason:
            reason = errors[-1].strip() if errors else f"the process ended with code {code}"
        if metadata.get("state") != "failed":
            try:
                write_yaml(run.metadata, metadata | {"state": "failed", "failure": reason})
                with open(run.log, "a", encoding="utf-8") as log:
                    log.write("".join(errors))
            except (UserError, OSError):
                pass  # the disk may be what failed; the answer below still says why
        self.failures[folder.name] = reason

    def stop(self) -> None:
        """Ask every process to save and end."""
        with self.lock:
            self.stopping = True
            for process in self.processes:
                os.kill(process.pid, signal.SIGINT)
