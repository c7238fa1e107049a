"""What makes two jobs the same: the hash of everything in the config that can change a result."""

from __future__ import annotations

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from stitching.config.errors import UserError
from stitching.config.job import Job, JobSettings
from stitching.config.paths import check_regular_file

__all__ = [
    "LEFT_OUT",
    "canonical",
    "code_digest",
    "file_digest",
    "identity",
    "identity_config",
    "identity_of",
    "settings_config",
]

# Where things are and how they are shown, not what is computed. Stopping, packing and the number of workers never
# change a result, which is what allows them to be left out.
LEFT_OUT = (
    "data_path", "save_dir", "metrics_output", "save_checkpoints", "checkpoint_minutes", "resume_from", "print_freq",
    "workers", "verbose",
)  # fmt: skip
_NETWORK = ("model", "assembly", "head")


def identity(job: Job) -> str:
    """The job's identity: 16 hexadecimal digits."""
    return identity_of(identity_config(job))


def identity_of(config: dict[str, Any], texts: dict[str, str] | None = None) -> str:
    """The identity of a job whose `identity_config` is `config`.

    Args:
        config: what is hashed.
        texts: JSON of some of its keys, where a caller has many configs that share it.
    """
    parts = {key: json.dumps(value, sort_keys=True) for key, value in config.items()} | (texts or {})
    text = "{" + ", ".join(f"{json.dumps(key)}: {parts[key]}" for key in sorted(parts)) + "}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def identity_config(job: Job) -> dict[str, Any]:
    """The part of the resolved config that is hashed; however it was written, the same job gives the same.

    Checkpoints stand in it by the digest of their content, and a data set that has no name of its own by the names of
    its files.
    """
    return settings_config(job) | {"network": canonical(job.network.model_dump(mode="json"))}


def settings_config(settings: JobSettings) -> dict[str, Any]:
    """`identity_config` without the network."""
    data = settings.model_dump(mode="json")
    config = {key: value for key, value in data.items() if key not in (*LEFT_OUT, *_NETWORK)}
    if any(task.dataset == "image_folder" for task in settings.train_config.task_list):
        config["image_folder"] = _names_below(settings.data_path or "")
    result: dict[str, Any] = canonical(config)
    return result


@lru_cache
def code_digest() -> str:
    """The version of this package's code: 12 hexadecimal digits of the hash of all its files."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def canonical(data: Any) -> Any:
    """Plain data with digests for files, without keys that say nothing, and with 1.0 as 1."""
    if isinstance(data, dict):
        return {
            key: file_digest(value) if key in ("ckp_path", "load_from") else canonical(value)
            for key, value in data.items()
            if value is not None
        }
    if isinstance(data, list):
        return [canonical(item) for item in data]
    return int(data) if isinstance(data, float) and data.is_integer() else data


@lru_cache(maxsize=16)
def _names_below(data_path: str) -> str:
    """SHA-256 of the names of all files of an `image_folder`, in hexadecimal."""
    digest = hashlib.sha256()
    for root in (Path(data_path) / "image_folder", Path(data_path)):
        for split in ("train", "test", "val", "valid"):
            for folder, folders, files in os.walk(root / split):
                folders.sort()
                digest.update(json.dumps([os.path.relpath(folder, root), sorted(files)]).encode())
    return digest.hexdigest()


def file_digest(path: str) -> str:
    """SHA-256 of a file's content, in hexadecimal; `missing` when there is no such file that can be read."""
    try:
        status = check_regular_file(path)
        return _digest(path, status.st_mtime_ns, status.st_size)
    except (OSError, UserError):  # told by whoever needs what is in it
        return "missing"


@lru_cache(maxsize=256)
def _digest(path: str, _modified: int, _size: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
