"""What an exception that ends a run means: its cause, and the words that go on record."""

from __future__ import annotations

import errno
import re

import torch

from stitching.config.errors import UserError

__all__ = ["DIVERGED", "ERROR", "OUT_OF_MEMORY", "Diverged", "cause_of", "reason_of"]

# Of the causes that `status` knows, those that an exception can have.
ERROR = "error"
OUT_OF_MEMORY = "out of memory"
DIVERGED = "diverged"

# torch has an exception of its own only for the GPU's allocator. Its CPU allocator, CUDA itself, cuBLAS and cuDNN raise
# RuntimeErrors that say it in words.
_NO_MEMORY = re.compile(r"out of memory|not enough memory|can(?:'t|not) allocate memory|_ALLOC_FAILED")


class Diverged(UserError):
    """A run's loss is not a finite number any more."""

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(
            f"diverged at step {step}: the loss is {loss:g}", do="Try a smaller lr, a warm-up, or max_grad_norm."
        )


def cause_of(error: BaseException) -> str:
    """Why a run failed that `error` ended: `out of memory`, `diverged` or `error`.

    What `error` was raised for counts too: a check that calls foreign code tells whatever goes wrong there in its own
    words, and that may have been the memory.
    """
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, Diverged):
            return DIVERGED
        if _is_out_of_memory(link):
            return OUT_OF_MEMORY
        link = link.__cause__ or link.__context__
    return ERROR


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):  # numpy's is a MemoryError
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM  # no room to start a process in
    return isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error)))


def reason_of(error: BaseException) -> str:
    """One line that says what went wrong."""
    words = (str(error).strip() or type(error).__name__).splitlines()[0]
    return words if isinstance(error, UserError) else f"{type(error).__name__}: {words}"
