"""The cost of a network: multiply-adds and parameters, of the whole or on both sides of every cut point."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from stitching.cutting.cut_points import cut_points
from stitching.cutting.flow import content_flow
from stitching.cutting.formats import Format
from stitching.cutting.shapes import meta_copy, run_on_meta
from stitching.cutting.tracing import ModeGraph, Shape3, TracedModel

__all__ = ["Cost", "CutCost", "cost", "cut_costs"]


@dataclass(frozen=True)
class Cost:
    """Multiply-adds for one image, and the parameters used for it in eval mode (no auxiliary heads).

    Convolutions and matrix products are counted: linear layers, and in attention the products of queries with keys and
    of weights with values; norms, activations and sums are not. A multiply-add is two operations of a FLOP counter.

    Attributes:
        trainable: how many of the parameters have gradients; set by `cost` only.
    """

    macs: int
    params: int
    trainable: int = field(default=0, compare=False)


@dataclass(frozen=True)
class CutCost:
    """The cost of the two pieces of a model cut at one point. Parameters used by both count for both."""

    before: Cost
    after: Cost


def cost(module: nn.Module, shape: Format | Sequence[int]) -> Cost:
    """The cost of one pass of `module` in eval mode, for one input.

    It runs on the meta device: nothing is computed and no memory is needed.

    Args:
        module: any network.
        shape: of the input without the batch, (C, H, W) for images; or a format with its size.
    """
    size = shape.shape(1) if isinstance(shape, Format) else (1, *shape)
    copy = meta_copy(module).eval()
    with _counting() as counter, _TensorsInUse() as tensors, torch.device("meta"):
        copy(torch.empty(size, requires_grad=True))
    used = [parameter for parameter in copy.parameters() if id(parameter) in tensors.ids]
    return Cost(
        counter.get_total_flops() // 2, sum(p.numel() for p in used), sum(p.numel() for p in used if p.requires_grad)
    )


def cut_costs(traced: TracedModel, input_shape: Shape3 | None = None) -> dict[str, CutCost]:
    """The cost before and after each cut point, by its name: one counted pass for all of them.

    Raises:
        UserError: if the model cannot take images of this shape, (C, H, W).
    """
    shape = input_shape or traced.input_shape
    graph = traced.graphs[False]
    macs_to: dict[fx.Node, int] = {}
    with _counting() as counter:
        run_on_meta(traced, False, (1, *shape), lambda node, _: macs_to.update({node: counter.get_total_flops() // 2}))
    total = macs_to[graph.result]
    spans = _parameter_spans(graph, content_flow(traced, False, shape).content, traced.model)
    costs = {}
    for point in cut_points(traced, shape):
        node = graph.by_name[point.name]
        position = graph.position[node]
        costs[point.name] = CutCost(
            before=Cost(macs_to[node], sum(size for first, _, size in spans if first <= position)),
            after=Cost(total - macs_to[node], sum(size for _, last, size in spans if last > position)),
        )
    return costs


@contextmanager
def _counting() -> Iterator[FlopCounterMode]:
    """Count the operations inside the context.

    The fused kernels of inference hide their products from the counter, so they are avoided: gradients are on, and
    attention runs as plain products.
    """
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter


class _TensorsInUse(TorchDispatchMode):
    """Collects the `id` of every tensor that an operation inside the context takes."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ids.update(id(value) for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor))
        return func(*args, **(kwargs or {}))


def _parameter_spans(graph: ModeGraph, content: set[fx.Node], model: nn.Module) -> list[tuple[int, int, int]]:
    """For each parameter in use: the first and the last position at which it is applied to the input, and its size."""
    reach: dict[fx.Node, tuple[int, int]] = {}
    spans: dict[int, tuple[int, int, int]] = {}
    for node in reversed(graph.nodes):
        if node in content:
            reach[node] = (graph.position[node], graph.position[node])
        else:  # computed from weights and sizes alone: it spans the positions of its users
            users = [reach[user] for user in node.users if user in reach]
            reach[node] = (
                min((u[0] for u in users), default=len(graph.nodes)),
                max((u[1] for u in users), default=-1),
            )
        for parameter in _parameters(node, model):
            first, last = reach[node]
            span = spans.get(id(parameter), (first, last, 0))
            spans[id(parameter)] = (min(first, span[0]), max(last, span[1]), parameter.numel())
    return list(spans.values())


def _parameters(node: fx.Node, model: nn.Module) -> list[nn.Parameter]:
    if node.op == "call_module":
        return list(model.get_submodule(str(node.target)).parameters())
    if node.op == "get_attr":
        owner, _, name = str(node.target).rpartition(".")
        value = getattr(model.get_submodule(owner), name, None)
        return [value] if isinstance(value, nn.Parameter) else []
    return []
