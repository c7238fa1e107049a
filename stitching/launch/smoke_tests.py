"""The smoke test of a sweep's file: every job of its plan, on a little data."""

from __future__ import annotations

from stitching.config.errors import UserError
from stitching.config.yaml import Document
from stitching.progress import ProgressCallback
from stitching.runs.one_job import Report, smoke_test_job
from stitching.sweeps.studies import make_plan, study_of

__all__ = ["smoke_test_sweep"]


def smoke_test_sweep(document: Document, on_progress: ProgressCallback, *, only_tests: bool) -> Report:
    """Try each run of the sweep in a document on a little data, without leaving a file.

    Raises:
        UserError: something in the sweep is wrong, or it is to be trained, which `submit` does.
    """
    if not only_tests:
        mark = next(mark for mark in study_of(document).marks if mark in document.data)
        raise UserError(
            "the file is a sweep of several jobs",
            do=f"`stitching submit {document.path} --cluster local` trains them here; --smoke-test tries each.",
            path=(mark,),
        )
    lines = []
    for run in make_plan(document).runs:
        report = smoke_test_job(Document(document.path, run.job.to_yaml()), on_progress)
        lines.append(f"{run.name}: {report.words}")
    return Report("\n".join(lines))
