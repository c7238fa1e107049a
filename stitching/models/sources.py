"""The models that can be named: `timm/...`, `torchvision/...` and our own, `local/...`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import timm
import torch
import torchvision
from torch import nn

from stitching.config.errors import UserError, at, reason_of, unknown_name
from stitching.config.parts import ModelFields
from stitching.cutting.shapes import Shape3, default_input_shape, meta_copy
from stitching.models.builders import LOCAL, check_argument, construct, not_built, shown, sides
from stitching.models.prefetch import fetch, source_of
from stitching.models.random_networks import ImageSample, measure_statistics, open_branches
from stitching.models.weights import load_weights

__all__ = ["ModelSpec", "build", "build_meta", "input_shape", "normalization_note", "published_as"]

_BACKENDS = {"timm": "timm", "torchvision": "torchvision", "pytorch": "torchvision", "local": "local"}
_LOCAL_SIDE, _TORCHVISION_SIDE = 32, 224  # of images; our own models are for small ones


@dataclass(frozen=True)
class ModelSpec:
    """Which model, with which weights. Hashable, so that what is built from it can be kept.

    Attributes:
        backend: timm, torchvision or local.
        name: the model's name there, for timm with the tag of its weights (`resnet50.a1_in1k`).
        pretrained: take the published weights; without effect if there is a `ckp_path`.
        ckp_path: a file of weights.
        args: arguments for the model's constructor, as (name, value) pairs; lists as tuples.
        weights: torchvision's name of the published weights (`IMAGENET1K_V2`); None if there are none to take.
        random: no weights are taken, and none of its branches starts switched off.
        sample: the images that give a random network the statistics of its BatchNorm layers; None: as they are made.
    """

    backend: str
    name: str
    pretrained: bool = False
    ckp_path: str | None = None
    args: tuple[tuple[str, Any], ...] = ()
    weights: str | None = None
    random: bool = False
    sample: ImageSample | None = None

    @classmethod
    def of(cls, part: ModelFields) -> ModelSpec:
        """The model that a part of a network, or an entry of a sweep, names; raises as `parse` does."""
        return cls.parse(
            part.title, pretrained=part.wants_pretrained, ckp_path=part.ckp_path, weights=part.weights,
            **part.model_args,
        )  # fmt: skip

    @classmethod
    def parse(
        cls,
        title: str,
        /,
        *,
        pretrained: bool = False,
        ckp_path: str | None = None,
        weights: str | None = None,
        **args: Any,
    ) -> ModelSpec:
        """The model that a title such as `timm/resnet50.a1_in1k` names; `pytorch/` means `torchvision/`.

        Raises:
            UserError: if there is no such backend, model or tag of weights, which offers the nearest; or for an
                argument that is none of a model's own.
        """
        backend, slash, name = title.partition("/")
        if not slash:
            raise UserError(f"the model {title!r} names no backend", allowed="timm/NAME, torchvision/NAME, local/NAME")
        if backend not in _BACKENDS:
            raise unknown_name("backend", backend, _BACKENDS)
        backend = _BACKENDS[backend]
        _check_name(backend, name)
        checked = {key: check_argument(backend, name, key, value) for key, value in args.items()}
        with at("weights"):
            tag = _weights_named(backend, name, weights, pretrained and not ckp_path)
        if tag and name.startswith(
            "vit_"
        ):  # its position table is for one size, which torchvision takes from the weights
            side = torchvision.models.get_model_weights(name)[tag].meta["min_size"][0]
            checked |= {"image_size": checked.get("image_size", side)} if side != _TORCHVISION_SIDE else {}
        return cls(backend, name, pretrained, ckp_path, tuple(sorted(checked.items())), tag)

    @property
    def title(self) -> str:
        """`backend/name`."""
        return f"{self.backend}/{self.name}"

    @property
    def takes_published(self) -> bool:
        """Whether it is built with weights that somebody has published."""
        return self.pretrained and not self.ckp_path and self.backend != "local"


def published_as(part: ModelFields) -> tuple[str, str | None]:
    """The name of a part's model, and that of its published weights if it takes them: in one spelling each.

    timm's weights are named by the tag behind the dot, torchvision's by their `weights`. Where that is left out, they
    are the default's.
    """
    try:
        spec = ModelSpec.of(part)
    except UserError:  # reported when the model is built
        return part.title, part.weights
    if not spec.takes_published:
        return spec.title, None
    if spec.backend == "torchvision":
        return spec.title, spec.weights
    architecture, _, tag = _timm_name(spec.name).partition(".")
    return f"{spec.backend}/{architecture}", tag


@lru_cache(maxsize=256)
def _timm_name(name: str) -> str:
    """A model's name of today, with the tag of the weights that are its default if it has none."""
    name = timm.models.get_deprecated_models().get(name) or name
    known = timm.get_pretrained_cfg(name)
    return f"{name.partition('.')[0]}.{known.tag}" if known and known.tag else name


def _weights_named(backend: str, name: str, weights: str | None, published: bool) -> str | None:
    """The name of the weights that torchvision's model is to take, by default its best; None for other models."""
    if weights is not None and (backend != "torchvision" or not published):
        why = "a timm model's tag stands in its name, e.g. resnet50.a1_in1k" if backend == "timm" else None
        raise UserError(
            f"weights: {weights} of {backend}/{name}" + ("" if published else ", which takes no published weights"),
            allowed="the name of weights of a torchvision model, without `ckp_path` and `pretrained: false`", do=why,
        )  # fmt: skip
    if backend != "torchvision" or not published:
        return None
    known: Any = torchvision.models.get_model_weights(name)
    if weights is not None and weights not in known.__members__:
        raise unknown_name(f"set of weights of {backend}/{name}", weights, known.__members__)
    return str(known[weights or "DEFAULT"].name)


def build(spec: ModelSpec, seed: int = 0) -> nn.Module:
    """The model on the CPU, with its weights, in train mode.

    Random weights depend on (seed, spec) only, and the global random state stays as it was.

    Raises:
        UserError: for arguments that the model does not take, weights that cannot be fetched, and files of weights that
            cannot be read or do not fit.
    """
    fetch([spec])
    architecture = spec.name.partition(".")[0]  # the tag is that of weights
    weightless = (spec.backend, architecture, spec.args)
    digest = hashlib.sha256(repr((seed, weightless)).encode()).digest()
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        model = _construct(spec, pretrained=spec.takes_published)
        if spec.random:
            open_branches(model, input_shape(spec))
    if spec.random and spec.sample:
        model.statistics_images = measure_statistics(model, spec.sample)  # type: ignore[assignment]
    if spec.ckp_path:
        with at("ckp_path"):
            load_weights(model, spec.ckp_path, spec.title)
    return model


def build_meta(spec: ModelSpec) -> nn.Module:
    """The model on the meta device: its shapes, with no weights and no memory, and never over the network."""
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return _construct(spec, pretrained=False, meta=True)
        except NotImplementedError:  # some constructors compute with tensors (torchvision's RegNet)
            with torch.device("cpu"):
                return meta_copy(_construct(spec, pretrained=False))


def input_shape(model: ModelSpec | nn.Module) -> Shape3:
    """(C, H, W) of the images that a model is for.

    For timm models as their configuration says, for torchvision's 224x224, for our own 32x32; the arguments `img_size`
    (`image_size` in torchvision) and `in_chans` have the last word.

    Raises:
        UserError: these arguments are no sizes.
    """
    if isinstance(model, nn.Module):
        return default_input_shape(model)
    channels, height, width = 3, _TORCHVISION_SIDE, _TORCHVISION_SIDE
    if model.backend == "timm":
        known = timm.get_pretrained_cfg(model.name)
        channels, height, width = known.input_size if known else (channels, height, width)
    if model.backend == "local":
        height = width = _LOCAL_SIDE
    args = dict(model.args)
    for key in ("image_size", "img_size"):
        if key in args:
            height, width = sides(key, args[key])
    channels = args.get("in_chans", channels)
    if type(channels) is not int or channels < 1:
        raise UserError(f"in_chans is {channels}", allowed="a whole number above zero", path=("in_chans",))
    return channels, height, width


def normalization_note(spec: ModelSpec, mean: Sequence[float], std: Sequence[float]) -> list[str]:
    """A warning, if published weights were trained on images that were normalised otherwise; else nothing.

    Args:
        spec: the model.
        mean, std: of each channel of the images it is given, scaled to 0..1.
    """
    if not spec.takes_published:
        return []
    if spec.backend == "timm":
        known: Any = timm.get_pretrained_cfg(spec.name)
    else:
        known = torchvision.models.get_model_weights(spec.name)[spec.weights or "DEFAULT"].transforms()
    trained = [round(float(value), 3) for value in (*known.mean, *known.std)] if known else []
    if not trained or trained == [round(value, 3) for value in (*mean, *std)]:
        return []
    half = len(trained) // 2
    return [
        f"{spec.title} was trained with images of mean {trained[:half]} and std {trained[half:]}, here they have "
        f"{[round(v, 3) for v in mean]} and {[round(v, 3) for v in std]}: its accuracy may suffer. "
        "train_config.data_preprocessing takes mean and std"
    ]


@lru_cache(maxsize=256)
def _check_name(backend: str, name: str) -> None:
    if backend == "local":
        names = list(LOCAL)
    elif backend == "torchvision":
        names = torchvision.models.list_models(module=torchvision.models)
    else:
        architecture, dot, _ = name.partition(".")
        if not timm.is_model(architecture):
            raise unknown_name("model in timm", name, timm.list_models())
        names = timm.list_models(f"{architecture}.*", pretrained=True) if dot else [name]
    if name not in names:
        raise unknown_name(f"model in {backend}", name, names)


def _construct(spec: ModelSpec, *, pretrained: bool, meta: bool = False) -> nn.Module:
    args = dict(spec.args)
    weights = (spec.weights or "DEFAULT") if pretrained else None
    try:
        model = construct(spec.backend, spec.name, weights, args)
    except UserError:
        raise
    except Exception as error:  # the arguments are a user's: anything can come of them
        if meta and isinstance(error, NotImplementedError):
            raise
        if pretrained:
            build_meta(spec)  # raises if it is the arguments that are wrong
            raise _not_loaded(spec, error) from None
        if not args:
            raise
        raise not_built(spec.title, args, error) from None
    model.default_input_shape = input_shape(spec)  # type: ignore[assignment]
    model.made_from = spec.title + (f" with {shown(args)}" if args else "")  # type: ignore[assignment]
    return model


def _not_loaded(spec: ModelSpec, error: Exception) -> UserError:
    source = source_of(spec)
    place = source.found() if source else None
    return UserError(
        f"the pretrained weights of {spec.title} cannot be loaded"
        + (f" from {place}" if place else "")
        + f": {reason_of(error)}",
        do="Remove the file if it is damaged, and it is fetched again; else check that the model's arguments are those "
        "that the weights were made with, or give a file of weights as ckp_path, or set pretrained: false.",
    )
