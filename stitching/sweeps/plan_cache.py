"""What was found out about models and networks before, so that each distinct one is looked at only once.

Kept in the user's cache folder and never in a project: a plan is the same with it and without it, only sooner.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stitching.runs.code import package_digest
from stitching.user_cache import cache_folder, read_cached, write_cached

__all__ = ["PlanCache", "cache_file"]


class PlanCache:
    """Plain data (what JSON can hold) about models and networks, by what they are made from.

    Args:
        path: where it is kept; None keeps it in memory. A file that cannot be read, is damaged, or is of other versions
            of the code or its libraries, counts as empty.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.values: dict[str, Any] = {}
        self._versions = [package_digest(), *(version(name) for name in ("torch", "torchvision", "timm"))]
        self._changed = False
        if path and (text := read_cached(path)):
            data = json.loads(text)
            self.values = data["values"] if data["versions"] == self._versions else {}

    def get(self, made_from: object, find_out: Callable[[], Any]) -> Any:
        """The cached value, or what `find_out` returns, which is then cached. What it raises is not.

        Args:
            made_from: everything that it depends on beside the code, with a `repr` that tells it apart.
        """
        key = hashlib.sha256(repr(made_from).encode()).hexdigest()[:32]
        if key not in self.values:
            self.values[key] = find_out()
            self._changed = True
        return self.values[key]

    def save(self) -> None:
        """Write new values to the file; silently left where that fails, as all of them can be computed again."""
        if not (self.path and self._changed):
            return
        write_cached(self.path, json.dumps({"versions": self._versions, "values": self.values}).encode())
        self._changed = False


def cache_file() -> Path:
    """Where the command line keeps its cache of plans."""
    return cache_folder() / "networks.json"
