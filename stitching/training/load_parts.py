"""The checkpoints that a network starts from: one of all its weights, or one of its head and one of those before."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from stitching.config.errors import at
from stitching.config.job_config import Job
from stitching.config.parts import BasePart, ModelFields
from stitching.models.weights import load_weights
from stitching.nets.network import Network
from stitching.nets.parts.composite import AssemblyPart
from stitching.training.job_checks import Images, images_of, meta_network

__all__ = ["head_keys", "load_checkpoints", "only_model", "with_classes"]

_PART = re.compile(r"parts\.(\d+)\.")


def only_model(network: BasePart) -> BasePart | None:
    """The whole model that a network consists of, if it is nothing else."""
    row = [*network.parts, network.head] if isinstance(network, AssemblyPart) else [network]
    first, *others = [part for part in row if part is not None]
    return first if first.is_whole_model and not others else None


def with_classes(model: BasePart, classes: int) -> BasePart:
    """A whole model with another number of classes."""
    assert isinstance(model, ModelFields)
    return model.model_copy(update={"num_classes": classes})


def head_keys(job: Job, images: Images) -> list[str]:
    """The keys of the weights of a network's head: its last part.

    Of a network that is one whole model, those whose shapes depend on the number of classes.
    """
    shapes = _shapes(job, images)
    if model := only_model(job.network):
        other = _shapes(job.model_copy(update={"model": with_classes(model, sum(images.classes) + 1)}), images)
        return [key for key, shape in shapes.items() if other[key] != shape]
    last = _last_part(shapes)
    return [key for key in shapes if key.startswith(last)]


def _shapes(job: Job, images: Images) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in meta_network(job, images).state_dict().items()}


def _last_part(weights: Mapping[str, object]) -> str:
    """What the keys of a network's last part begin with."""
    return f"parts.{max((int(match[1]) for key in weights if (match := _PART.match(key))), default=0)}."


def load_checkpoints(network: Network, job: Job) -> list[str]:
    """Load `load_from` and `load_head_from` of a job; returns lines for the log.

    Raises:
        UserError: a file cannot be read, or does not fit.
    """
    own = set(head_keys(job, images_of(job))) if job.load_head_from else set()

    def before_head(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The file's weights but those of its head, in place of which the network's own stay."""
        encoder = {key: value for key, value in weights.items() if key not in own}
        return encoder | {key: value for key, value in expected.items() if key in own}

    def of_head(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The file's head as the network's, whose other parts stay."""
        if only_model(job.network):
            head = {key: value for key, value in weights.items() if key in own}
        else:
            theirs, ours = _last_part(weights), _last_part(expected)
            head = {ours + key.removeprefix(theirs): value for key, value in weights.items() if key.startswith(theirs)}
        return head | {key: value for key, value in expected.items() if key not in own}

    notes = []
    if job.load_from:
        do = "`strict_load: false` loads those that fit." if job.strict_load else None
        adapt = before_head if job.load_head_from else None
        with at("load_from"):
            loaded = load_weights(network, job.load_from, "the network", strict=job.strict_load, do=do, adapt=adapt)
        notes.append(f"before the head: {loaded}" if adapt else loaded)
    if job.load_head_from:
        with at("load_head_from"):
            load_weights(network, job.load_head_from, "the network's head", do=None, adapt=of_head)
        notes.append(f"the head is that of {job.load_head_from}")
    return notes
