"""What an exception that ends a run means: its cause, and the words that go on record."""

from __future__ import annotations

import errno
import gc
import re

import torch

from stitching.config.errors import UserError, first_line
from stitching.runs.causes import DIVERGED, ERROR, OUT_OF_MEMORY

__all__ = ["Diverged", "OutOfMemory", "cause_of", "failure_reason", "free_memory", "in_words"]

# torch has an exception of its own only for the GPU's allocator. Its CPU allocator, CUDA itself, cuBLAS and cuDNN raise
# RuntimeErrors that say it in words.
_NO_MEMORY = re.compile(r"out of memory|not enough memory|can(?:'t|not) allocate memory|_ALLOC_FAILED")


class Diverged(UserError):
    """A run's loss is not a finite number any more; it is the same in all processes that train the run."""


class OutOfMemory(UserError):
    """There was not enough memory, on the GPU or on the machine."""


def cause_of(error: BaseException) -> str:
    """Why a run failed that `error` ended: `out of memory`, `diverged` or `error`.

    What `error` was raised for counts too: a check that calls foreign code tells whatever goes wrong there in its own
    words, and that may have been the memory.
    """
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, Diverged):
            return DIVERGED
        if isinstance(link, OutOfMemory) or _is_out_of_memory(link):
            return OUT_OF_MEMORY
        link = link.__cause__ or link.__context__
    return ERROR


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):  # numpy's is a MemoryError
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM  # no room to start a process in
    return isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error)))


def failure_reason(error: BaseException) -> str:
    """One line that says what went wrong."""
    return first_line(error) if isinstance(error, UserError) else f"{type(error).__name__}: {first_line(error)}"


def in_words(error: Exception) -> Exception:
    """What to raise in place of `error`: a message where it is one for the user, else `error` itself."""
    if isinstance(error, UserError) or cause_of(error) != OUT_OF_MEMORY:
        return error
    return OutOfMemory(
        f"there is not enough memory: {first_line(error)}",
        do="Make batch_size smaller, set `precision: bf16`, or use a machine with more memory.",
        path=("train_config", "batch_size"),
    )


def free_memory() -> None:
    """Give back the memory of what is not referred to any more; networks refer to themselves in circles."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
