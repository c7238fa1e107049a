"""Models built from their names: on the CPU with their weights, or on the meta device for their shapes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import nn

from stitching.config.errors import UserError, at, reason_of
from stitching.cutting.shapes import meta_copy
from stitching.cutting.tracing import Shape3
from stitching.models.arguments import bounded, not_built, shown, sides
from stitching.models.prefetch import fetch, weights_file
from stitching.models.random_networks import measure_statistics, open_branches
from stitching.models.spec import ModelSpec
from stitching.models.weights import load_weights

__all__ = ["build", "build_meta", "input_shape", "normalization_note"]


def build(spec: ModelSpec, seed: int = 0) -> nn.Module:
    """The model on the CPU, with its weights, in train mode.

    Random weights depend on (seed, spec) only, and the global random state is not changed.

    Raises:
        UserError: for arguments that the model does not take, weights that cannot be fetched, and files of weights that
            cannot be read or do not fit.
    """
    fetch([spec])
    weightless = (*spec.source.seed_name(spec.name), spec.args)
    digest = hashlib.sha256(repr((seed, weightless)).encode()).digest()
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        model = _construct(spec, pretrained=spec.takes_published)
        if spec.random and (shape := input_shape(spec) or (spec.sample and spec.sample.shape)):
            open_branches(model, shape)
    if spec.random and spec.sample:
        model.statistics_images = measure_statistics(model, spec.sample)  # type: ignore[assignment]
    if spec.ckp_path:
        with at("ckp_path"):
            load_weights(model, spec.ckp_path, spec.title, adapt=spec.source.adapted)
    return model


def build_meta(spec: ModelSpec) -> nn.Module:
    """The model on the meta device: shapes only, without weights, memory or downloads."""
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return _construct(spec, pretrained=False, meta=True)
        except (RuntimeError, TypeError):  # some constructors compute with tensors (torchvision's RegNet)
            with torch.device("cpu"):
                return meta_copy(_construct(spec, pretrained=False))


def input_shape(spec: ModelSpec) -> Shape3 | None:
    """(C, H, W) of the images that a model is for; None if it takes any, and so those of the data.

    The arguments `img_size` (`image_size` in torchvision) and `in_chans` override what its source states.

    Raises:
        UserError: these arguments are no valid sizes.
    """
    shape = spec.source.input_shape(spec.name)
    if shape is None:
        return None
    channels, height, width = shape
    args = dict(spec.args)
    for key in ("image_size", "img_size"):
        if key in args:
            height, width = sides(key, args[key])
    channels = args.get("in_chans", channels)
    if type(channels) is not int or channels < 1:
        raise UserError(f"in_chans is {channels}", allowed="a whole number above zero", path=("in_chans",))
    return channels, height, width


def normalization_note(spec: ModelSpec, mean: Sequence[float], std: Sequence[float]) -> list[str]:
    """A warning if published weights were trained on images normalised otherwise, else an empty list.

    Args:
        spec: the model.
        mean, std: of each channel, for images scaled to 0..1.
    """
    if not spec.takes_published:
        return []
    normalization = spec.source.normalization(spec.name, spec.weights)
    if normalization is None:
        return []
    trained = [round(float(value), 3) for values in normalization for value in values]
    if trained == [round(value, 3) for value in (*mean, *std)]:
        return []
    half = len(trained) // 2
    return [
        f"{spec.title} was trained with images of mean {trained[:half]} and std {trained[half:]}, here they have "
        f"{[round(v, 3) for v in mean]} and {[round(v, 3) for v in std]}: its accuracy may suffer. "
        "train_config.data_preprocessing takes mean and std"
    ]


def _construct(spec: ModelSpec, *, pretrained: bool, meta: bool = False) -> nn.Module:
    source, args = spec.source, dict(spec.args)
    weights = (spec.weights or "DEFAULT") if pretrained else None
    try:
        with bounded():
            model = source.build(spec.name, weights, args)
    except UserError:
        raise
    except Exception as error:  # a user's arguments can raise anything
        if meta and isinstance(error, RuntimeError | TypeError):
            raise
        if pretrained:
            build_meta(spec)  # raises if the arguments are wrong
            raise _not_loaded(spec, error) from None
        if args and (argument_error := not_built(source, spec.name, args, error)).allowed:
            raise argument_error from None
        if explained := source.build_error(spec.name, error):
            raise explained from None
        if not args:
            raise
        raise argument_error from None
    if shape := input_shape(spec):
        model.default_input_shape = shape  # type: ignore[assignment]
    if untraced := source.untraced_modules(spec.name):
        model.untraced_modules = tuple(untraced)  # type: ignore[assignment]
    model.made_from = spec.title + (f" with {shown(args)}" if args else "")  # type: ignore[assignment]
    return model


def _not_loaded(spec: ModelSpec, error: Exception) -> UserError:
    source = weights_file(spec)
    path = source.cached_path() if source else None
    return UserError(
        f"the pretrained weights of {spec.title} cannot be loaded"
        + (f" from {path}" if path else "")
        + f": {reason_of(error)}",
        do="Remove the file if it is damaged, to download it again; else check that the model's arguments are those "
        "that the weights were trained with, or set ckp_path to a file of weights, or set pretrained: false.",
    )
