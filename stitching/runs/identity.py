"""A job's identity: the hash of everything in its config that can change a result."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import Any

from stitching.config.errors import UserError
from stitching.config.job_config import Job, JobSettings
from stitching.config.objective_schema import Objective
from stitching.config.parts import PARTS, BasePart, ModelFields
from stitching.config.paths import check_regular_file
from stitching.config.plugins import plugin_digests
from stitching.config.schema import Schema
from stitching.config.train_config import TrainConfig

__all__ = [
    "LEFT_OUT",
    "file_digest",
    "identity",
    "identity_config",
    "network_digest",
    "part_digest",
    "settings_digest",
]

# Keys that never change a result: paths, display, checkpoints, the number of workers.
LEFT_OUT = (
    "data_path", "save_dir", "metrics_output", "save_checkpoints", "checkpoint_minutes", "resume_from", "print_freq",
    "workers", "verbose", "project",
)  # fmt: skip
_NETWORKS = ("model", "assembly", "head", "reference")


def identity(job: JobSettings, *, settings: str | None = None, network: str | None = None) -> str:
    """The identity of a job of any kind: 16 hexadecimal digits.

    Args:
        job: the job.
        settings, network: its digests, for callers with many jobs that share one of them.
    """
    return _hash([settings or settings_digest(job), network or network_digest(job)])[:16]


def settings_digest(settings: JobSettings) -> str:
    """The digest of everything in a job except its networks."""
    return _hash(_settings_config(settings))


def network_digest(job: JobSettings) -> str:
    """The digest of a job's network and of the reference that it is compared with; jobs of other kinds have none."""
    return _hash(_network_config(job))


def part_digest(part: BasePart | None) -> str:
    """The digest of a network beside the job's own, such as a teacher."""
    return _hash(_canonical(part))


def identity_config(job: JobSettings) -> dict[str, Any]:
    """The data whose hash is the identity; equal for the same job, however its config was written.

    It has the keys of the resolved config that differ from their neutral values. Models are in it by their full names,
    checkpoints by the digest of their content, and a data set that its name does not determine by its files' names.
    """
    return _settings_config(job) | _network_config(job)


def _settings_config(settings: JobSettings) -> dict[str, Any]:
    from stitching.data.datasets import files_digest  # not above: results are read without loading torch

    config = _canonical(settings, (*LEFT_OUT, *_NETWORKS, "plugins"))
    if settings.plugins:
        config["plugins"] = plugin_digests(settings.plugins)
    for key in ("load_from", "load_head_from"):
        if path := getattr(settings, key):
            config[key] = file_digest(path)
    for task in settings.train_config.task_list:
        if digest := files_digest(task.dataset, settings.data_path or ""):
            config[task.dataset] = digest
    return config


def _network_config(job: JobSettings) -> dict[str, Any]:
    if not isinstance(job, Job):
        return {}
    network = job.network
    if not network.is_assembly:  # built as the only part of one
        network = PARTS["Assembly"](parts=[network])  # type: ignore[call-arg]
    parts = {"network": network, "reference": job.reference}
    return {key: _canonical(part) for key, part in parts.items() if part is not None}


def _canonical(value: Any, left_out: tuple[str, ...] = ()) -> Any:
    """Plain data that is equal for whatever computes the same.

    Neutral values are left out, a model or data set has one spelling, and 1.0 is 1.
    """
    if isinstance(value, Schema):
        names = [name for name in type(value).model_fields if name not in left_out]
        data = {name: getattr(value, name) for name in names} | (value.model_extra or {})
        if isinstance(value, ModelFields):
            data = _model_fields(value, data)
        if isinstance(value, TrainConfig):
            data = {**data, "dataset": None, "batch_size": None, "tasks": value.task_list}
        data = {key: _canonical(item) for key, item in data.items() if item is not None}
        neutral = _neutral_values(type(value))
        data = {key: item for key, item in data.items() if key not in neutral or neutral[key] != item}
        if isinstance(value, Objective):
            return {value.registered_name: data}
        if isinstance(value, BasePart):
            return {value.kind: data | ({"revision": value.revision} if value.revision > 1 else {})}
        return data
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _model_fields(part: ModelFields, data: dict[str, Any]) -> dict[str, Any]:
    """A part's fields with its model and weights in one spelling."""
    from stitching.models.spec import published_as  # not above: reading results needs no torch

    ways_to_name = (*ModelFields.model_fields, *part.model_args)
    name, weights = published_as(part)
    return {key: value for key, value in data.items() if key not in ways_to_name} | {
        "model": name,
        "weights": weights,
        "ckp_path": file_digest(part.ckp_path) if part.ckp_path else None,
        "arguments": part.model_args or None,
    }


@lru_cache(maxsize=256)
def _neutral_values(schema: type[Schema]) -> dict[str, Any]:
    """For each key of a schema, the value that has the same effect as leaving the key out."""
    return {name: _canonical(schema.neutral_value(name)) for name in schema.model_fields}


def _hash(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def file_digest(path: str) -> str:
    """SHA-256 of a file's content, in hexadecimal; `missing` when there is no such file that can be read."""
    try:
        status = check_regular_file(path)
        return _digest(path, status.st_mtime_ns, status.st_size)
    except (OSError, UserError):  # reported by whoever needs what is in it
        return "missing"


@lru_cache(maxsize=256)
def _digest(path: str, _modified: int, _size: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
