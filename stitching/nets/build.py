"""From a network's config to its modules: every part built, placed and given the format that arrives.

Shapes are never worked out by hand: one image runs through each part as it is built (on the meta device when a plan
is made), and what comes out is the next part's input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import nn

from stitching.config.errors import UserError, at, reason_of
from stitching.config.parts import AssemblyPart, BasePart, ModelFields, NetPart, ParallelPart, SubnetPart
from stitching.cutting import cut_points
from stitching.cutting.formats import Format, Reformat, converted
from stitching.cutting.graph_passes import main_output
from stitching.models import sources
from stitching.models.builders import bounded
from stitching.models.random_networks import ImageSample
from stitching.nets.network import Network, Parallel, Part
from stitching.nets.parts import adapters, dery, residual
from stitching.similarity.least_squares import fit_of

__all__ = ["BuildOptions", "build_network", "first_model", "forget_models", "model_spec", "traced_model"]


@dataclass(frozen=True)
class BuildOptions:
    """What building a network needs to know beside its parts."""

    seed: int = 0
    num_classes: int | None = None
    task_classes: tuple[int, ...] = ()  # of each task, where the network has several outputs
    class_token: Literal["zeros", "ones", "avg"] = "zeros"
    frozen_norm: Literal["running", "batch"] = "running"
    unfrozen: bool = False  # train everything, whatever the parts say
    meta: bool = False  # shapes only: no weights, no memory
    sample: ImageSample | None = None  # of the data, for random networks


def model_spec(part: ModelFields) -> sources.ModelSpec:
    """The model that a part names."""
    try:
        return sources.ModelSpec.of(part)
    except UserError as error:
        error.path = error.path or ("model_name",)
        raise


def first_model(part: BasePart) -> sources.ModelSpec | None:
    """The model that the images go into first; None if it is something else, or several side by side."""
    while isinstance(part, AssemblyPart):
        part = part.parts[0]
    return model_spec(part) if isinstance(part, SubnetPart | NetPart) else None


@lru_cache(maxsize=8)
def traced_model(spec: sources.ModelSpec, seed: int = 0, meta: bool = False) -> cut_points.TracedModel:
    """A model and its graphs; the newest few are kept, as a network cuts the same model more than once."""
    return cut_points.trace(sources.build_meta(spec) if meta else sources.build(spec, seed))


def forget_models() -> None:
    """Let go of the models that `traced_model` keeps."""
    traced_model.cache_clear()


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
        root = _build(part, in_format, options)
    row = isinstance(root.net, Network) and not root.before.changes and not root.after.changes
    network: Network = root.net if row else Network([root])  # type: ignore[assignment]
    with at(part.kind):
        _check_fit(network, in_format, options)
    return network


def _check_fit(network: Network, arriving: Format, options: BuildOptions) -> None:
    """Raise if the network has an adapter to be fitted, and that is impossible."""
    fit = fit_of(network)
    if fit is None:
        return
    try:
        cut_points.cut_points(traced_model(fit.model, options.seed, options.meta), arriving.shape(1)[1:])  # type: ignore[arg-type]
    except UserError as error:
        raise UserError(
            f"least squares fits to what {fit.model.title} computes of the same images, and it cannot take them: "
            f"{error.problem}",
            path=("parts", fit.place, "SimpleAdapter", "init"),
        ) from None


def _build(part: BasePart, arriving: Format, options: BuildOptions) -> Part:
    """One part with its conversions, after a trial run."""
    with at(part.kind):
        native, make = _RECIPES[part.kind](part, options)
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
            _same_channels(wanted.channels, given, "in_format declares")
        try:
            # Models bound themselves, and what is made of other parts is bounded there.
            outer = isinstance(part, ModelFields | AssemblyPart | ParallelPart)
            with nullcontext() if outer else bounded():
                net = make(given)
        except UserError:
            raise
        except Exception as error:  # its arguments are a user's: anything can come of them
            raise UserError(f"the part cannot be built for {given}: {reason_of(error)}") from None
        out = _run_through(net, given)
        if part.out_format:
            with at("out_format"):
                declared = Format.parse(part.out_format)
                left = converted(out, declared, options.class_token)
                _same_channels(declared.channels, left, "out_format declares")
        else:
            declared, left = out, out
        return Part(
            net,
            before=Reformat(arriving, wanted, options.class_token),
            after=Reformat(out, declared, options.class_token),
            out_format=left,
            frozen=part.frozen and not options.unfrozen,
            frozen_norm=options.frozen_norm,
        )


Maker = Callable[[Format], nn.Module]
Recipe = tuple[Format | None, Maker]  # what the part works on (None: anything), and how it is made for what arrives


def _start_of(part: SubnetPart, options: BuildOptions) -> tuple[sources.ModelSpec, cut_points.CutPoint]:
    """The model that a subnet is cut from, and where it begins in it."""
    spec = model_spec(part)
    if part.random:
        spec = replace(spec, random=True, sample=None if options.meta else options.sample)
    traced = traced_model(spec, options.seed, options.meta)
    with at("block_input"):
        return spec, cut_points.resolve(traced, part.block_input, "input")


def _subnet(part: SubnetPart, options: BuildOptions) -> Recipe:
    spec, start = _start_of(part, options)
    traced = traced_model(spec, options.seed, options.meta)
    with at("block_output"):
        end = cut_points.resolve(traced, part.block_output, "output")
    subnet = cut_points.extract(traced, start, end)
    subnet.out_kind, subnet.out_prefix = end.format.kind, end.format.prefix
    subnet.cut_from = (spec, start, end)  # lets training see which fronts are the same
    subnet.statistics_images = getattr(traced.model, "statistics_images", None)
    return Format(start.format.kind, prefix=start.format.prefix), lambda _: subnet


def _net(part: NetPart, options: BuildOptions) -> Recipe:
    if options.num_classes and not (part.wants_pretrained or part.ckp_path or "num_classes" in part.model_args):
        part = part.model_copy(update={"num_classes": options.num_classes})  # nothing learned is lost
    spec = model_spec(part)

    def make(_: Format) -> nn.Module:
        model = sources.build_meta(spec) if options.meta else sources.build(spec, options.seed)
        model.register_forward_hook(main_output)
        return model

    return Format("img"), make


def _sized(part: BasePart, arriving: Format, *own: str) -> dict[str, Any]:
    """The part's arguments, with the channels that arrive where it names none."""
    arguments = {key: value for key, value in part if key not in (*BasePart.model_fields, *own) and value is not None}
    for name in ("in_channels", "input_channel", "embed_dim"):
        if name in type(part).model_fields:
            arguments.setdefault(name, arriving.channels)
    for name in ("in_channels", "input_channel"):
        if name in arguments:
            with at(name):
                _same_channels(arguments[name], arriving, "the part takes")
    for name, same in (("out_channels", "in_channels"), ("output_channel", "input_channel")):
        if name in type(part).model_fields:
            arguments.setdefault(name, arguments[same])
    return arguments


def _plain(module: Callable[..., nn.Module], kind: str) -> Callable[[Any, BuildOptions], Recipe]:
    """The recipe of a part whose class takes the part's own arguments."""
    return lambda part, options: (Format(kind), lambda arriving: module(**_sized(part, arriving)))


def _simple_adapter(part: Any, options: BuildOptions) -> Recipe:
    kind = "img" if part.num_conv else part.fc_format or _declared(part, ("token", "bert", "bhwc", "vector"))
    own = part if part.num_conv else part.model_copy(update={"fc_format": kind})

    def make(arriving: Format) -> nn.Module:
        arguments = _sized(own, arriving, "prefix_tokens")
        if part.prefix_tokens:
            arguments["prefix"] = adapters.PrefixTokens(arriving, arguments["out_channels"], part.prefix_tokens)
        return adapters.SimpleAdapter(**arguments)

    return Format(kind, prefix=int(kind == "bert")), make


def _with_prefix_tokens(part: Any, following: Sequence[BasePart], arriving: Format, options: BuildOptions) -> BasePart:
    """An adapter to be fitted makes the prefix tokens that the subnet behind it takes and it does not give itself.

    A conversion would make them of nothing that depends on the image.
    """
    fitted = part.kind == "SimpleAdapter" and part.init and part.prefix_tokens is None and part.out_format is None
    if not fitted or not following or not isinstance(following[0], SubnetPart):
        return part
    try:
        takes = _start_of(following[0], options)[1].format.prefix
    except UserError:  # reported where that part is built
        return part
    native, _ = _simple_adapter(part, options)
    assert native is not None
    gives = max(arriving.prefix, native.prefix) if native.prefix else 0
    return part.model_copy(update={"prefix_tokens": max(0, takes - gives)})


def _declared(part: Any, kinds: tuple[str, ...]) -> Any:
    """The one of the kinds that the part's `in_format` declares, else the first of them."""
    declared = part.in_format[0] if isinstance(part.in_format, list) else part.in_format
    if declared is not None and declared not in kinds:
        raise UserError(
            f"{part.kind} works on {kinds[0]}, in_format is {declared}", allowed=", ".join(kinds), path=("in_format",)
        )
    return declared or kinds[0]


def _vit_block(part: Any, options: BuildOptions) -> Recipe:
    kind = _declared(part, ("token", "bert"))

    def make(arriving: Format) -> nn.Module:
        arguments = _sized(part, arriving)
        # Not "the same as in_channels": a width of its own is what the projection in front of the block is for.
        arguments["out_channels"] = part.out_channels or arguments["embed_dim"]
        return residual.VisionTransformerBlock(kind=kind, **arguments)

    return Format(kind, prefix=int(kind == "bert")), make


def _head(part: Any, options: BuildOptions) -> Recipe:
    classes = part.num_classes or options.num_classes
    if classes is None:
        raise UserError(
            "the number of classes is not known here",
            do="Give `num_classes`; or for several tasks, a head each, side by side in a ParallelPart.",
            path=("num_classes",),
        )

    def make(arriving: Format) -> nn.Module:
        return adapters.ClassifierHead(
            in_channels=arriving.channels or 0, num_classes=classes, pooled_size=part.pooled_size
        )

    return Format("img"), make


def _assembly(part: AssemblyPart, options: BuildOptions) -> Recipe:
    inner = replace(
        options,
        num_classes=part.num_classes or options.num_classes,
        class_token=part.reformat_options.class_token if part.reformat_options else options.class_token,
    )

    def make(arriving: Format) -> nn.Module:
        if part.input_shape and arriving.shape(1)[1:] != tuple(part.input_shape):
            raise UserError(
                f"input_shape is {part.input_shape}, but {arriving} arrives", path=("input_shape",),
                do="Set train_config.data_preprocessing.image_size, or leave input_shape out.",
            )  # fmt: skip
        pieces: list[Part] = []
        for i, child in enumerate(part.parts):
            with at("parts", i):
                _one_tensor(pieces)
                given = pieces[-1].out_format if pieces else arriving
                own = _with_prefix_tokens(_inherit(child, part), part.parts[i + 1 :], given, inner)
                pieces.append(_build(own, given, inner))
        if part.head:
            with at("head"):
                _one_tensor(pieces)
                pieces.append(_build(_inherit(part.head, part), pieces[-1].out_format, inner))
        return Network(pieces)

    return None, make


def _one_tensor(pieces: list[Part]) -> None:
    """Raise if the last of the pieces gives a list, which no part can follow."""
    last: nn.Module | None = pieces[-1].net if pieces else None
    while isinstance(last, Network):
        last = last.pieces[-1].net
    if isinstance(last, Parallel) and last.agg == "none":
        raise UserError(
            "the part before gives a list (`agg: none`), and this one takes one tensor",
            do="Join the parts with `agg: avg` or `concat`, or put the ParallelPart last.",
        )


def _parallel(part: ParallelPart, options: BuildOptions) -> Recipe:
    def make(arriving: Format) -> nn.Module:
        pieces = []
        for i, child in enumerate(part.parts):
            own = options
            if part.agg == "none" and len(part.parts) == len(options.task_classes) > 1:
                own = replace(options, num_classes=options.task_classes[i], task_classes=())
            with at("parts", i):
                pieces.append(_build(_inherit(child, part), arriving, own))
        formats = [piece.out_format for piece in pieces]
        joined = {"concat": "concat_channels"}.get(part.agg, part.agg)
        for i, found in enumerate(formats):
            first = formats[0]
            if joined == "concat_channels":
                found, first = replace(found, channels=None), replace(first, channels=None)
            if joined == "concat_sequence":
                if found.kind not in ("token", "bert"):
                    raise UserError(f"{found} is no sequence", allowed="token, bert", path=("parts", i))
                found, first = replace(found, size=None), replace(first, size=None)
            if joined != "none" and found != first:
                raise UserError(
                    f"gives {formats[i]}, the first part gives {formats[0]}: {part.agg} cannot join them",
                    do="Give the parts the same out_format.", path=("parts", i),
                )  # fmt: skip
        return Parallel(pieces, part.agg)

    return None, make


_RECIPES: dict[str, Callable[[Any, BuildOptions], Recipe]] = {
    "Subnet": _subnet,
    "Net": _net,
    "SimpleAdapter": _simple_adapter,
    "ResNetBasicBlock": _plain(residual.ResNetBasicBlock, "img"),
    "ResNetBottleneck": _plain(residual.ResNetBottleneck, "img"),
    "VisionTransformerBlock": _vit_block,
    "SwinTransformerBlock": _plain(residual.SwinTransformerBlock, "bhwc"),
    "ClassifierHead": _head,
    "Assembly": _assembly,
    "ParallelPart": _parallel,
    "DeRyAdapter": lambda part, options: (
        Format("token" if part.mode.startswith("vit") else "img"),
        lambda arriving: dery.DeRyAdapter(**_sized(part, arriving)),
    ),
    "BaseBlock": _plain(dery.BaseBlock, "img"),
    "Function": lambda part, options: (None, lambda arriving: dery.Function(part.name)),
}


def _inherit(child: BasePart, parent: BasePart) -> BasePart:
    """A frozen part's parts are frozen."""
    return child.model_copy(update={"frozen": True}) if parent.frozen and not child.frozen else child


def _same_channels(declared: int | None, given: Format, words: str) -> None:
    if declared is not None and given.channels is not None and declared != given.channels:
        raise UserError(f"{words} {declared} channels, but {given} arrives")


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
