"""What an exception that ends a run means: its cause, the words that go on record, and which runs it ends."""

from __future__ import annotations

import errno
import gc
import re
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import torch

from stitching.config.errors import UserError, first_line
from stitching.runs.causes import DIVERGED, ERROR, OUT_OF_MEMORY
from stitching.training.run_record import record_end

if TYPE_CHECKING:
    from stitching.training.distributed import ProcessGroup
    from stitching.training.run import Run

__all__ = ["Diverged", "FailureHandler", "OutOfMemory", "cause_of", "failure_reason", "free_memory", "in_words"]

# torch has an exception of its own only for the GPU's allocator. Its CPU allocator, CUDA itself, cuBLAS and cuDNN raise
# RuntimeErrors that say it in words.
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


class FailureHandler:
    """Puts failures of runs on record, and keeps them from the other runs of the loop.

    Attributes:
        world: the processes that train the runs.
        raises: whether failures are raised, too, as there is one run only.
    """

    def __init__(self, world: ProcessGroup) -> None:
        self.world = world
        self.raises = False

    @contextmanager
    def isolate(self, run: Run) -> Iterator[None]:
        """A run that raises in the body is recorded as failed and gives its memory back.

        Of several processes none can go on without the others, unless they all raise this.
        """
        try:
            yield
        except Exception as error:
            if self.world.size > 1 and not isinstance(error, Diverged):
                raise
            self._record(run, error)
            if self.raises:
                raise in_words(error)  # noqa: B904 - what it was raised for is its context

    def end_all(self, runs: Sequence[Run], error: Exception) -> None:
        """Record what ends the loop for every run in it. Of several processes, the first to get here does."""
        if self.world.size > 1 and not self.world.first_to_tell():
            raise SystemExit(1) from None
        if isinstance(error, torch.distributed.DistError) or "gloo/" in str(error):
            error = UserError("another process of the job was lost", do="Its output may say why; then resume.")
        for run in runs:
            if run.failure is not None or run.ended:
                continue
            if self.world.size == 1:
                # What fails outside of a run's own work fails between two of its steps.
                with suppress(Exception):
                    run.save()
            run.writes = True  # the first process waits for this one, or is gone
            self._record(run, error)
        if self.raises:
            raise in_words(error)

    def _record(self, run: Run, error: Exception) -> None:
        run.failure, run.cause = failure_reason(error), cause_of(error)
        details = "" if isinstance(error, UserError) else "\n" + "".join(traceback.format_exception(error)).rstrip()
        with suppress(OSError):  # the disk may be what failed
            run.say(f"failed: {run.failure}{details}")
        with suppress(OSError, UserError):
            record_end(run, "failed")
        run.release()
