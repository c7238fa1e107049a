"""Copies of users' own files that queued runs name, so that an edit of a file changes none of them.

Each content is stored once, beside the sweeps of its project: `experiments/PROJECT/.user-code/DIGEST/my_models.py`, and
the modules that it imports from beside it. An installed package is not copied.
"""

from __future__ import annotations

import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from stitching.config.errors import UserError
from stitching.config.job_files import model_parts
from stitching.config.user_code import user_code_digest, user_code_files
from stitching.runs.kinds import kind_of

__all__ = ["USER_CODE", "with_stored_code"]

USER_CODE = ".user-code"  # within a project's folder


def with_stored_code(job: Any, sweep: Path) -> Any:
    """The job with every file of a user's that it names replaced by a copy; the job itself if it names none.

    The copies have the same content, so the job's identity stays.

    Args:
        job: a job of any kind.
        sweep: the sweep's folder.

    Raises:
        UserError: a file cannot be read, or its copy cannot be written.
    """
    networks = kind_of(job).networks(job)
    if not job.plugins and not any(part.module for part in model_parts(*networks)):
        return job
    job = job.model_copy(deep=True)
    folder = sweep.absolute().parent / USER_CODE
    job.plugins = [_stored(name, folder) for name in job.plugins]
    for part in model_parts(*kind_of(job).networks(job)):
        if part.module:
            file, colon, function = part.module.rpartition(":")
            part.module = _stored(file, folder) + colon + function
    return job


def _stored(name: str, folder: Path) -> str:
    if not name.endswith(".py"):
        return name
    target = folder / user_code_digest(name, Path())
    if not target.is_dir():
        aside = folder / f".{target.name}-{secrets.token_hex(4)}.tmp"
        try:
            for path, content in user_code_files(name, Path()).items():
                (aside / path).parent.mkdir(parents=True, exist_ok=True)
                (aside / path).write_bytes(content)
            with suppress(FileExistsError):
                aside.rename(target)
        except OSError as error:
            if not target.is_dir():  # else another submit was faster
                raise UserError(f"cannot store {name} in {folder}: {error.strerror}") from None
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    stored = str(target / Path(name).name)
    if user_code_digest(stored, Path()) != target.name:
        raise UserError(f"{stored} is not what was stored there", do=f"Remove {target}, and submit again.")
    return stored
