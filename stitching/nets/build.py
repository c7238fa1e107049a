"""From a network's config to its modules: every part built, placed and given the format that arrives.

Shapes are never worked out by hand: one image runs through each part as it is built (on the meta device when a plan
is made), and what comes out is the next part's input.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import nn

from stitching.config.errors import UserError, at, reason_of
from stitching.config.parts import BasePart
from stitching.cutting.formats import Format, converted
from stitching.cutting.tracing import Shape3
from stitching.models.arguments import bounded
from stitching.nets.buildable import BuildablePart, BuildOptions, check_channels
from stitching.nets.conversions import Reformat
from stitching.nets.network import Network, Parallel, Part

__all__ = ["BuildOptions", "build_network", "build_part", "place_module"]


def build_network(part: BasePart, in_format: Format, options: BuildOptions) -> Network:
    """The network that `part` describes, for images of `in_format`.

    The weights of untrained parts depend on `options.seed` only; the global random state stays as it was.

    Raises:
        UserError: with the path of the part below `part`'s own class name, if it cannot be built or what arrives does
            not fit it.
    """
    device = torch.device("meta" if options.meta else "cpu")
    with torch.random.fork_rng(devices=[]), device:
        torch.manual_seed(options.seed)
        root = build_part(part, in_format, replace(options, images=_image_shape(in_format)))
    row = isinstance(root.net, Network) and not root.before.changes and not root.after.changes
    return root.net if row else Network([root])  # type: ignore[return-value]


def _image_shape(in_format: Format) -> Shape3 | None:
    if in_format.kind != "img":
        return None
    _, channels, height, width = in_format.shape(1)
    return channels, height, width


def build_part(part: BasePart, arriving: Format, options: BuildOptions) -> Part:
    """One part with its conversions, after a trial run.

    Raises:
        UserError: with the path of the part, if it cannot be built or what arrives does not fit it.
    """
    if not isinstance(part, BuildablePart):
        raise TypeError(f"{type(part).__name__} is no BuildablePart")
    with at(part.kind):
        native = part.native_format(options)
        wanted = Format.parse(part.in_format) if part.in_format else native or arriving
        if native and wanted.kind != native.kind:
            raise UserError(
                f"{part.kind} works on {native.kind}, in_format is {wanted.kind}", path=("in_format",),
                do="What arrives is converted to it by itself; in_format is for a size of your own.",
            )  # fmt: skip
        if native:
            wanted = replace(wanted, prefix=native.prefix)
        with at("in_format"):
            given = converted(arriving, wanted, options.class_token)
            check_channels(wanted.channels, given, "in_format declares")
        try:
            with nullcontext() if part.bounds_itself else bounded():
                net = part.build(given, options)
        except UserError:
            raise
        except Exception as error:  # its arguments are a user's: anything can come of them
            raise UserError(f"the part cannot be built for {given}: {reason_of(error)}") from None
        return place_module(net, arriving, wanted, part, options)


def place_module(net: nn.Module, arriving: Format, wanted: Format, part: BasePart, options: BuildOptions) -> Part:
    """A module with the conversions around it, after a trial run.

    Args:
        net: the module.
        arriving: what comes to it, fully sized.
        wanted: what it works on.
        part: says whether it is frozen, and what its output is converted to.
        options: of the network.

    Raises:
        UserError: it does not take what arrives, or does not give one tensor.
    """
    out = _run_through(net, converted(arriving, wanted, options.class_token))
    declared, left = out, out
    if part.out_format:
        with at("out_format"):
            declared = Format.parse(part.out_format)
            left = converted(out, declared, options.class_token)
            check_channels(declared.channels, left, "out_format declares")
    return Part(
        net,
        before=Reformat(arriving, wanted, options.class_token),
        after=Reformat(out, declared, options.class_token),
        out_format=left,
        frozen=part.frozen and not options.unfrozen,
        frozen_norm=options.frozen_norm,
    )


def _run_through(net: nn.Module, given: Format) -> Format:
    """The format of what `net` makes of one input of format `given`."""
    if isinstance(net, Network):
        return net.out_format
    if isinstance(net, Parallel) and net.agg == "none":
        return net.parts[0].out_format  # type: ignore[return-value]
    net.eval()
    try:
        with torch.no_grad():
            out = net(torch.zeros(given.shape(1)))
    except UserError:
        raise
    except Exception as error:  # as above
        raise UserError(
            f"the part cannot take {given}: {reason_of(error)}",
            do="Give it an `in_format` with the size that it was made for, or another image_size.",
        ) from None
    finally:
        net.train()
    if not isinstance(out, torch.Tensor):
        raise UserError(f"the part gives {type(out).__name__}, not one tensor")
    kind = getattr(net, "out_kind", None) or (given.kind if out.dim() == len(given.shape(1)) else "vector")
    if isinstance(net, nn.Module) and kind == "same":
        kind = given.kind
    prefix = getattr(net, "out_prefix", given.prefix)
    return Format.of(kind, tuple(out.shape), prefix)
