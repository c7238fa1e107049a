"""Copies of this package's code that queued tasks run, so that an edit of the checkout changes none of them.

Each content is stored once, beside the sweeps of its project: `experiments/PROJECT/.code/DIGEST/stitching/...`.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO

from stitching.config.errors import UserError
from stitching.runs.checked import Damaged, checked_json, read_checked_json
from stitching.runs.code import PACKAGE, code_digest, code_files, digest_of
from stitching.runs.folder import write_whole
from stitching.runs.provenance import SNAPSHOT_RECORD, git_state

__all__ = ["PYTHON_OPTIONS", "SNAPSHOTS", "current_snapshot", "nobody_submits", "snapshot_environment", "snapshot_path"]

SNAPSHOTS = ".code"  # within a project's folder
# The working directory would come before PYTHONPATH, and bytecode has no digest that is checked.
PYTHON_OPTIONS = {"PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"}
_LOCK = ".lock"


def snapshot_path(sweep: Path) -> Path:
    """Where tasks of the sweep in the folder `sweep` find the current code once they are submitted."""
    return sweep.absolute().parent / SNAPSHOTS / code_digest()


def snapshot_environment(snapshot: Path) -> dict[str, str]:
    """The environment in which Python imports the package from a snapshot."""
    before = os.environ.get("PYTHONPATH")
    return dict(os.environ) | PYTHON_OPTIONS | {"PYTHONPATH": os.pathsep.join([str(snapshot), *filter(None, [before])])}


@contextmanager
def current_snapshot(sweep: Path) -> Iterator[Path]:
    """The snapshot of the current code for the sweep in the folder `sweep`; nothing removes it within this context.

    It is written if it is missing or damaged.

    Raises:
        UserError: it cannot be written.
    """
    files = code_files(PACKAGE)  # read once: what is stored is what was digested
    path = sweep.absolute().parent / SNAPSHOTS / digest_of(files)
    if os.pathsep in str(path):
        raise UserError(
            f"Python cannot import the code from {path}: there is a {os.pathsep!r} in its path",
            do="Choose another project or save_dir.",
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _locked(path.parent, fcntl.LOCK_SH)
        _write_snapshot(path, files)
    except OSError as error:
        raise UserError(
            f"cannot store the code that tasks run in {path.parent}: {error.strerror}",
            do="Make room, or set save_dir in the sweep.",
        ) from None
    with lock or nullcontext():
        yield path


@contextmanager
def nobody_submits(snapshots: Path) -> Iterator[bool]:
    """Yields whether no process uses the folder `snapshots`; if so, none begins to within this context."""
    try:
        lock = _locked(snapshots, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock = None
    with lock or nullcontext():
        yield lock is not None


def _locked(snapshots: Path, kind: int) -> IO[str] | None:
    """The open lock of a folder of snapshots; None on a file system without locks.

    Raises:
        BlockingIOError: another process holds it, and `kind` says not to wait.
    """
    lock = open(snapshots / _LOCK, "w")  # noqa: SIM115 - the caller closes it
    try:
        fcntl.flock(lock, kind)
    except BlockingIOError:
        lock.close()
        raise
    except OSError:
        lock.close()
        return None
    return lock


def _write_snapshot(path: Path, files: Mapping[str, bytes]) -> None:
    record = git_state(PACKAGE)
    existed = path.exists()
    try:
        before = read_checked_json(path / SNAPSHOT_RECORD)
        if code_files(path / PACKAGE.name) == files:
            if before.get("modified", True) and record.get("modified") is False:
                write_whole(path / SNAPSHOT_RECORD, lambda file: file.write(checked_json(record)))
            return
    except (OSError, Damaged):
        pass
    # No flush to the disk: a half-written copy after a crash does not match its digest, and is written again.
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}.tmp")
    try:
        for name, content in files.items():
            target = temporary / PACKAGE.name / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        (temporary / SNAPSHOT_RECORD).write_bytes(checked_json(record))
        if existed:  # damaged
            path.rename(path.with_name(f".{path.name}-{secrets.token_hex(4)}.damaged"))
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():  # else another submit was faster
                raise
    finally:
        with suppress(OSError):
            shutil.rmtree(temporary)
