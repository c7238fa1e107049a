"""The published weights that runs start from, fetched by whoever submits: compute nodes often have no internet."""

from __future__ import annotations

from collections.abc import Iterable

from stitching.config.job_files import model_parts
from stitching.models.prefetch import fetch
from stitching.models.spec import ModelSpec
from stitching.models.traced_models import model_spec
from stitching.progress import ProgressCallback
from stitching.runs.kinds import kind_of
from stitching.sweeps.plan import PlannedRun

__all__ = ["fetch_weights", "weights_of"]


def weights_of(runs: Iterable[PlannedRun]) -> list[ModelSpec]:
    """The models whose published weights the runs need, each once."""
    jobs = [run.job for run in runs if run.job]
    networks = {id(part): part for job in jobs for part in kind_of(job).networks(job)}  # runs of a stitch share theirs
    parts = model_parts(*networks.values())
    wanting = {
        repr((part.title, part.weights, part.model_args)): part
        for part in parts
        if part.wants_pretrained and not part.ckp_path
    }
    return list(dict.fromkeys(map(model_spec, wanting.values())))


def fetch_weights(runs: Iterable[PlannedRun], on_progress: ProgressCallback = lambda *_: None) -> None:
    """Fetch what the runs need and this machine's caches lack.

    Args:
        runs: those that are about to be submitted.
        on_progress: is called with how many files are here, how many were lacking, and what is fetched now.

    Raises:
        UserError: lists all weights that cannot be downloaded.
    """
    fetch(weights_of(runs), on_progress)
