"""One process at a time trains a run; looking disturbs nobody, and nothing but that process keeps the lock."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import forked
import pytest

from stitching.config.errors import UserError
from stitching.runs.folder import FolderBusy, RunFolder

HOLDING_WITH_A_CHILD = """
import os, sys, time
from pathlib import Path
from stitching.runs.folder import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    if os.fork() == 0:
        print(os.getpid(), flush=True)
    time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def test_a_folder_is_held_once(folder):
    assert not folder.is_busy()
    with folder.locked():
        assert folder.is_busy()
        with pytest.raises(FolderBusy, match="another process is training"), folder.locked():
            pass
        with RunFolder(folder.path, "result-2.pkl").locked() as other:
            assert other.is_busy()
    assert not folder.is_busy()
    with folder.locked():
        pass


def test_a_killed_process_holds_nothing_though_its_children_live_on(folder):
    """As the workers of a data loader do for some seconds."""
    command = [sys.executable, "-c", HOLDING_WITH_A_CHILD, str(folder.path)]
    process = forked.popen(command, stdout=subprocess.PIPE)
    assert process.stdout
    child = int(process.stdout.readline())
    try:
        assert folder.is_busy()
        process.kill()
        process.wait()
        os.kill(child, 0)  # it is alive
        assert not folder.is_busy()
        with folder.locked():
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()


def test_looking_makes_no_start_fail(folder):
    with folder.locked():
        pass
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            folder.is_busy()

    lookers = [threading.Thread(target=look) for _ in range(2)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(200):
            with folder.locked():
                assert folder.is_busy()
    finally:
        over.set()
        for looker in lookers:
            looker.join()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told(folder, monkeypatch, number):
    def flock(file, operation):
        raise OSError(number, os.strerror(number))

    with folder.locked():
        pass
    monkeypatch.setattr(fcntl, "flock", flock)
    for attempt in (folder.is_busy, folder.locked().__enter__):
        with pytest.raises(UserError, match="has no locks") as caught:
            attempt()
        assert not isinstance(caught.value, FolderBusy)
        assert "another file system" in str(caught.value)
    assert {path.name for path in folder.path.iterdir()} == {".run.lock"}
