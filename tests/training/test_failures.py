"""What an exception that ends a run means."""

from __future__ import annotations

import errno

import numpy as np
import pytest
import torch

from stitching.config.errors import UserError
from stitching.training.failures import Diverged, cause_of, failure_reason


def _raised(function) -> BaseException:
    with pytest.raises(BaseException) as told:  # noqa: PT011 - whatever it is
        function()
    return told.value


def _reworded() -> None:
    try:
        torch.empty(2**60)
    except Exception as error:
        raise UserError(f"AdamW: {error}") from None


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: out of memory"),
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        _raised(lambda: torch.empty(2**60)),  # in the words of the CPU's allocator, whatever they are in this version
        _raised(lambda: np.empty(2**57, np.uint8)),
        _raised(_reworded),
    ],
    ids=lambda error: type(error).__name__,
)
def test_out_of_memory_however_it_is_said(error):
    assert cause_of(error) == "out of memory"


@pytest.mark.parametrize(
    ("error", "cause", "reason"),
    [
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "error", "RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
        (OSError(errno.ENOSPC, "No space left on device"), "error", "OSError: [Errno 28] No space left on device"),
        (UserError("image 7 cannot be read", do="Mend it."), "error", "image 7 cannot be read"),
        (ValueError(), "error", "ValueError: ValueError"),
        (Diverged(7, float("nan")), "diverged", "diverged at step 7: the loss is nan"),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_other_failures(error, cause, reason):
    assert (cause_of(error), failure_reason(error)) == (cause, reason)
