"""Forked processes are like fresh ones in everything that the other tests rely on."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import forked
import pytest

SAY = "import os, sys; print(sys.argv, os.getcwd(), os.environ['WORD'], sys.path[:2]); print('no', file=sys.stderr); sys.exit(3)"


@pytest.fixture(params=["forked", "stand-in", "fresh"])
def run(request, tmp_path_factory):
    """Run a command; whatever a test says here must hold of fresh interpreters, too."""

    def call(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *map(str, arguments)]
        if request.param == "forked":
            return forked.run(command, **options)
        if request.param == "stand-in":
            command[0] = forked.interpreter(tmp_path_factory.mktemp("bin"))
        return subprocess.run(command, capture_output=True, text=True, check=False, **options)

    return call


def test_arguments_environment_streams_and_exit_code(run, tmp_path):
    done = run("-c", SAY, "a b", cwd=tmp_path, env=os.environ | {"WORD": "ü", "PYTHONPATH": "/nowhere"})
    assert (done.returncode, done.stderr) == (3, "no\n")
    assert done.stdout == f"['-c', 'a b'] {tmp_path} ü ['', '/nowhere']\n"


def test_scripts_and_modules(run, tmp_path):
    (tmp_path / "helping.py").write_text("WORD = 'helped'")
    (tmp_path / "script.py").write_text("import sys, helping; print(__name__, helping.WORD, sys.argv[1:])")
    for arguments in (["script.py", "x"], ["-u", "-m", "script", "x"]):
        assert run(*arguments, cwd=tmp_path).stdout == "__main__ helped ['x']\n"


@pytest.mark.parametrize(
    ("code", "expected", "words"),
    [
        ("raise SystemExit", 0, ""),
        ("raise SystemExit('error: no')", 1, "error: no\n"),
        ("raise ValueError('no')", 1, "ValueError: no\n"),
        ("raise KeyboardInterrupt", -signal.SIGINT, "KeyboardInterrupt\n"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
        ("import atexit, sys; atexit.register(lambda: print('over', file=sys.stderr))", 0, "over\n"),
    ],
)
def test_endings(run, code, expected, words):
    done = run("-c", code)
    assert done.returncode == expected
    assert done.stderr.endswith(words)


def test_a_process_is_new_in_all_but_the_libraries():
    code = "import sys; print('torch' in sys.modules, any(name.startswith('stitching') for name in sys.modules))"
    assert forked.run([sys.executable, "-c", code]).stdout == "True False\n"
    first, second = (forked.run([sys.executable, "-c", "import random; print(random.random())"]) for _ in range(2))
    assert first.stdout != second.stdout


def test_signals_reach_it_and_its_end_is_waited_for():
    code = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); print('here', flush=True)\nwhile True: time.sleep(0.05)"
    process = forked.popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == "here\n"
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0)
    assert os.getsid(process.pid) == process.pid
    process.terminate()
    assert process.wait(timeout=20) == 7
    process.kill()  # nobody else


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGKILL])
def test_signals_reach_what_a_stand_in_stands_for(tmp_path, number):
    code = "import os, signal, sys, time; signal.signal(signal.SIGUSR2, lambda *_: sys.exit(7)); print(os.getpid(), flush=True)\nwhile True: time.sleep(0.05)"
    process = subprocess.Popen([forked.interpreter(tmp_path), "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    with process.stdout:
        end = os.pidfd_open(int(process.stdout.readline()))
        process.send_signal(number)
        assert process.wait(timeout=20) == (7 if number == signal.SIGUSR2 else -number)
        assert select.select([end], [], [], 20)[0]


@pytest.mark.parametrize(("codes", "expected"), [((0, 0, 0), 0), ((0, 3, 0), 1), ((3, 3, 3), 1)])
def test_processes_that_end_at_the_same_time_are_waited_for(codes, expected):
    processes = [forked.popen([sys.executable, "-c", f"raise SystemExit({code})"]) for code in codes]
    for process in processes:
        assert select.select([process.connection], [], [], 20)[0]
    assert processes[-1].poll() == codes[-1]  # whoever sends a signal looks first
    assert forked.wait_for_all(processes, timeout=20) == expected
    assert [process.returncode for process in processes] == list(codes)


def test_a_failure_of_one_ends_those_that_work_with_it():
    failing, waiting = (
        forked.popen([sys.executable, "-c", code]) for code in ("raise SystemExit(3)", "import signal; signal.pause()")
    )
    assert forked.wait_for_all([waiting, failing], timeout=20) == 1
    assert waiting.returncode == -signal.SIGTERM


def test_an_environment_that_a_library_has_read_already_is_read_again():
    code = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE, constants.ENDPOINT, constants.HF_HUB_OFFLINE)"
    for offline in (True, False):
        environment = {"HF_HOME": "/elsewhere", "HF_ENDPOINT": "http://here", "HF_HUB_OFFLINE": str(int(offline))}
        done = forked.run([sys.executable, "-c", code], env=os.environ | environment)
        assert done.stdout == f"/elsewhere/hub http://here {offline}\n"


def test_the_server_ends_with_the_session_and_takes_what_is_left_along(tmp_path):
    script = tmp_path / "session.py"
    script.write_text(
        "import forked, os, sys\n"
        "forked.LIBRARIES = ()\n"
        "forked.announce()\n"
        "process = forked.popen([sys.executable, '-c', 'import os, signal; print(os.getppid(), flush=True); signal.pause()'], stdout=-1)\n"
        "print(process.pid, process.stdout.readline().strip(), flush=True)\n"
        "print(os.environ[forked.SESSION].partition(':')[2], flush=True)\n"
        "sys.stdin.readline()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(forked.__file__).parent)}
    session = subprocess.Popen(
        [sys.executable, script], env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert session.stdin
    assert session.stdout
    ends = [os.pidfd_open(int(pid)) for pid in session.stdout.readline().split()]
    folder = Path(session.stdout.readline().strip())
    session.kill()
    session.communicate()
    for end in ends:
        assert select.select([end], [], [], 20)[0]
    assert not folder.exists()
