"""Reading a model's weights from a file."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stitching.config.errors import UserError, first_line
from stitching.config.paths import check_regular_file

__all__ = ["check_weights", "load_weights", "read_weights"]

CHECK_MODEL = "Check that the file is of this model, with the same arguments (num_classes, img_size, ...)."
_WRAPPERS = ("model", "state_dict")  # keys under which training scripts keep the weights
_FIRST_PART = "parts.0.net."  # of the keys of a network's first part, which may be a whole model
_PREFIXES = ("module.", "net.", _FIRST_PART)  # of DataParallel, of a wrapper, and ours

Adapt = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], dict[str, Tensor]]


def load_weights(
    module: nn.Module, path: str | Path, title: str, *, strict: bool = True, do: str | None = CHECK_MODEL,
    adapt: Adapt | None = None,
) -> str:  # fmt: skip
    """Load a state dict into a model, or into a network; no code in the file is run.

    The file holds a state dict, or a dict with one under `model` or `state_dict`. Its keys may begin with `module.` or
    `net.`, or be those of the model that is a network's first part.

    Args:
        module: the model or network.
        path: of the file.
        title: what messages call the module.
        strict: all weights must be there and fit; else those that fit are loaded, of which there must be some.
        do: what the user can do where they do not fit.
        adapt: makes what is in the file a state dict of the module; its arguments are both.

    Returns:
        A line for the log: how much was loaded, and what was not.

    Raises:
        UserError: if the file cannot be read or does not fit; names the file, how many keys differ and the first few.
    """
    expected = module.state_dict()
    weights = _with_keys_of(expected, read_weights(path))
    if adapt:
        weights = adapt(weights, expected)
    other_shape = [key for key in expected if key in weights and weights[key].shape != expected[key].shape]
    differences = {
        "missing from the file": [key for key in expected if key not in weights],
        "unknown to the model": [key for key in weights if key not in expected],
        "of another shape": [
            f"{key} ({_size(weights[key])} in the file, {_size(expected[key])} in the model)" for key in other_shape
        ],
    }
    listed = "; ".join(
        f"{len(keys)} {words}: {', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''}"
        for words, keys in differences.items()
        if keys
    )
    fitting = {key: value for key, value in weights.items() if key in expected and key not in other_shape}
    if listed and (strict or not fitting):
        raise UserError(f"the weights in {path} do not fit {title}: {listed}", do=do)
    module.load_state_dict(fitting, strict=False)
    return f"loaded {len(fitting)} of {len(expected)} tensors from {path}" + (f"; {listed}" if listed else "")


def _with_keys_of(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights, with a prefix added to or removed from their keys where more of them are expected ones then."""
    candidates = [
        dict(weights),
        {f"{_FIRST_PART}{key}": value for key, value in weights.items()},
        *({key.removeprefix(prefix): value for key, value in weights.items()} for prefix in _PREFIXES),
    ]
    return max(candidates, key=lambda candidate: len(candidate.keys() & expected.keys()))


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a file, on the CPU; raises as `load_weights` does."""
    check_regular_file(path)
    try:
        _check_sums(path)
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # a damaged file can raise anything
        reason = getattr(error, "strerror", None) or first_line(error)
        if isinstance(error, pickle.UnpicklingError):  # torch's message advises to trust the file
            reason = "it is damaged, or holds more than tensors"
        raise UserError(
            f"cannot read the weights in {path}: {reason}", allowed="a file that torch.save wrote from a state dict"
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


def check_weights(path: str | Path) -> None:
    """Raise as `read_weights` does; a file that has not changed since it was read is not read again."""
    status = check_regular_file(path)
    _try_to_read(str(path), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1024)
def _try_to_read(path: str, _modified: int, _size: int) -> None:
    read_weights(path)


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
