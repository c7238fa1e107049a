"""The models that can be named: `timm/...`, `torchvision/...` and our own, `local/...`."""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import Any

import timm
import torch
import torchvision
from safetensors import SafetensorError
from torch import nn

from stitching.config.errors import UserError, at, unknown_name
from stitching.nets.convnet import ConvNet
from stitching.nets.fetching import fetch, source_of
from stitching.nets.shapes import Shape3, default_input_shape, meta_copy
from stitching.nets.weights import load_weights

__all__ = ["ModelSpec", "build", "build_meta", "input_shape", "normalization_note"]

_BACKENDS = {"timm": "timm", "torchvision": "torchvision", "pytorch": "torchvision", "local": "local"}
_LOCAL: dict[str, Callable[..., nn.Module]] = {"convnet": ConvNet}
_LOCAL_SIDE = 32  # our own models are for small images


@dataclass(frozen=True)
class ModelSpec:
    """Which model, with which weights. Hashable, so that what is built from it can be kept.

    Attributes:
        backend: timm, torchvision or local.
        name: the model's name there, for timm with the tag of its weights (`resnet50.a1_in1k`).
        pretrained: take the published weights; without effect if there is a `ckp_path`.
        ckp_path: a file of weights.
        args: arguments for the model's constructor, as (name, value) pairs; lists as tuples.
    """

    backend: str
    name: str
    pretrained: bool = False
    ckp_path: str | None = None
    args: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def parse(cls, title: str, *, pretrained: bool = False, ckp_path: str | None = None, **args: Any) -> ModelSpec:
        """The model that a title such as `timm/resnet50.a1_in1k` names; `pytorch/` means `torchvision/`.

        Raises:
            UserError: if there is no such backend, model or tag of weights; offers the nearest.
        """
        backend, slash, name = title.partition("/")
        if not slash:
            raise UserError(f"the model {title!r} names no backend", allowed="timm/NAME, torchvision/NAME, local/NAME")
        if backend not in _BACKENDS:
            raise unknown_name("backend", backend, _BACKENDS)
        backend = _BACKENDS[backend]
        _check_name(backend, name)
        frozen = tuple(sorted((key, _hashable(key, value)) for key, value in args.items()))
        return cls(backend, name, pretrained, ckp_path, frozen)

    @property
    def title(self) -> str:
        """`backend/name`."""
        return f"{self.backend}/{self.name}"


def build(spec: ModelSpec, seed: int = 0) -> nn.Module:
    """The model on the CPU, with its weights, in train mode.

    Random weights depend on (seed, spec) only, and the global random state stays as it was.

    Raises:
        UserError: for arguments that the model does not take, weights that cannot be fetched, and files of weights that
            cannot be read or do not fit.
    """
    fetch([spec])
    weightless = (spec.backend, spec.name, spec.args)
    digest = hashlib.sha256(repr((seed, weightless)).encode()).digest()
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        model = _construct(spec, pretrained=spec.pretrained and not spec.ckp_path)
    if spec.ckp_path:
        with at("ckp_path"):
            load_weights(model, spec.ckp_path, spec.title)
    return model


def build_meta(spec: ModelSpec) -> nn.Module:
    """The model on the meta device: its shapes, with no weights and no memory, and never over the network."""
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return _construct(spec, pretrained=False)
        except NotImplementedError:  # some constructors compute with tensors (torchvision's RegNet)
            with torch.device("cpu"):
                return meta_copy(_construct(spec, pretrained=False))


def input_shape(model: ModelSpec | nn.Module) -> Shape3:
    """(C, H, W) of the images that a model is for.

    For timm models as their configuration says, for torchvision's 224x224, for our own 32x32; the arguments `img_size`
    (`image_size` in torchvision) and `in_chans` have the last word.
    """
    if isinstance(model, nn.Module):
        return default_input_shape(model)
    channels, height, width = 3, 224, 224
    if model.backend == "timm":
        known = timm.get_pretrained_cfg(model.name)
        channels, height, width = known.input_size if known else (channels, height, width)
    if model.backend == "local":
        height = width = _LOCAL_SIDE
    args = dict(model.args)
    size = args.get("img_size", args.get("image_size"))
    if size is not None:
        height, width = size if isinstance(size, tuple) else (size, size)
    return args.get("in_chans", channels), height, width


def normalization_note(spec: ModelSpec, mean: Sequence[float], std: Sequence[float]) -> list[str]:
    """A warning, if published weights were trained on images that were normalised otherwise; else nothing.

    Args:
        spec: the model.
        mean, std: of each channel of the images it is given, scaled to 0..1.
    """
    if not spec.pretrained or spec.ckp_path or spec.backend == "local":
        return []
    if spec.backend == "timm":
        known: Any = timm.get_pretrained_cfg(spec.name)
    else:
        known = torchvision.models.get_model_weights(spec.name)["DEFAULT"].transforms()
    trained = [round(float(value), 3) for value in (*known.mean, *known.std)] if known else []
    if not trained or trained == [round(value, 3) for value in (*mean, *std)]:
        return []
    half = len(trained) // 2
    return [
        f"{spec.title} was trained with images of mean {trained[:half]} and std {trained[half:]}, here they have "
        f"{[round(v, 3) for v in mean]} and {[round(v, 3) for v in std]}: its accuracy may suffer. "
        "train_config.data_preprocessing takes mean and std"
    ]


def _check_name(backend: str, name: str) -> None:
    if backend == "local":
        names = list(_LOCAL)
    elif backend == "torchvision":
        names = torchvision.models.list_models(module=torchvision.models)
    else:
        architecture, dot, _ = name.partition(".")
        if not timm.is_model(architecture):
            raise unknown_name("model in timm", name, timm.list_models())
        names = timm.list_models(f"{architecture}.*", pretrained=True) if dot else [name]
    if name not in names:
        raise unknown_name(f"model in {backend}", name, names)


def _hashable(key: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_hashable(key, item) for item in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UserError(
        f"the model's argument {key!r} is {type(value).__name__}", allowed="a number, text, true, false or a list"
    )


def _construct(spec: ModelSpec, *, pretrained: bool) -> nn.Module:
    args = dict(spec.args)
    try:
        if spec.backend == "timm":
            model = timm.create_model(spec.name, pretrained=pretrained, **args)
        elif spec.backend == "torchvision":
            if spec.name in ("googlenet", "inception_v3"):
                args.setdefault("init_weights", not pretrained)  # else it warns that the default will change
            model = torchvision.models.get_model(spec.name, weights="DEFAULT" if pretrained else None, **args)
        else:
            model = _LOCAL[spec.name](**args)
    except TypeError as error:
        unknown = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
        if not spec.args:
            raise
        if not unknown or unknown[2] not in args:
            raise _not_built(spec, error) from None
        raise unknown_name(f"argument of {spec.title}", unknown[2], _arguments(spec, unknown[1])) from None
    except NotImplementedError:
        raise
    except (OSError, RuntimeError, ValueError, AssertionError, EOFError, SafetensorError, UnpicklingError) as error:
        if pretrained:
            raise _not_loaded(spec, error) from None
        if not spec.args:
            raise
        raise _not_built(spec, error) from None
    model.default_input_shape = input_shape(spec)  # type: ignore[assignment]
    return model


def _arguments(spec: ModelSpec, class_name: str) -> list[str]:
    """The names that the constructor of a model's class takes."""
    if spec.backend == "timm":
        entry: Any = timm.models.model_entrypoint(spec.name.partition(".")[0])
    elif spec.backend == "torchvision":
        entry = torchvision.models.get_model_builder(spec.name)
    else:
        entry = _LOCAL[spec.name]
    found = getattr(sys.modules[inspect.unwrap(entry).__module__], class_name)
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p.name for p in inspect.signature(found).parameters.values() if p.kind in kinds]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _not_built(spec: ModelSpec, error: Exception) -> UserError:
    given = ", ".join(f"{key}: {value}" for key, value in spec.args)
    return UserError(f"{spec.title} cannot be built with {given}: {_first_line(error)}")


def _not_loaded(spec: ModelSpec, error: Exception) -> UserError:
    source = source_of(spec)
    place = source.found() if source else None
    return UserError(
        f"the pretrained weights of {spec.title} cannot be loaded"
        + (f" from {place}" if place else "")
        + f": {_first_line(error)}",
        do="Remove the file if it is damaged, and it is fetched again; else check that the model's arguments are those "
        "that the weights were made with, or give a file of weights as ckp_path, or set pretrained: false.",
    )
