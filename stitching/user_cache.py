"""Files in the user's cache folder: what can be found out again, with a digest so that damage is never taken for it."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from stitching.config.errors import UserError
from stitching.runs.folder import write_whole

__all__ = ["cache_folder", "read_cached", "write_cached"]


def cache_folder() -> Path:
    """Of this program: in XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stitching"


def read_cached(path: Path) -> bytes | None:
    """What `write_cached` wrote; None if there is no such file, or it is not as it was written."""
    with suppress(OSError):
        if path.is_file():  # and no pipe, which would wait
            first, _, data = path.read_bytes().partition(b"\n")
            if first.decode(errors="replace") == _digest(data):
                return data
    return None


def write_cached(path: Path, data: bytes) -> None:
    """Write a file whole; without a word where that cannot be done, as all of it can be found out again."""
    with suppress(OSError, UserError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file: file.write(_digest(data).encode() + b"\n" + data))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
