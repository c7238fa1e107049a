"""Networks that were fine-tuned, read from the configs of their trainings: an encoder, a head, and a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stitching.config.bounds import PathText
from stitching.config.errors import UserError, at
from stitching.config.job_config import Job
from stitching.config.job_files import override
from stitching.config.parts import BasePart
from stitching.config.paths import check_regular_file, resolved_path
from stitching.config.schema import Schema
from stitching.config.script_text import ScriptText
from stitching.config.yaml import Document, load_yaml, located
from stitching.models.weights import check_weights
from stitching.nets.parts.composite import AssemblyPart
from stitching.runs.folder import RunFolder
from stitching.runs.kinds import marked_kind
from stitching.sweeps.grid_values import fit_for_a_folder
from stitching.training.load_parts import only_model

__all__ = ["FineTuned", "FineTunedEntry", "read_fine_tuned"]


class FineTunedEntry(Schema):
    """A fine-tuned network: the config of its training."""

    config: PathText
    """The config.yml of the training."""
    checkpoint: PathText | None = None
    """Its checkpoint; by default where the training leaves it, with `save_checkpoints: true`."""
    name: ScriptText | None = None
    """What the network is called; by default the name of the config's file, or of its folder for a `config.yml`."""


@dataclass(frozen=True)
class FineTuned:
    """One fine-tuned network.

    Attributes:
        name: in tables.
        document: its config.
        job: its training.
        encoder: its parts but the head.
        head: its head; None where the encoder is a whole model with its classifier.
        checkpoint: the file of its weights.
    """

    name: str
    document: Document
    job: Job
    encoder: Sequence[BasePart]
    head: BasePart | None
    checkpoint: str

    @property
    def assembly(self) -> AssemblyPart | None:
        """The part that both are in, if there is one."""
        return self.job.network if isinstance(self.job.network, AssemblyPart) else None


def read_fine_tuned(entry: FineTunedEntry, folder: Path, changes: Mapping[str, tuple[Any, str]]) -> FineTuned:
    """A network from what a cross test says of it.

    Args:
        entry: says it.
        folder: which its paths start from.
        changes: job keys with their values and where these are written; they override those of the config.

    Raises:
        UserError: with the key in `entry`, or with file and line of the config.
    """
    with at("config"):
        path = resolved_path(entry.config, folder)
        check_regular_file(path)
    document = load_yaml(path)
    name = entry.name or fit_for_a_folder(path.parent.name if path.stem == "config" else path.stem)
    with located(document):
        kind = marked_kind(document)
        job = kind.read(document)
        if not isinstance(job, Job):
            raise UserError(f"this is a job of the kind {kind.name}", allowed="a training of one network")
        encoder, head = _encoder_and_head(job)
        if len(job.train_config.task_list) > 1:
            raise UserError(
                f"{len(job.train_config.task_list)} data sets, and a head is of one", allowed="one data set",
                path=("train_config", "tasks"),
            )  # fmt: skip
    checkpoint = str(resolved_path(entry.checkpoint, folder)) if entry.checkpoint else _left_by(job, path)
    with at("checkpoint" if entry.checkpoint else "config"):
        check_weights(checkpoint)
    for key, (value, origin) in changes.items():
        override(document, key, value, origin)
    with located(document):
        return FineTuned(name, document, kind.read(document), encoder, head, checkpoint)


def _encoder_and_head(job: Job) -> tuple[Sequence[BasePart], BasePart | None]:
    network, key = job.network, "model" if job.model else "assembly"
    has_formats = network.in_format or network.out_format
    if (model := only_model(network)) and not has_formats:
        return [model], None
    if isinstance(network, AssemblyPart) and not has_formats:
        if network.head is not None:
            return network.parts, network.head
        if len(network.parts) > 1 and network.parts[-1].is_head:
            return network.parts[:-1], network.parts[-1]
    raise UserError(
        "the network has no head of its own to combine with other encoders",
        allowed="`Assembly: {parts: [...], head: {ClassifierHead: {}}}` without in_format and out_format, or one `Net`",
        path=(key,),
    )  # fmt: skip


def _left_by(job: Job, path: Path) -> str:
    """The checkpoint that a training has left: in its `save_dir`, or beside its config."""
    folder = RunFolder(Path(job.save_dir) if job.save_dir else path.parent, job.metrics_output)
    with at("config"):
        state = (folder.read_metadata(brief=True) or {}).get("state", "done")
        if not folder.checkpoint.exists() or state != "done":
            raise UserError(
                f"the training of {path} has left no checkpoint {folder.checkpoint}" if state == "done"
                else f"the training in {folder.path} is not done: {state}",
                do=f"Train with `save_checkpoints: true`: stitching train -c {path}\n  "
                "Or name another file: `{config: ..., checkpoint: ...}`.",
            )  # fmt: skip
    return str(folder.checkpoint)
