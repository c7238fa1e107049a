"""metadata.yml: what the analysis groups runs by, and how far a run has come."""

from __future__ import annotations

import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from stitching.config.job_config import Job
from stitching.config.job_files import checkpoints_of, model_parts
from stitching.cutting.subnet import CutModule
from stitching.models.prefetch import weights_file
from stitching.models.spec import published_as
from stitching.models.traced_models import model_spec
from stitching.runs.folder import write_yaml
from stitching.runs.identity import file_digest
from stitching.runs.provenance import code_record
from stitching.training.run import Run

__all__ = ["device_name", "record_end", "record_start", "weights_record"]


_KEYS_OF_THE_END = ("failure", "cause", "ended", "digests", "final", "epoch")


def record_start(run: Run) -> None:
    """Write the metadata of a run that starts; other keys, such as those that a sweep has written, stay."""
    if not run.writes:
        return
    previous = run.folder.read_metadata() or {}
    run.metadata = {
        **{key: value for key, value in previous.items() if key not in _KEYS_OF_THE_END},
        "state": "running",
        "identity": run.identity,
        "seed": run.seed,
        **({"project": run.job.project} if run.job.project else {}),
        "parameters": run.cost.params,
        "macs": run.cost.macs,
        "macs_convention": "multiply-adds of convolutions, linear layers and both products of attention, one image",
        "trainable_parameters": run.cost.trainable,
        "total_steps": run.position.total_steps,
        "first_step": run.step,  # of this start
        "test_images": sum(batches.num_images for batches in run.context.data.test),
        **_validation(run),
        **_random_networks(run),
        "frozen_norm": run.job.frozen_norm,
        "adapter_init": run.job.adapter_init,
        "precision": run.job.precision,
        "device": device_name(run.context.device),
        "processes": run.context.world.size,
        "threads": torch.get_num_threads(),  # on a CPU their number changes the last bits of a result
        "host": platform.node(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "code": code_record(),
        "versions": _versions(),
        "weights": weights_record(run.job),
        "config": run.job.to_yaml(),
    }
    write_yaml(run.folder.metadata, run.metadata)
    run.traces = run.folder.traces()


def record_end(run: Run, state: str) -> None:
    """Write how the run ended: done, stopped or failed; for a done run its last test metrics."""
    if not run.writes or run.folder.is_of_another(run.traces):
        return
    metadata = {
        **(run.metadata or run.folder.read_metadata() or {}),  # the first process, which wrote it, may be gone
        "state": state,
        "ended": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    metadata["steps"] = run.step
    metadata["seconds"] = round(run.seconds, 3)  # its share of the loop's time
    if run.failure:
        metadata |= {"failure": run.failure, "cause": run.cause}
    if state == "done":
        metadata |= {"epoch": run.position.epoch - 1, "digests": run.digests, "final": run.final}
    write_yaml(run.folder.metadata, metadata)


def weights_record(job: Job) -> dict[str, dict[str, str]]:
    """The files of weights that the job's networks were built from, by the name of the model or of the file.

    Of published weights the repository (with its revision) or the URL, the tag, the file's name and its SHA-256; of a
    user's file its SHA-256 alone.
    """
    record: dict[str, dict[str, str]] = {}
    networks = job.network, job.reference, job.objective
    for part in model_parts(*networks):
        source = weights_file(model_spec(part))
        if source is None:
            continue
        name, tag = published_as(part)
        path = source.cached_path() or Path("missing")
        file = {"file": path.name, "sha256": file_digest(str(path))}
        record[f"{name}.{tag}"] = {**source.origin(), "tag": str(tag), **file}
    return record | {path: {"sha256": file_digest(path)} for path in checkpoints_of(job, *networks)}


def _random_networks(run: Run) -> dict[str, Any]:
    """How many images the BatchNorm statistics of each random model in the network are from."""
    cuts = [piece.net for piece in run.network.pieces if isinstance(piece.net, CutModule)]
    models = [(cut.cut_from[0], cut.statistics_images) for cut in cuts if cut.cut_from]
    random = {spec.title: {"bn_images": images} for spec, images in models if spec.random}
    return {"random_networks": random} if random else {}


def _validation(run: Run) -> dict[str, Any]:
    split = run.job.train_config.validation
    images = sum(batches.num_images for batches in run.context.data.val)
    return {"validation": {**split.model_dump(), "images": images}} if split else {}


def device_name(device: torch.device) -> str:
    """`cpu`, or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("stitching", "torch", "torchvision", "timm", "pandas"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "unknown"
    return versions
