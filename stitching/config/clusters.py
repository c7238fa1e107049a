"""The schema of sbatch/clusters.yml: named profiles that say what a job asks Slurm for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from stitching.config.bounds import Count, Positive
from stitching.config.errors import unknown_name
from stitching.config.job_files import project_root
from stitching.config.schema import Schema, complaint, validated
from stitching.config.script_text import ScriptText, check_script_text
from stitching.config.yaml import Document, load_yaml

__all__ = ["Profile", "load_profile"]

# Options that the launcher needs for itself. With another value it would not hear of the job that it has submitted,
# or not find its log.
_OWN_OPTIONS = (
    "array", "clusters", "error", "help", "job-name", "open-mode", "output", "parsable", "quiet", "test-only", "usage",
    "version", "wait", "wrap",
)  # fmt: skip


def _check_options(options: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
    for key, value in options.items():
        name = key.replace("_", "-")  # as submitit writes it
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", name):
            raise complaint(f"{key!r} is no option of sbatch", "a long name without its dashes, such as qos or exclude")
        if any(own.startswith(name) for own in _OWN_OPTIONS):  # sbatch knows an option by its first letters, too
            raise complaint(
                "the launcher sets this option itself", f"any option of sbatch but {', '.join(_OWN_OPTIONS)}",
                do="array_parallelism limits how many tasks of an array run at once.", key=key,
            )  # fmt: skip
        if isinstance(value, str):
            check_script_text(value, key=key)
    return options


Options = Annotated[dict[str, str | int | bool], AfterValidator(_check_options)]


Machinery = Annotated[Count, Field(le=10_000)]
SignalSeconds = Annotated[Count, Field(le=65_535)]  # as sbatch's --signal takes them


class Profile(Schema):
    """What every task of a sweep asks for. What is left out is as the cluster's defaults say."""

    partition: ScriptText | None = None
    constraint: ScriptText | None = None
    account: ScriptText | None = None
    gpus: Annotated[int, Field(ge=0, le=10_000)] = 0  # for the task, all its processes together
    processes: Machinery = 1  # that share the work of each task, on one machine; as many as GPUs, if there are any
    cpus: Machinery = 1  # for each process
    memory_gb: Annotated[Positive, Field(le=10**6)] | None = None
    minutes: Annotated[Count, Field(le=10**7)] = 24 * 60
    signal_seconds: SignalSeconds = 90  # before the time limit, a job is asked to save and go back to the queue
    array_parallelism: Annotated[Count, Field(le=10**6)] = 100  # how many tasks of an array run at once
    setup: list[str] = []  # shell commands before the job, such as `source /shared/venv/bin/activate`
    sbatch: Options = {}  # any other option of sbatch: {qos: long, nice: 100}


def load_profile(name: str, sweep: Path, changes: dict[str, object]) -> Profile:
    """The profile `name` of the checkout that `sweep` lies in, with values that the command line changes.

    Raises:
        UserError: with file and line: there is no such file or profile, or something in it is wrong.
    """
    path = project_root(sweep.parent) / "sbatch" / "clusters.yml"
    if not path.is_file():
        unknown = unknown_name("cluster", name, ["local"], path=("--cluster",))
        unknown.do = f"profiles of Slurm clusters are looked for in {path}, which does not exist"
        raise unknown
    document = load_yaml(path)
    known = document.data if isinstance(document.data, dict) else {}
    if name not in known:
        raise unknown_name("cluster", name, ["local", *known], path=("--cluster",))
    for key, value in changes.items():
        document.override((name, *key.split(".")), value, f"command line ({key})")
    places = {keys[1:]: place for keys, place in document.places.items() if keys[:1] == (name,)}
    return validated(Profile, Document(document.path, known[name] or {}, places))
