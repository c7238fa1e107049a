"""JSON files with a digest of their own content, so that damage is noticed when they are read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

__all__ = ["Damaged", "checked_json", "read_checked_json"]


class Damaged(ValueError):
    """The content of a file is not the one that was written."""


def checked_json(content: object) -> bytes:
    """`content` as a JSON file with its SHA-256."""
    data = {"sha256": _digest(content), "content": content}
    return (json.dumps(data, indent=1) + "\n").encode()


def read_checked_json(path: Path) -> Any:
    """The content of a file that `checked_json` wrote.

    Raises:
        Damaged: the content is not the one that was written, or something else wrote the file.
        OSError: the file cannot be read.
    """
    try:
        data = json.loads(path.read_bytes())
        is_whole = data["sha256"] == _digest(data["content"])
    except (ValueError, KeyError, TypeError, RecursionError):
        is_whole = False
    if not is_whole:
        raise Damaged(f"{path} is damaged: its content does not match its digest")
    return data["content"]


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
