"""Keeping the failure of a run from the other runs of its loop."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import torch

from stitching.config.errors import UserError
from stitching.training.distributed import ProcessGroup
from stitching.training.failures import Diverged, as_user_error, cause_of, failure_reason
from stitching.training.run import Run
from stitching.training.run_record import record_end
from stitching.training.saving import save_checkpoint

__all__ = ["FailureHandler"]


class FailureHandler:
    """Records failures of runs, and keeps them from the other runs of the loop.

    Attributes:
        world: the processes that train the runs.
        raises: whether failures are raised, too: where there is one run only.
    """

    def __init__(self, world: ProcessGroup) -> None:
        self.world = world
        self.raises = False

    @contextmanager
    def isolate(self, run: Run) -> Iterator[None]:
        """A run that raises in the body is recorded as failed, and its memory is freed.

        With several processes the exception ends them all, unless they all raise it: none can continue alone.
        """
        try:
            yield
        except Exception as error:
            if self.world.size > 1 and not isinstance(error, Diverged):
                raise
            self._record(run, error)
            if self.raises:
                raise as_user_error(error)  # noqa: B904 - what it was raised for is its context

    def end_all(self, runs: Sequence[Run], error: Exception) -> None:
        """Record the failure of every run in the loop; of several processes, the first one that gets here does."""
        if self.world.size > 1 and not self.world.first_to_report():
            raise SystemExit(1) from None
        if isinstance(error, torch.distributed.DistError) or "gloo/" in str(error):
            error = UserError("another process of the job was lost", do="Its output may say why; then resume.")
        for run in runs:
            if run.failure is not None or run.ended:
                continue
            if self.world.size == 1:
                # What fails outside of a run's own work fails between two of its steps.
                with suppress(Exception):
                    save_checkpoint(run)
            run.writes = True  # the first process waits for this one, or is gone
            self._record(run, error)
        if self.raises:
            raise as_user_error(error)

    def _record(self, run: Run, error: Exception) -> None:
        run.failure, run.cause = failure_reason(error), cause_of(error)
        details = "" if isinstance(error, UserError) else "\n" + "".join(traceback.format_exception(error)).rstrip()
        with suppress(OSError):  # the disk may be what failed
            run.say(f"failed: {run.failure}{details}")
        with suppress(OSError, UserError):
            record_end(run, "failed")
        run.release()
