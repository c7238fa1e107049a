"""From a job's YAML file to the job: keys overridden from outside, paths made absolute, and the files that it names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from stitching.config.errors import UserError, at
from stitching.config.job_config import JobSettings
from stitching.config.objective_schema import Objective
from stitching.config.parts import BasePart, ModelFields
from stitching.config.paths import resolved_path
from stitching.config.schema import Schema, validated
from stitching.config.user_code import resolved_code
from stitching.config.yaml import Document, Keys

__all__ = ["canonical_key", "checkpoints_of", "model_parts", "override", "project_root", "read_settings", "with_paths"]

S = TypeVar("S", bound=JobSettings)

# Keys that may be written in two places. A value from outside the file, for either of them, overrides both.
_TWINS: list[tuple[tuple[str | int, ...], tuple[str | int, ...]]] = [
    (("train_config", "lr"), ("train_config", "optimizer_args", "lr")),
    (("train_config", "data_augmentation"), ("train_config", "data_preprocessing", "data_augmentation")),
]


def override(document: Document, dotted: str, value: object, origin: str) -> None:
    """Set a job's key such as `train_config.epochs` from outside its file: the command line, or a sweep's grid."""
    keys = tuple(dotted.split("."))
    for twins in _TWINS:
        if keys in twins:
            for twin in twins:
                document.remove(twin)
    document.override(keys, value, origin)


def canonical_key(dotted: str) -> str:
    """The key that the rest of the code looks at, of two that mean the same: `train_config.optimizer_args.lr`."""
    keys = tuple(dotted.split("."))
    return ".".join(map(str, next((twins[1] for twins in _TWINS if keys == twins[0]), keys)))


def read_settings(schema: type[S], document: Document) -> S:
    """The document as an instance of a job's or a sweep's schema, its paths absolute (`with_paths`).

    Raises:
        UserError: with file, line and key, if anything is wrong with it.
    """
    return with_paths(validated(schema, document), document)


def project_root(folder: Path) -> Path:
    """The checkout that `folder` lies in: the nearest folder above it with `.git` or `experiments`; else itself."""
    folder = folder.resolve()
    return next(
        (path for path in (folder, *folder.parents) if (path / ".git").exists() or (path / "experiments").is_dir()),
        folder,
    )


def with_paths(settings: S, document: Document) -> S:
    """The job's or sweep's settings with every path of its own and of its parts made absolute.

    They start from the folder of the document that the settings were read from (`Document.folder_of`).

    Raises:
        UserError: with file, line and key, if one of them is no path.
    """
    settings.plugins = [
        resolved_code(name, document.folder_of(("plugins", i))) for i, name in enumerate(settings.plugins)
    ]
    settings.data_path = settings.data_path or str(project_root(document.folder) / "data")
    paths: list[tuple[Keys, str, Any]] = [
        ((), name, settings) for name in ("data_path", "save_dir", "resume_from", "load_from", "load_head_from")
    ]
    for keys, part in _models_in(settings, ()):
        paths += [(keys, "ckp_path", part), (keys, "module", part)]
    for keys, name, schema in paths:
        if value := getattr(schema, name):
            try:
                with at(*keys, name):
                    setattr(schema, name, _absolute(name, value, document.folder_of((*keys, name))))
            except UserError as error:
                raise document.locate(error) from None
    return settings


def _absolute(key: str, value: str, folder: Path) -> str:
    if key != "module":
        return str(resolved_path(value, folder))
    file, colon, function = value.rpartition(":")
    return resolved_code(file, folder) + colon + function


def checkpoints_of(job: JobSettings, *networks: Any) -> list[str]:
    """The files of weights that a job with these parts as its networks starts from."""
    paths = [*(part.ckp_path for part in model_parts(*networks)), job.load_from, job.load_head_from, job.resume_from]
    return list(dict.fromkeys(path for path in paths if path))


def model_parts(*values: Any) -> list[Any]:
    """Every part that names a model, however deeply nested in `values`: parts, lists of them, objectives, or None."""
    return [part for value in values for _, part in _models_in(value, ())]


def _models_in(value: Any, keys: Keys) -> Iterator[tuple[Keys, ModelFields]]:
    """The parts that name a model, each with the keys that lead to it in YAML, where `keys` lead to `value`."""
    if isinstance(value, list):
        for i, item in enumerate(value):
            yield from _models_in(item, (*keys, i))
    if not isinstance(value, Schema):
        return
    if isinstance(value, BasePart):
        keys = (*keys, value.kind)
    elif isinstance(value, Objective):
        keys = (*keys, value.registered_name)
    if isinstance(value, ModelFields):
        yield keys, value
    for name, item in value:
        yield from _models_in(item, (*keys, name))
