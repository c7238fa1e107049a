"""The version of the code: the digest of the package's files.

A task calls this before it imports anything else of the package, so only the standard library is imported here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

__all__ = ["PACKAGE", "code_digest", "code_files", "digest_of", "package_digest"]

PACKAGE = Path(__file__).resolve().parents[1]
_WITHOUT_NUMBERS = ("cli", "analysis", "__main__.py")  # commands, tables and figures: no run's numbers depend on them


@lru_cache
def code_digest() -> str:
    """The version of the code that can change a run's numbers: 12 hexadecimal digits of its hash."""
    return digest_of(code_files(PACKAGE))


@lru_cache
def package_digest() -> str:
    """The version of the whole package, by which caches go stale: 12 hexadecimal digits of its hash."""
    return digest_of(_files(PACKAGE))


def code_files(package: Path) -> dict[str, bytes]:
    """The content of all files of a copy of this package that a run needs, by their paths within it.

    Raises:
        OSError: a file cannot be read.
    """
    return {name: content for name, content in _files(package).items() if name.split("/")[0] not in _WITHOUT_NUMBERS}


def digest_of(files: Mapping[str, bytes]) -> str:
    """12 hexadecimal digits of the SHA-256 of files, names included."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\n{len(files[name])}\n".encode() + files[name])
    return digest.hexdigest()[:12]


def _files(package: Path) -> dict[str, bytes]:
    files = {}
    for path in package.rglob("*"):
        parts = path.relative_to(package).parts
        # without bytecode and files that editors leave
        if path.is_file() and not any(part.startswith((".", "__pycache__")) or part.endswith("~") for part in parts):
            files["/".join(parts)] = path.read_bytes()
    return files
