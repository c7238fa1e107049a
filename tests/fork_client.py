"""A stand-in for the interpreter: asks the session's server for a forked process, and is that process to whoever waits.

It passes its streams, signals and the exit code on. `forked.interpreter` makes a program of this file.
"""

import json
import os
import signal
import socket
import sys
from typing import NoReturn

PASSED_ON = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT}


def main(arguments: list[str]) -> NoReturn:
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    folder = os.environ["STITCHING_TESTS_FORK_SERVER"].partition(":")[2]
    server = socket.socket(socket.AF_UNIX)
    server.connect(os.path.join(folder, "socket"))
    request = {"command": arguments, "cwd": os.getcwd(), "env": dict(os.environ), "ends_with_client": True}
    socket.send_fds(server, [b"."], [0, 1, 2])
    server.sendall(json.dumps(request).encode() + b"\n")
    answers = server.makefile()
    pid = json.loads(answers.readline())["pid"]
    for number in PASSED_ON:
        signal.signal(number, lambda number, _: os.kill(pid, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    code = json.loads(answers.readline())["code"]
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    sys.exit(code)
