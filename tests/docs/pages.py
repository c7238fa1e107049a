"""Runs a page of the documentation as its reader would: its files are written, its commands and its Python run in order.

A fenced block whose info string names a file (```yaml config.yml) is written to a fresh folder. A `bash` block runs there, and so does
a `python` block without a file name; all Python of a page shares its names. `yaml`, `json` and `text` blocks without a name are only
shown. The fresh folder holds copies of the repository's configs (across-scales/, experiments/digits/, sbatch/).

The first line of a page may say `<!-- slow -->` (it runs in `make test-slow` only) or `<!-- not run: why -->`.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import forked
import timm  # noqa: F401 - imported once, not by each page
import torch
import torchvision  # noqa: F401

from stitching.cli import main

ROOT = Path(__file__).parent.parent.parent
SHOWN_ONLY = ("yaml", "json", "text")
_FENCE = re.compile(r"^( *)(`{3,})[ \t]*(\S*)[ \t]*([^`]*?)[ \t]*$")
_NEEDS_A_SHELL = re.compile(r"[|<>;&`$*?(){}]")  # outside of quotes or not: the shell knows


class PageError(Exception):
    """A page that does not hold, with the page's line."""


@dataclass(frozen=True)
class Block:
    page: str
    line: int  # of the first line inside the fence
    language: str
    file_name: str
    text: str

    @property
    def runs(self) -> bool:
        return not self.file_name and self.language in ("bash", "python")

    def error(self, message: str, offset: int = 0) -> PageError:
        return PageError(f"{self.page}:{self.line + offset}: {message}")


def blocks(text: str, page: str) -> list[Block]:
    """The fenced blocks of a page; raises PageError for a fence that is not closed or in an unknown language."""
    page_blocks: list[Block] = []
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        fence = _FENCE.match(lines[number])
        number += 1
        if not fence:
            continue
        start = number
        while number < len(lines) and lines[number].strip() != fence[2]:
            number += 1
        if number == len(lines):
            raise PageError(f"{page}:{start}: this block is not closed")
        body = textwrap.dedent("\n".join(lines[start:number])) + "\n"
        block = Block(page, start + 1, fence[3], fence[4], body)
        if block.language not in ("bash", "python", *SHOWN_ONLY):
            raise block.error(
                f"a block in {block.language or 'no language'!r}; use bash, python, {', '.join(SHOWN_ONLY)}", -1
            )
        page_blocks.append(block)
        number += 1
    return page_blocks


def is_slow(text: str) -> bool:
    return text.startswith("<!-- slow")


def reason_not_to_run(text: str) -> str:
    """Why the page is not run, or an empty string."""
    comment = re.match(r"<!-- not run: *(\S.*?) *-->", text)
    return comment[1] if comment else ""


def run_page(path: Path, folder: Path, seconds: int = 300) -> None:
    """Run a page in the empty `folder`, in a forked process; raises PageError with the page's line and the output.

    A page registers parts, changes the current folder and the environment: nothing of this reaches the next page.
    """
    name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
    text = path.read_text()
    page_blocks = blocks(text, name)
    if reason_not_to_run(text):
        return
    if not any(block.runs for block in page_blocks):
        raise PageError(f"{name}:1: nothing in it runs; say why in its first line: <!-- not run: why -->")
    _copy_configs(folder)
    output = folder.parent / f"{folder.name}.output"
    failure = folder.parent / f"{folder.name}.failure"
    child = os.fork()
    if not child:
        _run_and_exit(page_blocks, folder, output, failure, seconds)
    _, status = os.waitpid(child, 0)
    if failure.exists():
        raise PageError(f"{failure.read_text()}\n{output.read_text()[-6000:]}")
    if status:
        ended = f"signal {status}" if os.WIFSIGNALED(status) else f"exit code {os.waitstatus_to_exitcode(status)}"
        raise PageError(f"{name}:1: ended with {ended} (a page has {seconds} s)\n{output.read_text()[-6000:]}")


def _run_and_exit(page_blocks: list[Block], folder: Path, output: Path, failure: Path, seconds: int) -> None:
    """The forked process: runs the blocks and never returns."""
    try:
        signal.alarm(seconds)
        stream = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 - as long as the process
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        sys.stdin = open(os.devnull)  # noqa: SIM115
        torch.set_num_threads(1)  # threads of the process that forked are not here
        os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        os.environ["PYTHONPATH"] = str(ROOT)
        os.environ["OMP_NUM_THREADS"] = "1"
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        forked.fork_tasks()  # that --cluster local starts
        Session(folder).run(page_blocks)
    except PageError as error:
        failure.write_text(str(error))
    except BaseException:
        failure.write_text(traceback.format_exc())
    finally:
        sys.stdout.flush()
        os._exit(0)


def _copy_configs(folder: Path) -> None:
    for pattern in ("across-scales/*.yml", "experiments/digits/**/config.yml", "sbatch/*"):
        for source in ROOT.glob(pattern):
            (folder / source.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, folder / source.relative_to(ROOT))


class Session:
    """The shell and the Python session that a page's reader has open."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: dict[str, object] = {"__name__": "__main__"}

    def run(self, page_blocks: list[Block]) -> None:
        for block in page_blocks:
            if block.file_name:
                path = self.folder / block.file_name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.text)
            elif block.language == "python":
                self._python(block)
            elif block.language == "bash":
                for offset, command in _commands(block.text):
                    print(f"$ {command}", flush=True)
                    self._shell(block, offset, command)

    def _python(self, block: Block) -> None:
        try:
            # Empty lines before it: a traceback shows the page's lines.
            exec(compile("\n" * (block.line - 1) + block.text, str(ROOT / block.page), "exec"), self.names)
        except BaseException as error:
            of_page = [
                frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(ROOT / block.page)
            ]
            line = of_page[-1].lineno if of_page else block.line
            raise PageError(
                f"{block.page}:{line}: {type(error).__name__}: {error}\n{traceback.format_exc()}"
            ) from error

    def _shell(self, block: Block, offset: int, command: str) -> None:
        words = [] if _NEEDS_A_SHELL.search(command) or "\n" in command else shlex.split(command, comments=True)
        code = 0
        if words and words[0] == "cd" and len(words) == 2:
            os.chdir(words[1])
        elif words and words[0] == "export":
            os.environ.update(word.split("=", 1) for word in words[1:])  # type: ignore[arg-type]
        elif words and words[0] == "stitching":
            code = _stitching(words[1:])
        elif words and words[0] == "python" and len(words) > 1 and words[1].endswith(".py"):
            code = _script(words[1:])
        else:
            code = subprocess.run(["bash", "-euo", "pipefail", "-c", command], check=False).returncode
        if code:
            raise block.error(f"exit code {code} of `{command}`", offset)


def _commands(text: str) -> Iterator[tuple[int, str]]:
    """The commands of a bash block, each with its line: one a line, unless the block needs one shell for all of it."""
    if re.search(r"<<|^\s*(for|while|if|case|function)\b", text, re.MULTILINE):
        yield 0, text
        return
    command, start = "", 0
    for offset, line in enumerate(text.splitlines()):
        start = start if command else offset
        command += line.removesuffix("\\")
        if line.endswith("\\"):
            continue
        command = re.sub(r"(^|\s+)#\s.*$", "", command).strip()
        if command:
            yield start, command
        command = ""


def _exit_code(stopped: SystemExit) -> int:
    return stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)


def _stitching(arguments: list[str]) -> int:
    """The command line in this process, which has torch imported already."""
    sys.argv = ["stitching", *arguments]
    try:
        main()
    except SystemExit as stopped:
        return _exit_code(stopped)
    return 0


def _script(arguments: list[str]) -> int:
    sys.argv = arguments
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as stopped:
        return _exit_code(stopped)
    return 0
