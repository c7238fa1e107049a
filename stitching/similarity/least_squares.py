"""Adapters with `init: least_squares`: which part of a network is fitted, its input and its target.

The fit is linear least squares, position by position: the adapter's input vector is mapped to the vector that the
destination's own front computes at the same position of the image (the target). The input is resized and laid out as
in the network; the target is resized alike where the sizes differ. Prefix tokens count as positions as far as both
sides have them. Those that only the destination has get a map of their own, from means over the adapter's input
(`PrefixTokens`); a prefix token that only a format conversion adds is not the adapter's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from stitching.config.errors import UserError, at
from stitching.config.parts import BasePart
from stitching.cutting.cut_points import CutPoint, cut_points
from stitching.cutting.formats import Format
from stitching.models.spec import ModelSpec
from stitching.models.traced_models import traced_model
from stitching.nets.build import BuildOptions, build_network
from stitching.nets.conversions import Reformat
from stitching.nets.network import Network, Part
from stitching.nets.parts.adapters import PrefixTokens, SimpleAdapter
from stitching.similarity.measures import AffineMap

__all__ = ["Fit", "build_stitched_network", "fit_of"]


@dataclass(frozen=True)
class Fit:
    """An adapter to fit.

    Attributes:
        index: its number among the network's pieces.
        piece: that piece.
        model, start: the destination's model, and the cut point in it whose tensor is the target.
    """

    index: int
    piece: Part
    model: ModelSpec
    start: CutPoint

    def rows(self, adapter_input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The adapter's input and its target, (N, positions, channels) both.

        Args:
            adapter_input: the input of the adapter's piece, not yet converted, (N, ...).
            target: the tensor at `start` in the destination for the same images, (N, ...).
        """
        source, target_format = self._in_format, self._format(target)
        prefix = min(source.prefix, target_format.prefix)
        return (
            _rows(self.piece.before(adapter_input), source, source, prefix),
            _rows(target, target_format, source, prefix),
        )

    def token_rows(self, adapter_input: Tensor, target: Tensor) -> tuple[Tensor, Tensor] | None:
        """The means that new prefix tokens are mapped from, and the target's tokens flattened, (N, channels) both."""
        if self.prefix is None:
            return None
        return self.prefix.means(self.piece.before(adapter_input)), self._new_tokens(target)

    def output_rows(self, target: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """The adapter's output and its target, in the shape of `rows`."""
        source, target_format = self._in_format, self._format(target)
        if self.prefix:
            out = Format.of("bert", tuple(output.shape), source.prefix + self.prefix.count)
        else:
            out = replace(source, channels=output.shape[1 if source.kind == "img" else -1])
        prefix = min(source.prefix, target_format.prefix)
        return _rows(output, out, source, prefix), _rows(target, target_format, source, prefix)

    def output_token_rows(self, target: Tensor, output: Tensor) -> tuple[Tensor, Tensor] | None:
        """The new prefix tokens in the adapter's output and in its target, in the shape of `token_rows`."""
        return (self._new_tokens(output), self._new_tokens(target)) if self.prefix else None

    def _new_tokens(self, sequence: Tensor) -> Tensor:
        assert self.prefix is not None
        return sequence[:, self._in_format.prefix :][:, : self.prefix.count].flatten(1)

    def set_weights(self, positions: AffineMap, tokens: AffineMap | None = None) -> None:
        """Copy fitted maps into the adapter: that of positions, and that of new prefix tokens if it has any."""
        _copy_map(self.layer, positions)
        if self.prefix and tokens:
            _copy_map(self.prefix, tokens)

    @property
    def layer(self) -> nn.Conv2d | nn.Linear:
        """The adapter's only layer."""
        (layer,) = self._adapter.layers
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        return layer

    @property
    def prefix(self) -> PrefixTokens | None:
        """The adapter's layer for new prefix tokens; None if it adds none."""
        return self._adapter.prefix

    @property
    def _adapter(self) -> SimpleAdapter:
        assert isinstance(self.piece.net, SimpleAdapter)
        return self.piece.net

    @property
    def _in_format(self) -> Format:
        return self.piece.before.out_format

    def _format(self, target: Tensor) -> Format:
        declared = self.start.format
        return Format.of(declared.kind, tuple(target.shape), declared.prefix)


@torch.no_grad()
def _copy_map(layer: nn.Conv2d | nn.Linear | PrefixTokens, fitted: AffineMap) -> None:
    assert layer.bias is not None
    layer.weight.copy_(fitted.weight.T.reshape(layer.weight.shape))
    layer.bias.copy_(fitted.bias)


def _rows(x: Tensor, layout: Format, size_of: Format, prefix: int) -> Tensor:
    """(N, positions, channels): the first `prefix` tokens of x, then its map, resized to the map of `size_of`."""
    first = [x[:, :prefix]] if prefix else []
    if layout.kind == "bert":
        x, layout = x[:, layout.prefix :], Format("token", layout.channels, layout.size)
    if _positions(layout) != _positions(size_of):
        resize = Reformat(layout, Format("img", size=size_of.spatial))
        x, layout = resize(x), resize.out_format
    return torch.cat([*first, Reformat(layout, Format("token"))(x)], 1)


def _positions(layout: Format) -> int:
    return layout.shape(1)[1] - layout.prefix if isinstance(layout.size, int) else layout.size[0] * layout.size[1]  # type: ignore[index]


def build_stitched_network(part: BasePart, in_format: Format, options: BuildOptions) -> Network:
    """The network that `part` describes; checks that an adapter with `init: least_squares` can be fitted.

    Raises:
        UserError: as `build_network` and `fit_of`; or the destination, whose features are the target, cannot take the
            images.
    """
    network = build_network(part, in_format, options)
    with at(part.kind):
        fit = fit_of(network)
        if fit is None:
            return network
        _, *images = in_format.shape(1)
        try:
            cut_points(traced_model(fit.model, options.seed, options.meta, tuple(images)), tuple(images))  # type: ignore[arg-type]
        except UserError as error:
            raise UserError(
                f"least squares fits to the features that {fit.model.title} computes of the same images, and it cannot "
                f"take them: {error.problem}",
                path=("parts", fit.index, "SimpleAdapter", "init"),
            ) from None
    return network


def fit_of(network: Network) -> Fit | None:
    """The network's adapter with `init: least_squares`; None if it has none.

    Raises:
        UserError: it cannot be fitted: there must be one only, in the outermost row of parts, with nothing but frozen
            parts before it and a frozen subnet behind it.
    """
    adapters = [m for m in network.modules() if isinstance(m, SimpleAdapter) and m.init == "least_squares"]
    if not adapters:
        return None
    pieces = network.pieces
    index = next((i for i, piece in enumerate(pieces) if piece.net is adapters[0]), None)
    if index is None:
        raise UserError(
            "an adapter inside a nested part is to be fitted by least squares",
            do="Write `init: least_squares` on an adapter in the outermost row of parts.",
        )

    def refuse(problem: str, do: str) -> UserError:
        return UserError(problem, do=do, path=("parts", index, "SimpleAdapter", "init"))

    if len(adapters) > 1:
        raise refuse(
            f"{len(adapters)} adapters are to be fitted by least squares, and the target of one depends on the other",
            "Use one adapter with `init: least_squares`.",
        )
    if pieces[index].frozen:
        raise refuse("a frozen adapter is not fitted", "Leave `frozen` out, and set `test_only` to train nothing.")
    unfrozen = [i for i in (*range(index), index + 1) if i < len(pieces) and not pieces[i].frozen]
    if unfrozen or index == 0 or index + 1 == len(pieces):
        reason = f"part {unfrozen[0]} is not frozen" if unfrozen else f"it is part {index} of {len(pieces)}"
        raise refuse(
            f"least squares fits an adapter between frozen parts, and {reason}",
            "Freeze the parts around it, without `unfrozen: true`; or leave the init out.",
        )
    cut = getattr(pieces[index + 1].net, "cut_from", None)
    if cut is None or cut[1].index == 0:
        raise refuse(
            "the part after the adapter does not begin inside a model, so there is no target to fit to",
            "Let a Subnet with a `block_input` follow the adapter.",
        )
    model, start, _ = cut
    return Fit(index, pieces[index], model, start)
