"""The identities of shipped jobs and of some runs of shipped sweeps, as they are and as they were written down.

An identity that changes makes finished runs train again. Where that is meant, because the numbers change too, write
them down anew, from the root of the repository:

    PYTHONPATH=. python tests/runs/golden_identities.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stitching.config.errors import ErrorCollector
from stitching.config.job_config import Job
from stitching.config.job_files import model_parts
from stitching.config.sweep import read_sweep
from stitching.config.yaml import Document, load_yaml
from stitching.runs.identity import identity
from stitching.runs.kinds import load_job
from stitching.sweeps.gaps_study import PART
from stitching.sweeps.plan import PlannedRun
from stitching.sweeps.plan_cache import PlanCache
from stitching.sweeps.studies import make_plan
from stitching.sweeps.variants import evaluation_only, make_variants

ROOT = Path(__file__).parents[2]
FILE = Path(__file__).with_suffix(".json")
JOBS = sorted(path for path in (ROOT / "experiments").glob("digits/*/config.yml"))
SWEEPS = sorted(path for path in (ROOT / "across-scales").glob("*.yml") if "models:" in path.read_text())


def identity_of_job(path: Path) -> str:
    """The identity of a shipped job, without the weights that it starts from: they are trained on each machine."""
    job = load_job(path)
    for part in model_parts(job.network):
        part.ckp_path = None
    return identity(job)


def shipped_sweep(path: Path) -> Document:
    """A shipped sweep, without weights that are trained on each machine, and with one gap, seed and four stitchers only."""
    document = load_yaml(path)
    for model in document.data["models"]:
        if isinstance(model, dict):
            model.pop("ckp_path", None)
    if "seeds" in document.data:
        document.override(("seeds",), document.data["seeds"][:1], "test")
    document.override(("gaps",), document.data["gaps"][1:2], "test")
    document.override(
        ("stitchers",), ["finetune", "downsample_then_linear", "downsample_then_block", "linear_no_downsample"], "test"
    )
    return document


def planned_runs(path: Path, known: PlanCache) -> list[PlannedRun]:
    """Of a shipped sweep's runs, one of each kind."""
    plan = make_plan(shipped_sweep(path), cache=known)
    kinds = {(run.stitch.stitcher, run.stitch.control): run for run in reversed(plan.runs)}
    return list(reversed(kinds.values()))


def job_of(sweep: Document, run: dict[str, Any]) -> Job:
    """The job of a run that was written down: its networks from there, everything else from the sweep."""
    (variant,) = make_variants(read_sweep(sweep), sweep, ErrorCollector())
    if run["only_tests"]:
        variant = evaluation_only(variant, variant.images)
    parts = {key: PART.validate_python(run[key]) for key in ("model", "reference") if run[key]}
    return Job.model_construct(**{**dict(variant.job), **parts})


def written_down() -> dict[str, Any]:
    """By the name of a job's file the identity; by the names of a sweep's file and of a run what `job_of` takes."""
    data: dict[str, Any] = json.loads(FILE.read_text())
    return data


def _as_data(run: PlannedRun) -> dict[str, Any]:
    assert run.job is not None
    config = run.job.to_yaml()
    return {
        "identity": run.identity,
        "only_tests": run.stitch.only_tests,
        "model": config["model"],
        "reference": config.get("reference"),
    }


def main() -> None:
    known = PlanCache()
    jobs = {str(path.relative_to(ROOT)): identity_of_job(path) for path in JOBS}
    runs = {f"{path.name} {run.name}": _as_data(run) for path in SWEEPS for run in planned_runs(path, known)}
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in (jobs | runs).items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
