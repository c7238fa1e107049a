"""From a network's config to its modules: builds every part for its input, with the conversions around it.

Shapes are never worked out by hand: one image runs through each part as it is built (on the meta device for a plan),
and its output is the next part's input.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import nn

from stitching.config.errors import UserError, at, reason_of
from stitching.config.format_syntax import TUPLE
from stitching.config.parts import BasePart
from stitching.cutting.formats import TUPLE_GOES_INTO, Format, TupleFormat, converted
from stitching.cutting.subnet import CutModule
from stitching.cutting.tracing import Shape3
from stitching.models.arguments import bounded
from stitching.nets.buildable import BuildablePart, BuildOptions, check_channels
from stitching.nets.conversions import Reformat
from stitching.nets.network import Network, Parallel, Part

__all__ = ["BuildOptions", "build_network", "build_part", "place_module"]


def build_network(part: BasePart, in_format: Format, options: BuildOptions) -> Network:
    """The network that `part` describes, for images of `in_format`.

    The weights of untrained parts depend on `options.seed` only; the global random state is not changed.

    Raises:
        UserError: with the path of the part below `part`'s own class name, if it cannot be built or does not take its
            input.
    """
    device = torch.device("meta" if options.meta else "cpu")
    with torch.random.fork_rng(devices=[]), device:
        torch.manual_seed(options.seed)
        root = build_part(part, in_format, replace(options, images=_image_shape(in_format)))
    if root.out_format.kind == TUPLE:
        raise UserError(f"the network ends with {root.out_format}", allowed=TUPLE_GOES_INTO, path=(part.kind,))
    row = isinstance(root.net, Network) and not root.before.changes and not root.after.changes
    return root.net if row else Network([root])  # type: ignore[return-value]


def _image_shape(in_format: Format) -> Shape3 | None:
    if in_format.kind != "img":
        return None
    _, channels, height, width = in_format.shape(1)
    return channels, height, width


def build_part(part: BasePart, input_format: Format, options: BuildOptions) -> Part:
    """One part with its conversions, after a trial run.

    Raises:
        UserError: with the path of the part, if it cannot be built or does not take its input.
    """
    if not isinstance(part, BuildablePart):
        raise TypeError(f"{type(part).__name__} is no BuildablePart")
    with at(part.kind):
        native = part.native_format(options)
        part_format = Format.parse(part.in_format) if part.in_format else native or input_format
        if native and part_format.kind != native.kind:
            raise UserError(
                f"{part.kind} works on {native.kind}, in_format is {part_format.kind}", path=("in_format",),
                do="Inputs are converted automatically; use in_format to set a size.",
            )  # fmt: skip
        if part_format.kind == TUPLE and not (part.is_subnet or part.is_assembly):
            raise UserError(f"{part.kind} takes one tensor, not {part_format}", allowed=TUPLE_GOES_INTO)
        if native:
            part_format = replace(part_format, prefix=native.prefix)
        with at("in_format"):
            net_input = converted(input_format, part_format, options.class_token)
            check_channels(part_format.channels, net_input, "in_format declares")
        try:
            with nullcontext() if part.bounds_itself else bounded():
                net = part.build(net_input, options)
        except UserError:
            raise
        except Exception as error:  # a user's arguments can raise anything
            raise UserError(f"the part cannot be built for {net_input}: {reason_of(error)}") from None
        return place_module(net, input_format, part_format, part, options)


def place_module(
    net: nn.Module, input_format: Format, part_format: Format, part: BasePart, options: BuildOptions
) -> Part:
    """A module with the conversions around it, after a trial run.

    Args:
        net: the module.
        input_format: the format of its input before conversion, fully sized.
        part_format: the format that the module takes.
        part: states whether it is frozen, and the format that its output is converted to.
        options: of the network.

    Raises:
        UserError: it does not take its input, or does not return one tensor.
    """
    out = _run_through(net, converted(input_format, part_format, options.class_token))
    declared, out_format = out, out
    if part.out_format:
        with at("out_format"):
            declared = Format.parse(part.out_format)
            out_format = converted(out, declared, options.class_token)
            check_channels(declared.channels, out_format, "out_format declares")
    return Part(
        net,
        before=Reformat(input_format, part_format, options.class_token),
        after=Reformat(out, declared, options.class_token),
        out_format=out_format,
        frozen=part.frozen and not options.unfrozen,
        frozen_norm=options.frozen_norm,
    )


def _run_through(net: nn.Module, input_format: Format) -> Format:
    """The format of `net`'s output for an input of `input_format`."""
    if isinstance(net, Network):
        return net.out_format
    if isinstance(net, Parallel) and net.agg == "none":
        return net.parts[0].out_format  # type: ignore[return-value]
    net.eval()
    try:
        with torch.no_grad():
            out = net(_zeros(input_format))
    except UserError:
        raise
    except Exception as error:  # as when it is built
        raise UserError(
            f"the part cannot take {input_format}: {reason_of(error)}",
            do="Where channels differ, put an adapter before it; where sizes differ, set its `in_format` to the size "
            "that it was made for, or use another image_size.",
        ) from None
    finally:
        net.train()
    if isinstance(out, tuple) and isinstance(net, CutModule):
        return _tuple_format(net, out)
    if not isinstance(out, torch.Tensor):
        raise UserError(f"the part returns {type(out).__name__}, not one tensor")
    kind = getattr(net, "out_kind", None) or (
        input_format.kind if out.dim() == len(input_format.shape(1)) else "vector"
    )
    if isinstance(net, nn.Module) and kind == "same":
        kind = input_format.kind
    prefix = getattr(net, "out_prefix", input_format.prefix)
    return Format.of(kind, tuple(out.shape), prefix)


def _zeros(input_format: Format) -> torch.Tensor | tuple[torch.Tensor, ...]:
    if isinstance(input_format, TupleFormat):
        return tuple(torch.zeros(shape) for shape in input_format.shapes)
    return torch.zeros(input_format.shape(1))


def _tuple_format(piece: CutModule, out: tuple[object, ...]) -> TupleFormat:
    tensors = [value for value in out if isinstance(value, torch.Tensor) and value.is_floating_point()]
    if len(tensors) != len(out):
        raise UserError(
            "not all values that cross at the end of the piece are floating tensors", do="Cut the model elsewhere."
        )
    return TupleFormat(shapes=tuple(tuple(tensor.shape) for tensor in tensors), images=piece.tuple_images)
