"""The code that trains a run, for its metadata: its digest and its git commit."""

from __future__ import annotations

import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

from stitching.runs.checked import read_checked_json
from stitching.runs.code import PACKAGE, code_digest

__all__ = ["SNAPSHOT_RECORD", "code_record", "git_state"]

SNAPSHOT_RECORD = "code.json"  # beside the package in a snapshot, where there is no .git


@lru_cache
def code_record() -> dict[str, Any]:
    """`digest` of the code and, where git tracks it, its `commit` and whether it was `modified` since."""
    try:
        record: dict[str, Any] = read_checked_json(PACKAGE.parent / SNAPSHOT_RECORD)
    except OSError:
        record = git_state(PACKAGE)
    return {"digest": code_digest(), **record}


def git_state(package: Path) -> dict[str, Any]:
    """`commit` and `modified` of the checkout that a package is in; {} if git does not track it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout

    try:
        if not git("ls-files", "__init__.py"):  # in a checkout of something else
            return {}
        lines = git("status", "--porcelain=v2", "--branch", "--", ".").splitlines()
    except (OSError, subprocess.SubprocessError):
        return {}
    commit = next((line.split()[2] for line in lines if line.startswith("# branch.oid ")), "(initial)")
    modified = any(not line.startswith("#") for line in lines)
    return {} if commit == "(initial)" else {"commit": commit, "modified": modified}
