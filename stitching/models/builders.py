"""The border to the constructors of models, most of them other people's: what they are given, and what they raise.

The arguments are a user's, and a constructor may do anything with one that it was not written for: raise whatever its
first wrong step raises, build for hours, or fill the memory.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import psutil
import timm
import torchvision
from timm.models._builder import build_model_with_cfg
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from stitching.config.errors import UserError, at, reason_of, unknown_name
from stitching.models.convnet import ConvNet

__all__ = ["LOCAL", "bounded", "check_argument", "construct", "not_built", "shown", "sides"]

LOCAL: dict[str, Callable[..., nn.Module]] = {"convnet": ConvNet}

LARGEST_NUMBER = 100_000  # of an argument; the largest in use are numbers of classes, up to 21,843
LARGEST_SIDE = 4096  # of an image, in pixels
MOST_LAYERS = 10_000  # modules and parameters; the largest models of timm have 3,500
MOST_BYTES = 80 * 10**9  # of parameters; the largest model of timm has 27 GB


def check_argument(backend: str, model: str, key: str, value: Any) -> Any:
    """An argument of a model's constructor as something hashable: lists become tuples.

    Raises:
        UserError: it loads weights past `ckp_path`, is no plain value, or is a number that no model is made for.
    """
    with at(key):
        if key in _loading_arguments(backend, model) or re.match(r"(pretrained|checkpoint|weights)_(?!window)", key):
            raise UserError(
                f"{key!r} is for whoever builds and loads a model, and no argument of {backend}/{model} itself",
                do="A file of weights is given as `ckp_path`; published ones as `model_name: resnet50.a1_in1k` (timm) "
                "or `weights: IMAGENET1K_V1` (torchvision).",
            )
        return _plain(key, value)


def _plain(key: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_plain(key, item) for item in value)
    if isinstance(value, int | float) and not abs(value) <= LARGEST_NUMBER:  # NaN is no number, either
        raise UserError(f"the model's argument {key!r} is {value}", allowed=f"numbers up to {LARGEST_NUMBER:,}")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UserError(
        f"the model's argument {key!r} is {type(value).__name__}", allowed="a number, text, true, false or a list"
    )


@lru_cache(maxsize=256)
def _loading_arguments(backend: str, model: str) -> frozenset[str]:
    """What the functions around a model's constructor take for themselves: files of weights, caches and the like."""
    around: list[Callable[..., Any]] = []
    if backend == "timm":
        around = [timm.create_model, build_model_with_cfg]
    elif backend == "torchvision":
        around = [torchvision.models.get_model_builder(model)]
    parameters = [parameter for function in around for parameter in inspect.signature(function).parameters.values()]
    return frozenset(parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD)


def sides(key: str, value: Any) -> tuple[int, int]:
    """(height, width) of the images that an argument such as `img_size` names."""
    pair = value if isinstance(value, tuple) else (value, value)
    if len(pair) != 2 or not all(type(side) is int and 0 < side <= LARGEST_SIDE for side in pair):
        found = list(value) if isinstance(value, tuple) else value
        raise UserError(
            f"{key} is {found}", path=(key,), allowed=f"a side or [height, width], whole numbers up to {LARGEST_SIDE:,}"
        )
    return pair


def construct(backend: str, name: str, weights: str | None, args: Mapping[str, Any]) -> nn.Module:
    """The model that its own library builds. Raises whatever that raises, and `ValueError` if it grows too large.

    Args:
        backend, name: which model.
        weights: what its library calls the published weights that it is to load; None for random ones.
        args: for its constructor.
    """
    with bounded():
        if backend == "timm":
            return timm.create_model(name, pretrained=weights is not None, **args)
        if backend == "torchvision":
            if name in ("googlenet", "inception_v3"):
                args = {"init_weights": weights is None, **args}  # else it warns that the default will change
            return torchvision.models.get_model(name, weights=weights, **args)
        return LOCAL[name](**args)


@contextmanager
def bounded() -> Iterator[None]:
    """Stop with a `ValueError` when what the body builds has more layers or larger parameters than any known model."""
    layers, num_bytes = 0, 0
    memory = psutil.virtual_memory().total

    def count(_module: nn.Module, _name: str, made: nn.Module | Tensor | None) -> None:
        nonlocal layers, num_bytes
        layers += 1
        if layers > MOST_LAYERS:
            raise ValueError(f"it would have more than {MOST_LAYERS:,} layers and parameters")
        if isinstance(made, Tensor):
            num_bytes += made.numel() * made.element_size()
            allowed = MOST_BYTES if made.is_meta else min(MOST_BYTES, memory)
            if num_bytes > allowed:
                raise ValueError(f"its parameters would have more than {allowed / 1e9:.0f} GB")

    hooks = [register_module_module_registration_hook(count), register_module_parameter_registration_hook(count)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def not_built(title: str, args: Mapping[str, Any], error: Exception) -> UserError:
    """What to tell of arguments with which a model's constructor, or the model itself, raised `error`."""
    unknown = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    if unknown and unknown[2] in args and (known := _arguments_of(title, unknown[1])):
        return unknown_name(f"argument of {title}", unknown[2], known)
    return UserError(f"{title} cannot be built with {shown(args)}: {reason_of(error)}")


def shown(args: Mapping[str, Any]) -> str:
    """Arguments of a constructor as they stand in YAML."""
    return ", ".join(f"{key}: {list(value) if isinstance(value, tuple) else value}" for key, value in args.items())


def _arguments_of(title: str, class_name: str) -> list[str]:
    """The names that the constructor of a model's class takes; none if it is the class of a layer."""
    backend, name = title.split("/", 1)
    if backend == "timm":
        entry: Any = timm.models.model_entrypoint(name.partition(".")[0])
    elif backend == "torchvision":
        entry = torchvision.models.get_model_builder(name)
    else:
        entry = LOCAL[name]
    model_class = getattr(sys.modules[inspect.unwrap(entry).__module__], class_name, None)
    if model_class is None:
        return []
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p.name for p in inspect.signature(model_class).parameters.values() if p.kind in kinds]
