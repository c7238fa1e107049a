"""JSON files that carry the digest of their own content: damage is noticed when they are read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

__all__ = ["Damaged", "checked_json", "read_checked_json"]


class Damaged(ValueError):
    """A file's content is not what was written."""


def checked_json(content: object) -> bytes:
    """`content` as a JSON file with its SHA-256."""
    text = {"sha256": _digest(content), "content": content}
    return (json.dumps(text, indent=1) + "\n").encode()


def read_checked_json(path: Path) -> Any:
    """The content of a file that `checked_json` made.

    Raises:
        Damaged: the content is not the one that was written, or something else wrote the file.
        OSError: the file cannot be read.
    """
    try:
        data = json.loads(path.read_bytes())
        whole = data["sha256"] == _digest(data["content"])
    except (ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise Damaged(f"{path} is damaged: its content does not fit its digest")
    return data["content"]


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
