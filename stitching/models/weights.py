"""Reading a model's weights from a file."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stitching.config.errors import UserError, first_line
from stitching.config.paths import check_regular_file

__all__ = ["load_weights", "read_weights"]

_WRAPPERS = ("model", "state_dict")  # keys under which training scripts keep the weights
_PREFIXES = ("", "module.", "net.", "parts.0.net.")  # of DataParallel, of a wrapper, and ours for a whole model


def load_weights(model: nn.Module, path: str | Path, title: str) -> None:
    """Load a state dict into `model`; no code in the file is run.

    The file holds a state dict, or a dict with one under `model` or `state_dict`. A leading `module.` or `net.` of its
    keys is removed if they match then.

    Raises:
        UserError: if the file cannot be read or does not fit; names the file, how many keys differ and the first few.
    """
    state = read_weights(path)
    model_state = model.state_dict()
    candidates = [{key.removeprefix(prefix): value for key, value in state.items()} for prefix in _PREFIXES]
    state = max(candidates, key=lambda candidate: len(candidate.keys() & model_state.keys()))
    missing = [key for key in model_state if key not in state]
    unknown = [key for key in state if key not in model_state]
    other_shape = [
        f"{key} ({_size(state[key])} in the file, {_size(model_state[key])} in the model)"
        for key in model_state
        if key in state and state[key].shape != model_state[key].shape
    ]
    differences = {"missing from the file": missing, "unknown to the model": unknown, "of another shape": other_shape}
    if any(differences.values()):
        listed = "; ".join(
            f"{len(keys)} {words}: {', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''}"
            for words, keys in differences.items()
            if keys
        )
        raise UserError(
            f"the weights in {path} do not fit {title}: {listed}",
            do="Check that the file is of this model, with the same arguments (num_classes, img_size, ...).",
        )
    model.load_state_dict(state)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a file, on the CPU; raises as `load_weights` does."""
    check_regular_file(path)
    try:
        _check_sums(path)
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # a damaged file can raise anything
        words = getattr(error, "strerror", None) or first_line(error)
        if isinstance(error, pickle.UnpicklingError):  # torch's message advises to trust the file
            words = "it is damaged, or holds more than tensors"
        raise UserError(
            f"cannot read the weights in {path}: {words}", allowed="a file that torch.save wrote from a state dict"
        ) from None
    for key in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    if not isinstance(loaded, Mapping) or not all(map(_is_weight, loaded.keys(), loaded.values())):
        raise UserError(
            f"{path} holds no state dict", allowed="tensors by name, or these under the key `model` or `state_dict`"
        )
    return dict(loaded)


def _check_sums(path: str | Path) -> None:
    """Raise if a tensor is damaged. torch.save writes a CRC-32 of each; torch.load does not check them."""
    with open(path, "rb") as file:
        if file.read(2) != b"PK":  # torch's older format has no checksums
            return
        try:
            with zipfile.ZipFile(file) as archive:
                problem = f"the checksum of {name} does not fit" if (name := archive.testzip()) else None
        except Exception as error:  # a damaged archive can raise anything
            problem = first_line(error)
    if problem:
        raise UserError(
            f"cannot read the weights in {path}: they are damaged ({problem})",
            do="Copy it again, or train again.",
        )


def _is_weight(name: object, value: object) -> bool:
    """Whether an entry is a dense tensor with data, under a name."""
    if not isinstance(name, str) or not isinstance(value, Tensor):
        return False
    return value.layout is torch.strided and not (value.is_meta or value.is_quantized)


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
