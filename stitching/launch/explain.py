"""Why a run of a plan has its state: what differs in config, weights or code from a finished run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stitching.config.errors import UserError, unknown_name
from stitching.config.job_config import JobSettings
from stitching.config.job_files import checkpoints_of
from stitching.config.plugins import plugin_digests
from stitching.launch.status import RunStatus, sweep_status
from stitching.launch.stored_code import user_code_of
from stitching.runs.code import code_digest
from stitching.runs.folder import RunFolder
from stitching.runs.identity import file_digest, identity_config
from stitching.runs.kinds import kind_of, recorded_job
from stitching.runs.state import forgotten_runs
from stitching.sweeps.plan import Plan, PlannedRun

__all__ = ["explain"]


def explain(plan: Plan, name: str) -> list[str]:
    """Lines that explain the state of the run (or stitch) called `name`.

    Raises:
        UserError: the plan has no such run.
    """
    run = next((entry for entry in plan.entries if entry.name == name), None)
    if run is None:
        if name in forgotten_runs(plan.folder, []):
            return [f"{name} is no longer in the sweep; its folder {plan.folder / name} is left as it is"]
        raise unknown_name(
            f"run in the sweep {plan.name}", name, [entry.name for entry in plan.entries], path=("--explain",)
        )
    if run.declined:
        return [f"{name} is declined: {run.declined}"]
    if run.same_as:
        return [f"{name} is the same network as {run.same_as}, which stands for both", *explain(plan, run.same_as)]
    (status,) = sweep_status(plan.folder, [plan.expected(run)])
    return [_headline(status), *_reasons(plan, run, status)]


def _headline(status: RunStatus) -> str:
    words = {"missing": "new"}.get(status.state, status.state)
    return f"{status.name} is {words}" + (f": {status.words}" if status.words else "")


def _reasons(plan: Plan, run: PlannedRun, status: RunStatus) -> Iterator[str]:
    assert run.job is not None
    folder = plan.folder_of(run)
    if status.state == "missing":
        nearest = _nearest_finished(plan, run)
        if nearest is None:
            yield f"no other run in {plan.folder} is finished that is of the same {', '.join(run.subject) or 'network'}"
            return
        other, differences = nearest
        yield f"the nearest finished run is {other}; from that to this one change:"
        yield from differences
        return
    metadata = folder.read_metadata() or {}
    differences = _differences(metadata, run.job)
    if status.state == "stale":
        yield f"what is in {folder.path} was made with identity {metadata.get('identity')}, this is {run.identity}:"
        yield from differences or ["  nothing that is on record; an older version of the code computed it"]
    code = (metadata.get("code") or {}).get("digest")
    if code and code != code_digest():
        yield f"it was made by code {code}, this is {code_digest()}: that alone does not make it new"
    if status.state == "failed" and folder.log.is_file():
        yield f"its log: {folder.log}"


def _nearest_finished(plan: Plan, run: PlannedRun) -> tuple[str, list[str]] | None:
    """The finished run of the same stitch from which the fewest keys differ, and these keys."""
    assert run.job is not None
    differences_of = []
    same_subject = [other for other in plan.runs if other.subject == run.subject and other.name != run.name]
    control = run.subject.get("control")
    folders = [plan.folder_of(other) for other in same_subject]
    folders += [
        RunFolder.found_in(plan.folder / name) for name in forgotten_runs(plan.folder, (r.name for r in plan.runs))
    ]
    for folder in folders:
        metadata = folder.read_metadata() or {}
        is_alike = all(metadata.get(key) == value for key, value in (*run.subject.items(), ("control", control)))
        if metadata.get("state") == "done" and is_alike:
            differences_of.append((folder.path.name, _differences(metadata, run.job)))
    return min(differences_of, key=lambda named: len(named[1]), default=None)


def _differences(metadata: Mapping[str, Any], job: JobSettings) -> list[str]:
    """The keys of the resolved config and the weights that differ from those in `metadata`, a line each."""
    try:
        recorded = recorded_job(metadata.get("config"))
        before = identity_config(recorded)
    except (ValueError, UserError):
        return ["  its config is not on record in a form that this version reads"]
    then, now = _flat(before), _flat(identity_config(job))
    lines = [
        f"  {key}: {_shown(then, key)} there, {_shown(now, key)} here"
        for key in sorted(then.keys() | now.keys())
        if then.get(key) != now.get(key)
        and not key.endswith(("ckp_path", "load_from", "load_head_from"))
        and not key.startswith("plugins")
    ]
    lines += _differences_of_code(recorded, job)
    files = metadata.get("weights") or {}
    digests = {name: str(file.get("sha256")) for name, file in files.items() if isinstance(file, dict)}
    for path in checkpoints_of(job, *kind_of(job).networks(job)):
        digest = file_digest(path)
        if digests and digest not in digests.values():
            before_digest = digests.get(path)
            was = (
                f"{before_digest[:8]} there, {digest[:8]} here" if before_digest else "not among those it was made from"
            )
            lines.append(f"  the weights in {Path(path)}: {was}")
    return lines


def _differences_of_code(recorded: JobSettings, job: JobSettings) -> Iterator[str]:
    """The files of a user's (`plugins:`, `module:`) whose code differs, a line each."""
    then, now = _digests_of_code(recorded), _digests_of_code(job)
    for name in sorted(then.keys() | now.keys()):
        if then.get(name) != now.get(name):
            yield f"  the code in {name}: {then.get(name, 'not used')} there, {now.get(name, 'not used')} here"


def _digests_of_code(job: JobSettings) -> dict[str, str]:
    """By their names, as a copy lies in another folder."""
    digests = {}
    for path in user_code_of(job):
        try:
            (digest,) = plugin_digests([path])
        except UserError:
            digest = "no longer here"
        digests[Path(path).name] = digest
    return digests


def _flat(data: Any, key: str = "") -> dict[str, Any]:
    if isinstance(data, dict) and data:
        return {k: v for name, value in data.items() for k, v in _flat(value, f"{key}.{name}" if key else name).items()}
    if isinstance(data, list) and data:
        return {k: v for i, value in enumerate(data) for k, v in _flat(value, f"{key}.{i}").items()}
    return {key: data}


def _shown(values: dict[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "not set"
