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

__all__ = ["USER_CODE", "user_code_of", "with_stored_code"]

USER_CODE = ".user-code"  # within a project's folder


def with_stored_code(job: Any, identity: str | None, sweep: Path) -> Any:
    """The job with every file of a user's that it names replaced by a copy; the job itself if it names none.

    Args:
        job: a job of any kind.
        identity: that it was planned with. The copies are what runs, and they must have it, too.
        sweep: the sweep's folder.

    Raises:
        UserError: a file cannot be read or was edited since the job was planned, or its copy cannot be written.
    """
    names = user_code_of(job)
    if not names:
        return job
    job = job.model_copy(deep=True)
    folder = sweep.absolute().parent / USER_CODE
    job.plugins = [_stored(name, folder) for name in job.plugins]
    for part in model_parts(*kind_of(job).networks(job)):
        if part.module:
            file, colon, function = part.module.rpartition(":")
            part.module = _stored(file, folder) + colon + function
    if kind_of(job).identity(job) != identity:
        raise UserError(f"{' or '.join(names)} was edited while the sweep was planned", do="Submit again.")
    return job


def user_code_of(job: Any) -> list[str]:
    """The files and installed modules of a user's that a job names, each once."""
    modules = (part.module for part in model_parts(*kind_of(job).networks(job)) if part.module)
    return list(dict.fromkeys([*job.plugins, *(name.rpartition(":")[0] for name in modules)]))


def _stored(name: str, folder: Path) -> str:
    if not name.endswith(".py"):
        return name
    digest, files = user_code_files(name, Path())
    target = folder / digest
    if not target.is_dir():
        aside = folder / f".{target.name}-{secrets.token_hex(4)}.tmp"
        try:
            for path, content in files.items():
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
    if user_code_digest(stored, Path()) != digest:
        raise UserError(f"{stored} is not what was stored there", do=f"Remove {target}, and submit again.")
    return stored
