"""What makes two jobs the same: the hash of everything in the config that can change a result."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from stitching.config.job import Job

__all__ = ["file_digest", "identity", "identity_config"]

# Where things are and how they are shown, not what is computed. Stopping, packing and the number of workers never
# change a result, which is what allows them to be left out.
_NO_PART_OF_IT = (
    "data_path", "save_dir", "metrics_output", "save_checkpoints", "checkpoint_minutes", "resume_from", "print_freq",
    "workers", "verbose",
)  # fmt: skip


def identity(job: Job) -> str:
    """The job's identity: 16 hexadecimal digits."""
    text = json.dumps(identity_config(job), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def identity_config(job: Job) -> dict[str, Any]:
    """The part of the resolved config that is hashed; checkpoints stand in it by the digest of their content."""
    config = {key: value for key, value in job.to_yaml().items() if key not in _NO_PART_OF_IT}
    return _with_digests(config)


def _with_digests(data: Any) -> Any:
    if isinstance(data, dict):
        return {
            key: file_digest(value) if key in ("ckp_path", "load_from") else _with_digests(value)
            for key, value in data.items()
        }
    return [_with_digests(item) for item in data] if isinstance(data, list) else data


def file_digest(path: str) -> str:
    """SHA-256 of a file's content, in hexadecimal; `missing` when there is no such file."""
    try:
        status = Path(path).stat()
    except OSError:
        return "missing"
    return _digest(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=256)
def _digest(path: str, _modified: int, _size: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
