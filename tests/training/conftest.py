"""The command line in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import forked
import pytest


@pytest.fixture
def command_line(tmp_path: Path):
    """Run `stitching` in a process of its own, after Python statements that may sabotage it."""

    def run(folder: Path, *arguments: str, sabotage: str = "", wait: bool = True):
        call = f"sys.argv = {['stitching', *arguments]!r}\nfrom stitching.cli import main\nmain()"
        code = f"import sys, os, signal\n{sabotage}\n{call}"
        command = [sys.executable, "-c", code]
        process = forked.popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if not wait:
            return process
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    return run
