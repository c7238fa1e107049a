"""Paths in configs: made absolute, and checked to be regular files before they are opened."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from stitching.config.errors import UserError

__all__ = ["check_regular_file", "resolved_path"]


def resolved_path(text: str, folder: Path) -> Path:
    """The absolute path that `text` means in a file of `folder`; `~` is the home folder. It need not exist.

    Raises:
        UserError: no path can be made of it: an unknown user, a character that no path has, a circle of links.
    """
    try:
        return (folder / Path(text).expanduser()).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: no such user, or a circle of links
        raise _no_path(text, error) from None


def check_regular_file(path: str | Path) -> os.stat_result:
    """The status of a file, if it can be opened and read to its end: no folder, and no pipe, socket or device.

    Raises:
        UserError: it is something else, does not exist, or cannot be looked at.
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"there is no file {path}") from None
    except (OSError, ValueError) as error:
        raise _no_path(str(path), error) from None
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is {_KINDS.get(stat.S_IFMT(status.st_mode), 'no file')}", allowed="a regular file")
    return status


_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def _no_path(text: str, error: Exception) -> UserError:
    shown = repr(text) if len(text) <= 100 else f"{text[:97]!r}..."
    reason = getattr(error, "strerror", None) or str(error)
    return UserError(f"{shown} is no path: {reason}")
