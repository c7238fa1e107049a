"""Locks between processes, on a file that stays; the system releases a lock however its holder ends."""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from stitching.config.errors import UserError

__all__ = ["Locked", "file_lock", "is_locked"]

# A file system without locks says one of these; Lustre that is mounted without `flock` says the first.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
_LONGEST_LOOK = 1.0  # seconds: `is_locked` takes the lock for a moment, which must not make `file_lock` fail


class Locked(Exception):
    """Another process holds the lock."""


@contextmanager
def file_lock(path: Path, *, waits: bool = False) -> Iterator[None]:
    """Hold the lock on a file, which is created with its folder if missing; forked children do not hold it.

    Args:
        path: of the file.
        waits: wait until another process releases it.

    Raises:
        Locked: another process holds it and does not release it.
        UserError: the file system has no locks, or the file cannot be created.
    """
    patience = -1 if waits else _LONGEST_LOOK
    # Without flock the library would fall back on the file's existence, which outlives a holder that is killed.
    lock = FileLock(path, patience, poll_interval=0.02, fallback_to_soft=False, thread_local=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise Locked from None
    except OSError as error:
        raise _lock_error(path, error) from None
    try:
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock on a file.

    Raises:
        UserError: the file system has no locks, or the file cannot be read.
    """
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # the library has no shared locks
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError as error:
        raise _lock_error(path, error) from None
    return False


def _lock_error(path: Path, error: OSError) -> UserError:
    if error.errno in _NO_LOCKS:
        return UserError(
            f"the file system of {path.parent} has no locks ({error.strerror}), so that two processes could train the "
            "same run at once",
            do="Choose a save_dir on another file system, or have this one mounted with locks (Lustre: `flock`, NFS: "
            "without `nolock`).",
        )
    return UserError(f"cannot write to {path.parent}: {error.strerror}", do="Choose another save_dir.")
