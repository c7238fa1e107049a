"""The job kind `train`: one network, trained on one data set or on several side by side."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stitching.config.errors import UserError
from stitching.config.job_config import Job
from stitching.config.yaml import Document
from stitching.cutting.cost import Cost
from stitching.progress import ProgressCallback
from stitching.runs.folder import RunFolder
from stitching.runs.identity import network_digest, part_digest
from stitching.runs.kinds import KINDS, JobKind, Pace, Remember, RunOptions, RunRequest
from stitching.training.distributed import process_group
from stitching.training.job_checks import images_of, network_cost, try_names
from stitching.training.job_data import TaskData, shared_key
from stitching.training.run import Run
from stitching.training.run_record import device_name
from stitching.training.session import train

__all__ = ["TrainKind"]

TRIAL_STEPS, TRIAL_TESTS = 12, 4  # batches of a trial
WARM_UP = 4  # of the steps, which are slower and do not count


@KINDS.register("train")
class TrainKind(JobKind[Job]):
    """Every job whose YAML has no key of another kind."""

    name = "train"
    schema = Job

    def networks(self, job: Job) -> Sequence[Any]:
        return job.network, job.reference, job.objective

    def check(self, job: Job, remember: Remember) -> Cost:
        try_names(job)
        images = images_of(job)
        hooked = [m.output for m in job.metrics], [term.output for term in job.train_config.aux_losses]
        networks = network_digest(job), part_digest(job.teacher)
        made_from = ("job", images, job.unfrozen, job.reformat_options, hooked, job.test_only, *networks)
        return Cost(**remember(made_from, lambda: asdict(network_cost(job, images))))

    def share_key(self, job: Job) -> str:
        return shared_key(job)

    def run(self, requests: Sequence[RunRequest[Job]], options: RunOptions) -> list[Run]:
        return train(requests, options)

    def pace(self, job: Job) -> Pace:
        data = TaskData(job)
        steps, tests = data.batches_per_epoch, [len(batches) for _, sets in data.tests for batches in sets]
        config = job.train_config.model_copy(update={"epochs": 1, "max_batches": TRIAL_STEPS, "max_steps": None})
        trial = job.model_copy(update={"train_config": config, "save_checkpoints": False})
        with tempfile.TemporaryDirectory(prefix="stitching-trial-") as path:
            (run,) = train([RunRequest(trial, RunFolder(Path(path)))], max_test_batches=TRIAL_TESTS)
        if run.failure:
            raise UserError(run.failure)
        frame = run.log.dataframe()
        step_seconds = frame["Time/Step"] + frame["Time/Data"]
        per_step = float(step_seconds.iloc[min(WARM_UP, len(step_seconds) - 1) :].median())
        per_test = max(0.0, run.seconds - float(step_seconds.sum())) / sum(min(TRIAL_TESTS, each) for each in tests)
        return Pace(per_step * steps + per_test * sum(tests), steps, device_name(run.context.device))

    def smoke_test(self, document: Document, progress: ProgressCallback) -> str:
        """Train two batches, test two, save and load the checkpoint."""
        for key in ("epochs", "max_batches"):
            document.override(("train_config", key), {"epochs": 1, "max_batches": 2}[key], "--smoke-test")
        job = self.read(document)
        with tempfile.TemporaryDirectory(prefix="stitching-smoke-test-") as temporary:
            path = process_group().broadcast(lambda: temporary)
            job.start_epoch, job.resume_from, job.save_checkpoints = 0, None, True
            request = RunRequest(job, RunFolder(Path(path)))
            train([request], RunOptions(on_progress=progress), max_test_batches=2)
            again = RunOptions(resume=True, on_progress=progress)
            (run,) = train([request], again, max_test_batches=2)  # loads the checkpoint, and has nothing left to do
        return f"{run.step} training steps and a test on two batches."
