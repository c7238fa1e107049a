"""Checkpoints on disk: reading them safely, and fitting their weights into a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stitching.config.errors import UserError
from stitching.config.identity import LEFT_OUT, identity
from stitching.config.job import Job
from stitching.nets.weights import read_weights

__all__ = ["load_weights", "read_checkpoint"]


def read_checkpoint(path: Path, job: Job) -> dict[str, Any]:
    """A training checkpoint, if it is whole and of `job`.

    Raises:
        UserError: it cannot be read, is no training checkpoint, or is of another config.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}") from None
    except Exception as error:  # a damaged file can raise anything
        words = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"cannot read the checkpoint {path}: {words}", do="Remove it to start again.") from None
    if not isinstance(state, dict) or "place" not in state:
        raise UserError(
            f"{path} holds weights, but no place in a training", do="Use load_from to start from its weights."
        )
    if state["identity"] != identity(job):
        config = {key: value for key, value in job.to_yaml().items() if key not in LEFT_OUT}
        differing = _differences(state["config"], config)
        raise UserError(
            f"{path} is of another config; differing: {', '.join(differing) or 'weights that the config points to'}",
            do="Put the config back, or start again with --overwrite.",
        )
    return state


def _differences(old: Any, new: Any, key: str = "") -> list[str]:
    """The keys below which two configs differ; files are compared by name here."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            found
            for name in new
            if name not in ("ckp_path", "load_from")
            for found in _differences(old.get(name), new[name], f"{key}.{name}".lstrip("."))
        ] + [f"{key}.{name}".lstrip(".") for name in old if name not in new and key]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            found for i, pair in enumerate(zip(old, new, strict=True)) for found in _differences(*pair, f"{key}.{i}")
        ]
    return [] if old == new else [f"{key} ({old} there, {new} here)"]


def load_weights(network: nn.Module, path: Path, *, strict: bool) -> list[str]:
    """Load a file's weights into a network.

    Keys may be the network's own, or those of the whole model that is its only or first part. Not strictly means: what
    is missing keeps its values, what is of another shape or unknown is left out, but something must fit.

    Returns:
        what to tell the user: what was loaded, and what was not.

    Raises:
        UserError: the file cannot be read, or its weights do not fit.
    """
    weights = read_weights(path)
    own = network.state_dict()
    if not any(key in own for key in weights):
        inner = {f"parts.0.net.{key}": value for key, value in weights.items()}
        weights = inner if any(key in own for key in inner) else weights
    missing = [key for key in own if key not in weights]
    unknown = [key for key in weights if key not in own]
    misshapen = [key for key, value in weights.items() if key in own and value.shape != own[key].shape]
    wrong = {"missing": missing, "unknown": unknown, "of another shape": misshapen}
    said = "; ".join(f"{len(keys)} {words} ({', '.join(keys[:3])})" for words, keys in wrong.items() if keys)
    fitting: dict[str, Tensor] = {key: weights[key] for key in weights if key in own and key not in misshapen}
    if said and (strict or not fitting):
        raise UserError(
            f"the weights in {path} do not fit: {said}",
            do="`strict_load: false` takes what fits." if strict else None,
        )
    network.load_state_dict(fitting, strict=False)
    return [f"loaded {len(fitting)} of {len(own)} tensors from {path}" + (f"; {said}" if said else "")]
