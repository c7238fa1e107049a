"""Checkpoints on disk: written with a digest, and read only if they are whole and of the same job."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import IO, Any, Literal

import torch

from stitching.config.errors import UserError, first_line, shortened
from stitching.config.job_config import Job
from stitching.config.paths import check_regular_file
from stitching.runs.folder import RunFolder, write_whole
from stitching.runs.identity import LEFT_OUT, identity

__all__ = ["newest_whole_checkpoint", "read_checkpoint", "write_checkpoint"]

# torch.load checks no digest. torch.save writes a zip archive, and torch.load ignores the comment at its end: so the
# digest is there, in the same file as the data.
_MARK = b"sha256:"
_COMMENT_LENGTH = len(_MARK) + 2 * hashlib.sha256().digest_size
_NO_COMMENT = b"\0\0"  # the length of the comment at the end of an archive, as torch writes it
_LENGTH = _COMMENT_LENGTH.to_bytes(2, "little")
_END_OF_ARCHIVE, _END_OF_ARCHIVE_LENGTH = b"PK\5\6", 22


class _Hashed:
    """A file to write to, and the digest of what was written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def write_checkpoint(folder: RunFolder, state: dict[str, Any]) -> None:
    """Write a run's newest checkpoint with its digest, whole or not at all, and keep the one before."""

    def write(file: IO[bytes]) -> None:
        hashed = _Hashed(file)
        torch.save(state, hashed)  # type: ignore[arg-type]
        file.seek(-len(_NO_COMMENT), os.SEEK_END)
        file.write(_LENGTH + _MARK + hashed.digest.hexdigest().encode())

    write_whole(folder.checkpoint, write, previous=folder.previous_checkpoint)


def newest_whole_checkpoint(folder: RunFolder) -> tuple[Path | None, list[str]]:
    """The checkpoint that a run can resume from, if there is one, and notes for the user.

    A damaged one is renamed to `checkpoint.damaged-1.pt`. The run's folder must be locked.
    """
    notes = []
    for path in (folder.checkpoint, folder.previous_checkpoint):
        if not path.exists():
            continue
        if _condition(path) == "damaged":
            new_path = _path_of_damaged(folder.checkpoint)
            os.replace(path, new_path)
            notes.append(f"{path} is damaged and was renamed to {new_path.name}")
            continue
        if notes:
            notes.append(f"the run resumes from {path.name}, the checkpoint before")
        return path, notes
    if notes:
        notes.append("the run starts again from the beginning")
    return None, notes


def _path_of_damaged(path: Path) -> Path:
    number = 1
    while (new_path := path.with_name(f"{path.stem}.damaged-{number}{path.suffix}")).exists():
        number += 1
    return new_path


def _condition(path: Path) -> Literal["whole", "damaged", "without digest"]:
    """Whether a file is as `write_checkpoint` wrote it; `without digest` is one as torch.save alone writes it.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            length = file.seek(0, os.SEEK_END) - len(_LENGTH) - _COMMENT_LENGTH
            file.seek(max(length, 0))
            tail = file.read()
            if not tail.startswith(_LENGTH + _MARK):
                end = tail[-_END_OF_ARCHIVE_LENGTH:]
                is_plain = end.startswith(_END_OF_ARCHIVE) and end.endswith(_NO_COMMENT)
                return "without digest" if is_plain else "damaged"
            digest = hashlib.sha256()
            file.seek(0)
            while length:
                block = file.read(min(length, 2**20))
                digest.update(block)
                length -= len(block)
    except OSError as error:
        raise UserError(f"cannot read the checkpoint {path}: {error.strerror}") from None
    digest.update(_NO_COMMENT)
    return "whole" if tail == _LENGTH + _MARK + digest.hexdigest().encode() else "damaged"


def read_checkpoint(path: Path, job: Job) -> dict[str, Any]:
    """A training checkpoint, if it is whole and of `job`.

    Raises:
        UserError: it cannot be read, is damaged, is no training checkpoint, or is of another config.
    """
    if not path.exists():
        raise UserError(f"there is no checkpoint {path}")
    check_regular_file(path)
    condition = _condition(path)
    if condition == "damaged":
        raise UserError(
            f"cannot read the checkpoint {path}: it is damaged, or no checkpoint", do="Use another one, or start again."
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file of somebody else's can raise anything
        reason = first_line(error)
        raise UserError(f"cannot read the checkpoint {path}: {reason}", do="Remove it to start again.") from None
    if not isinstance(state, dict) or "place" not in state:
        raise UserError(
            f"{path} holds weights, and no training to resume", do="Use load_from to start from its weights."
        )
    if condition == "without digest":
        raise UserError(
            f"{path} has no digest, so damage would not be noticed: an older version of this package wrote it",
            do="Start again with --overwrite, or use load_from to start from its weights.",
        )
    if state.get("identity") != identity(job):
        config = {key: value for key, value in job.to_yaml().items() if key not in LEFT_OUT}
        differing = _differences(state.get("config", {}), config)
        raise UserError(
            f"{path} is of another config; differing: {', '.join(differing) or 'weights that the config points to'}",
            do="Restore the config, or start again with --overwrite.",
        )
    return state


def _differences(old: Any, new: Any, key: str = "") -> list[str]:
    """The keys at which two configs differ, with both values; files of weights are left out."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            difference
            for name in new
            if name not in ("ckp_path", "load_from", "load_head_from")
            for difference in _differences(old.get(name), new[name], f"{key}.{name}".lstrip("."))
        ] + [f"{key}.{name}".lstrip(".") for name in old if name not in new and key]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            difference
            for i, pair in enumerate(zip(old, new, strict=True))
            for difference in _differences(*pair, f"{key}.{i}")
        ]
    return [] if old == new else [f"{key} ({shortened(old)} there, {shortened(new)} here)"]
