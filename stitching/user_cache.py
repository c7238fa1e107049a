"""Files in the user's cache folder, with a digest so that damaged ones are not used."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from stitching.config.errors import UserError
from stitching.runs.folder import write_whole

__all__ = ["cache_folder", "read_cached", "write_cached"]


def cache_folder() -> Path:
    """The cache folder of this program: in XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stitching"


def read_cached(path: Path) -> bytes | None:
    """The data that `write_cached` wrote; None if there is no such file, or it is damaged."""
    with suppress(OSError):
        if path.is_file():  # reading a pipe would wait forever
            first, _, data = path.read_bytes().partition(b"\n")
            if first.decode(errors="replace") == _digest(data):
                return data
    return None


def write_cached(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all; silent where that fails, as a cache can be computed again."""
    with suppress(OSError, UserError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file: file.write(_digest(data).encode() + b"\n" + data))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
