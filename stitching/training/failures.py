"""Exceptions that end runs: their cause, and the reason to record."""

from __future__ import annotations

import errno
import gc
import re

import torch

from stitching.config.errors import UserError, first_line
from stitching.runs.causes import DIVERGED, ERROR, OUT_OF_MEMORY

__all__ = ["Diverged", "OutOfMemory", "as_user_error", "cause_of", "failure_reason", "free_memory"]

# torch has an exception of its own only for the GPU's allocator. Its CPU allocator, CUDA itself, cuBLAS and cuDNN raise
# RuntimeErrors whose text says it.
_NO_MEMORY = re.compile(r"out of memory|not enough memory|can(?:'t|not) allocate memory|_ALLOC_FAILED")


class Diverged(UserError):
    """A run's loss is not a finite number since `step`; it is the same in all processes that train the run."""

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(
            f"diverged at step {step}: the loss is {loss:g}", do="Try a smaller lr, a warm-up, or max_grad_norm."
        )
        self.step = step


class OutOfMemory(UserError):
    """There was not enough memory, on the GPU or on the machine."""


def cause_of(error: BaseException) -> str:
    """Why a run failed that `error` ended: `out of memory`, `diverged` or `error`.

    Its own causes count too: a check that calls foreign code raises an error of its own for whatever goes wrong there,
    which may have been the memory.
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
        return error.errno == errno.ENOMEM  # too little to start a process
    return isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error)))


def failure_reason(error: BaseException) -> str:
    """What went wrong, in one line."""
    return first_line(error) if isinstance(error, UserError) else f"{type(error).__name__}: {first_line(error)}"


def as_user_error(error: Exception) -> Exception:
    """The error, or an `OutOfMemory` with advice for the user in place of one that says so."""
    if isinstance(error, UserError) or cause_of(error) != OUT_OF_MEMORY:
        return error
    return OutOfMemory(
        f"there is not enough memory: {first_line(error)}",
        do="Make batch_size smaller, set `precision: bf16`, or use a machine with more memory.",
        path=("train_config", "batch_size"),
    )


def free_memory() -> None:
    """Free the memory of objects that nothing refers to any more; networks are full of reference cycles."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
