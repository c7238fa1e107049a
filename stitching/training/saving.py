"""Writing the files of a run, and resuming it from its checkpoint. Of several processes only the first one writes."""

from __future__ import annotations

from typing import Any

from stitching.config.errors import UserError
from stitching.runs.causes import OUT_OF_MEMORY
from stitching.training.checkpoints import write_checkpoint
from stitching.training.failures import cause_of, failure_reason
from stitching.training.run import Run
from stitching.training.run_record import record_end

__all__ = ["end_run", "resume_run", "save_checkpoint", "save_result"]


def save_checkpoint(run: Run, *, whole: bool = False) -> None:
    """Write the checkpoint. `whole` adds the frozen parts, for others to load from.

    Raises:
        Diverged: a step since the last checkpoint was; no checkpoint is written then.
    """
    run.fetch()
    if run.writes:
        run.folder.check_traces(run.traces)
        write_checkpoint(run.folder, run.state(whole=whole))


def save_result(run: Run) -> None:
    """Write the dataframe of the steps so far."""
    if run.writes:
        run.folder.check_traces(run.traces)
        run.digests = run.log.save(run.folder.result)


def end_run(run: Run) -> None:
    """Write the final result; only then remove the checkpoints that are not to be kept."""
    save_result(run)
    if run.job.save_checkpoints:
        save_checkpoint(run, whole=True)
    record_end(run, "done")
    if run.writes:
        if not run.job.save_checkpoints:
            run.folder.checkpoint.unlink(missing_ok=True)
        run.folder.previous_checkpoint.unlink(missing_ok=True)
    run.ended = True


def resume_run(run: Run, state: dict[str, Any]) -> None:
    """Resume from a checkpoint of the same job, as `read_checkpoint` returns it.

    Raises:
        UserError: something in it is missing or wrong, as in those of another version of the package.
    """
    try:
        run.restore(state)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if cause_of(error) == OUT_OF_MEMORY:  # nothing is wrong with the checkpoint
            raise
        raise UserError(
            f"the checkpoint of {run.name} does not hold what a run resumes from ({failure_reason(error)})",
            do="Another version of this package may have written it: start again with --overwrite.",
        ) from None
    run.say(f"resumed at epoch {run.position.epoch}, step {run.step}")
