"""Processes forked from one that has torch, timm and the like imported, instead of fresh interpreters.

A fresh interpreter spends five seconds of CPU on these imports; a forked one imports only the package, in a third of a
second. Otherwise it is like a process of its own: pid, session, signals, environment, working directory, `sys.path`,
standard streams, exit code. What a test says about the start of an interpreter itself (the console script, imports,
torchrun) takes a real one.

The server starts with the first process that a test asks for, serves all workers of the test session, and ends with it,
together with every process that is still there.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

SESSION = "STITCHING_TESTS_FORK_SERVER"  # the folder of the session's server, and the process with which it ends
# Whatever takes long and holds nothing of the package, in the order in which libraries want it.
LIBRARIES = (
    "torch", "torch._dynamo", "torch.utils.data", "torch.utils.flop_counter", "torch.distributed", "torchvision",
    "torchvision.transforms.v2", "timm", "pandas", "pyarrow.parquet", "sklearn.datasets", "scipy.optimize", "pydantic",
    "ruamel.yaml", "yaml", "typer", "rich.table", "rich.progress", "psutil", "filelock", "submitit",
)  # fmt: skip
_PYTHON = sys.executable  # which some tests replace


def announce() -> None:
    """Let this process and those that it starts share one server, which ends when this process does."""
    os.environ[SESSION] = f"{os.getpid()}:{tempfile.mkdtemp(prefix='stitching-forks-')}"


def forget() -> None:
    """Remove the folder of a server that was perhaps never started."""
    shutil.rmtree(os.environ.pop(SESSION).partition(":")[2], ignore_errors=True)


def run(
    command: Sequence[object], *, timeout: float = 120, check: bool = False, **options: Any
) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run` with captured text, in a forked process; `command` begins with `sys.executable`."""
    process = popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    completed = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    if check:
        completed.check_returncode()
    return completed


def popen(command: Sequence[object], **options: Any) -> ForkedProcess | subprocess.Popen[Any]:
    """As `subprocess.Popen`: forked if `command` begins with this interpreter, else started."""
    words = [str(word) for word in command]
    if words[0] != _PYTHON:
        return subprocess.Popen(words, **options)
    return ForkedProcess(words, **options)


def fork_tasks(setattr: Callable[[object, str, object], None] = setattr) -> None:
    """Let the tasks of pools on this machine be forked."""
    from stitching.launch.schedulers import worker_pool

    setattr(worker_pool, "subprocess", SimpleNamespace(Popen=popen, PIPE=subprocess.PIPE))


def interpreter(folder: Path) -> str:
    """A program in `folder` that does what this interpreter does, in a forked process; for what others start.

    It is a process beside the forked one. Killed, it takes that one along a moment later.
    """
    _connection().close()  # the server runs, and this session is its own
    program = folder / "python"
    code = Path(__file__).with_name("fork_client.py").read_text()
    program.write_text(f"#!{_PYTHON} -IS\n{code}\n\nmain(sys.argv[1:])\n")
    program.chmod(0o755)
    return str(program)


def stitching(*arguments: object) -> list[str]:
    """The command `stitching`, for `run` and `popen`: its tasks on this machine are forked, too.

    What it has Slurm start is this test's `sys.executable`.
    """
    code = f"""import sys
sys.path.append({str(Path(__file__).parent)!r})
import forked, stitching.cli
forked.fork_tasks()
sys.argv[0], sys.executable = "stitching", {sys.executable!r}
stitching.cli.main()"""
    return [_PYTHON, "-c", code, *map(str, arguments)]


def wait_for_all(processes: Sequence[ForkedProcess], *, timeout: float) -> int:
    """Wait for processes that work together: 0 if all succeed, else 1, and the others are terminated."""
    deadline = time.monotonic() + timeout
    running = list(processes)
    failed = False
    while running:
        if not any(process.returncode is not None for process in running):  # as terminating one finds out, too
            ends = [process.connection for process in running]
            if not select.select(ends, [], [], max(0, deadline - time.monotonic()))[0]:
                raise subprocess.TimeoutExpired(running[0].args, timeout)
        ended = [process for process in running if process.poll() is not None]
        running = [process for process in running if process not in ended]
        codes = [process.wait() for process in ended]
        if any(codes) and not failed:
            failed = True
            for process in running:
                process.terminate()
    return int(failed)


class ForkedProcess:
    """What tests and the package use of `subprocess.Popen`, for a process that the server forks.

    It always has a session of its own, and its streams are text.
    """

    def __init__(
        self,
        command: list[str],
        *,
        cwd: Path | str | None = None,
        env: Mapping[str, str] | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        text: bool = True,
        errors: str = "strict",
        start_new_session: bool = True,
    ) -> None:
        assert text
        assert start_new_session
        environment = dict(os.environ if env is None else env)
        self.args = command
        self.returncode: int | None = None
        self.stdout, child_stdout = _stream(stdout, errors)
        self.stderr, child_stderr = _stream(stderr, errors)
        request = {"command": command[1:], "cwd": os.path.abspath(cwd or "."), "env": environment}
        nowhere = os.open(os.devnull, os.O_RDONLY)
        self.connection = _connection()
        self._lock = threading.Lock()
        fds = [nowhere, 1 if child_stdout is None else child_stdout, 2 if child_stderr is None else child_stderr]
        socket.send_fds(self.connection, [b"."], fds)
        self.connection.sendall(json.dumps(request).encode() + b"\n")
        for fd in (nowhere, child_stdout, child_stderr):
            if fd is not None:
                os.close(fd)
        self.pid: int = self._read()["pid"]

    def _read(self) -> dict[str, Any]:
        line = b""
        while not line.endswith(b"\n"):
            if not (part := self.connection.recv(1)):
                raise RuntimeError("the server of forked processes is gone")
            line += part
        return json.loads(line)

    def poll(self) -> int | None:
        """The exit code, negative for a signal, if the process has ended."""
        return self._ended_within(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._ended_within(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def _ended_within(self, timeout: float | None) -> int | None:
        with self._lock:
            if self.returncode is None and select.select([self.connection], [], [], timeout)[0]:
                self.returncode = self._read()["code"]
                self.connection.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Both streams to their ends, and the end of the process."""
        read: dict[str, str] = {}
        readers = [
            threading.Thread(target=lambda name=name, stream=stream: read.update({name: stream.read()}), daemon=True)
            for name, stream in (("out", self.stdout), ("err", self.stderr))
            if stream is not None and not stream.closed
        ]
        for reader in readers:
            reader.start()
        deadline = None if timeout is None else time.monotonic() + timeout
        self.wait(timeout)
        for reader in readers:
            reader.join(None if deadline is None else max(0.1, deadline - time.monotonic()))
            if reader.is_alive():  # a child of the process holds the stream
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        for stream in (self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        return read.get("out", ""), read.get("err", "")


def _stream(kind: int | None, errors: str) -> tuple[IO[str] | None, int | None]:
    """This side of a standard stream, and the descriptor of the other (None: our own)."""
    if kind is None:
        return None, None
    if kind == subprocess.DEVNULL:
        return None, os.open(os.devnull, os.O_WRONLY)
    if kind != subprocess.PIPE:
        return None, os.dup(kind)
    ours, others = os.pipe()
    return open(ours, encoding="utf-8", errors=errors), others


def _connection() -> socket.socket:
    """A connection to the session's server, which is started if it does not run."""
    if SESSION not in os.environ:
        announce()
    process, _, folder = os.environ[SESSION].partition(":")
    path = Path(folder, "socket")
    with open(Path(folder, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            _start_server(path, process)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(path))
    return connection


def _start_server(path: Path, ends_with: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [_PYTHON, "-P", str(Path(__file__).with_name("fork_server.py")), str(path), ends_with, *LIBRARIES],
        env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert server.stdout is not None
    with server.stdout:
        if server.stdout.readline() != b"ready\n":
            raise RuntimeError(f"the server of forked processes did not start: exit code {server.wait()}")
