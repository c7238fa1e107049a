"""The program from which `forked.py` forks: `python fork_server.py SOCKET PID MODULE...`.

It imports the modules, and ends when the process PID does."""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import random
import runpy
import selectors
import shutil
import signal
import socket
import sys
import threading
import types
from contextlib import suppress
from pathlib import Path

IDLE_THREADS = {"jemalloc_bg_thd"}  # of pyarrow's allocator, which knows how to go through a fork


class Server:
    """Forks on request, and tells who asked how each process ended."""

    def __init__(self, path: Path, ends_with: int) -> None:
        self.path = path
        self.search_path = list(sys.path)
        self.listener = socket.socket(socket.AF_UNIX)
        self.selector = selectors.DefaultSelector()
        self.clients: dict[int, socket.socket] = {}  # by the pid of what each asked for
        self.listener.bind(str(path))
        self.listener.listen(64)
        self.selector.register(self.listener, selectors.EVENT_READ, self.serve)
        self.selector.register(os.pidfd_open(ends_with), selectors.EVENT_READ, self.end)

    def run(self) -> None:
        while True:
            for key, _ in self.selector.select():
                key.data(key.fd)

    def serve(self, _: int) -> None:
        client, _ = self.listener.accept()
        _, fds, _, _ = socket.recv_fds(client, 1, 3)
        if not fds:  # who only looked whether we are here
            client.close()
            return
        with client.makefile() as lines:
            request = json.loads(lines.readline())
        if (pid := os.fork()) == 0:
            self.selector.close()
            self.listener.close()
            client.close()
            for other in self.clients.values():
                other.close()
            _become(request, fds, self.search_path)
        else:
            self.clients[pid] = client
            _tell(client, pid=pid)
            self.selector.register(os.pidfd_open(pid), selectors.EVENT_READ, lambda fd: self.ended(fd, pid))
            if request.get("ends_with_client"):
                self.selector.register(client, selectors.EVENT_READ, lambda _: self.lost(client, pid))
        for fd in fds:
            os.close(fd)

    def lost(self, client: socket.socket, pid: int) -> None:
        self.selector.unregister(client)
        os.kill(pid, signal.SIGKILL)

    def ended(self, fd: int, pid: int) -> None:
        self.selector.unregister(fd)
        os.close(fd)
        _, status = os.waitpid(pid, 0)
        client = self.clients.pop(pid)
        with suppress(KeyError):
            self.selector.unregister(client)
        _tell(client, code=os.waitstatus_to_exitcode(status))
        client.close()

    def end(self, _: int) -> None:
        for pid in self.clients:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        shutil.rmtree(self.path.parent, ignore_errors=True)
        os._exit(0)


def _tell(client: socket.socket, **words: int) -> None:
    with suppress(OSError):  # nobody waits for it any more
        client.sendall(json.dumps(words).encode() + b"\n")


def _become(request: dict, fds: list[int], search_path: list[str]) -> None:
    """Be the process that was asked for, to its end."""
    os.setsid()
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - to the end of the process
    unbuffered = "-u" in request["command"] or bool(os.environ.get("PYTHONUNBUFFERED"))
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - to the end of the process
    sys.stdout.reconfigure(write_through=unbuffered)
    sys.stderr = open(2, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115 - to the end of the process
    sys.stderr.reconfigure(line_buffering=True, write_through=unbuffered)
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    random.seed()
    if "torch" in sys.modules:
        sys.modules["numpy"].random.seed()
        sys.modules["torch"].set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    if "huggingface_hub.constants" in sys.modules:  # which reads the environment when it is imported, and never again
        importlib.reload(sys.modules["huggingface_hub.constants"])
    os._exit(_ended(_exit_code([word for word in request["command"] if word != "-u"], search_path)))


def _exit_code(command: list[str], search_path: list[str]) -> int:
    try:
        _run(command, search_path)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        if isinstance(error, KeyboardInterrupt):
            _ended(0)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        return 1
    return 0


def _run(command: list[str], search_path: list[str]) -> None:
    """Run what stands behind `python`: -c CODE, -m MODULE or a script."""
    kind, *arguments = command
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    first = {"-c": "", "-m": os.getcwd()}.get(kind, os.path.dirname(os.path.abspath(kind)))
    sys.path[:] = [*([] if os.environ.get("PYTHONSAFEPATH") else [first]), *paths, *search_path]
    if kind == "-m":
        sys.argv[:] = arguments
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv[:] = ["-c", *arguments[1:]]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(arguments[0], "<string>", "exec"), main.__dict__)
    else:
        sys.argv[:] = command
        runpy.run_path(kind, run_name="__main__")


def _ended(code: int) -> int:
    """What an interpreter does at its end, but for taking its modules apart."""
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    return code


def main(path: Path, ends_with: int, modules: list[str]) -> None:
    for name in modules:
        importlib.import_module(name)
    if "pydantic" in sys.modules:
        sys.modules["pydantic"].create_model("First")  # which imports most of it and looks for its plugins
    threads = {
        Path(f"/proc/self/task/{task}/comm").read_text().strip()
        for task in os.listdir("/proc/self/task")
        if int(task) != os.getpid()
    }
    if threads - IDLE_THREADS or threading.active_count() > 1:
        sys.exit(f"no process may be forked while threads run: {sorted(threads)}")
    gc.collect()
    gc.freeze()  # what is here already is never looked through again
    server = Server(path, ends_with)
    print("ready", flush=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    server.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
