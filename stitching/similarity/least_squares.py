"""Adapters that a network's config asks to be fitted: where such a one stands, what it is given and what it shall give.

The fit is linear least squares, position by position: at every place of the image, the adapter's input vector shall
become the vector that the destination's own front computes there. The adapter's input is what arrives in the network,
resized and laid out as the network does it. The destination's is resized alike where the sizes differ. Prefix tokens
take part as positions as far as both sides have them. Those that the destination alone has are a map of their own, of
means over what the adapter is given (`PrefixTokens`); one that only a format conversion makes is not the adapter's.
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
    """An adapter to be fitted.

    Attributes:
        place: its number among the network's pieces.
        piece: the piece that it is.
        model, start: the destination's model, and the cut point in it whose tensor the adapter shall give.
    """

    place: int
    piece: Part
    model: ModelSpec
    start: CutPoint

    def rows(self, arriving: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """What the adapter is given and what it shall give, (N, positions, channels) both.

        Args:
            arriving: what comes to the adapter's piece, (N, ...).
            wanted: the tensor at `start` in the destination for the same images, (N, ...).
        """
        given = self.piece.before(arriving)
        target = self._format(wanted)
        prefix = min(self._given.prefix, target.prefix)
        return _rows(given, self._given, self._given, prefix), _rows(wanted, target, self._given, prefix)

    def token_rows(self, arriving: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor] | None:
        """What the adapter makes its new prefix tokens from, and those tokens in a row, (N, channels) both."""
        if self.prefix is None:
            return None
        return self.prefix.means(self.piece.before(arriving)), self._new_tokens(wanted)

    def given(self, wanted: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """The adapter's own output, and what it should have been, as `rows` has them."""
        target = self._format(wanted)
        if self.prefix:
            out = Format.of("bert", tuple(output.shape), self._given.prefix + self.prefix.count)
        else:
            out = replace(self._given, channels=output.shape[1 if self._given.kind == "img" else -1])
        prefix = min(self._given.prefix, target.prefix)
        return _rows(output, out, self._given, prefix), _rows(wanted, target, self._given, prefix)

    def given_tokens(self, wanted: Tensor, output: Tensor) -> tuple[Tensor, Tensor] | None:
        """The new prefix tokens in the adapter's own output, and what they should have been, as `token_rows`."""
        return (self._new_tokens(output), self._new_tokens(wanted)) if self.prefix else None

    def _new_tokens(self, sequence: Tensor) -> Tensor:
        assert self.prefix is not None
        return sequence[:, self._given.prefix :][:, : self.prefix.count].flatten(1)

    def put(self, found: AffineMap, tokens: AffineMap | None = None) -> None:
        """Give the adapter a map, and one that makes its new prefix tokens where it has such."""
        _put(self.layer, found)
        if self.prefix and tokens:
            _put(self.prefix, tokens)

    @property
    def layer(self) -> nn.Conv2d | nn.Linear:
        """The adapter's only layer."""
        (layer,) = self._adapter.layers
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        return layer

    @property
    def prefix(self) -> PrefixTokens | None:
        """What makes the adapter's new prefix tokens."""
        return self._adapter.prefix

    @property
    def _adapter(self) -> SimpleAdapter:
        assert isinstance(self.piece.net, SimpleAdapter)
        return self.piece.net

    @property
    def _given(self) -> Format:
        return self.piece.before.out_format

    def _format(self, wanted: Tensor) -> Format:
        form = self.start.format
        return Format.of(form.kind, tuple(wanted.shape), form.prefix)


@torch.no_grad()
def _put(layer: nn.Conv2d | nn.Linear | PrefixTokens, found: AffineMap) -> None:
    assert layer.bias is not None
    layer.weight.copy_(found.weight.T.reshape(layer.weight.shape))
    layer.bias.copy_(found.bias)


def _rows(x: Tensor, have: Format, size_of: Format, prefix: int) -> Tensor:
    """(N, positions, channels): the first `prefix` tokens of x, then its map, resized to the map of `size_of`."""
    first = [x[:, :prefix]] if prefix else []
    if have.kind == "bert":
        x, have = x[:, have.prefix :], Format("token", have.channels, have.size)
    if _positions(have) != _positions(size_of):
        resized = Reformat(have, Format("img", size=size_of.spatial))
        x, have = resized(x), resized.out_format
    return torch.cat([*first, Reformat(have, Format("token"))(x)], 1)


def _positions(form: Format) -> int:
    return form.shape(1)[1] - form.prefix if isinstance(form.size, int) else form.size[0] * form.size[1]  # type: ignore[index]


def build_stitched_network(part: BasePart, in_format: Format, options: BuildOptions) -> Network:
    """The network that `part` describes, whose adapter can be fitted if it asks to be.

    Raises:
        UserError: as `build_network` and `fit_of`; or the destination, to whose features the adapter is to be fitted,
            cannot take the images.
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
                f"least squares fits to what {fit.model.title} computes of the same images, and it cannot take them: "
                f"{error.problem}",
                path=("parts", fit.place, "SimpleAdapter", "init"),
            ) from None
    return network


def fit_of(network: Network) -> Fit | None:
    """The adapter of the network that is to be fitted; None if its config asks for none.

    Raises:
        UserError: it asks for one where none can be: there must be one, in the row of the network's own parts, with
            nothing but frozen parts before it and a frozen subnet behind it.
    """
    asking = [m for m in network.modules() if isinstance(m, SimpleAdapter) and m.init == "least_squares"]
    if not asking:
        return None
    pieces = network.pieces
    place = next((i for i, piece in enumerate(pieces) if piece.net is asking[0]), None)
    if place is None:
        raise UserError(
            "an adapter inside a nested part is to be fitted by least squares",
            do="Write `init: least_squares` on an adapter in the outermost row of parts.",
        )

    def refuse(problem: str, do: str) -> UserError:
        return UserError(problem, do=do, path=("parts", place, "SimpleAdapter", "init"))

    if len(asking) > 1:
        raise refuse(
            f"{len(asking)} adapters are to be fitted by least squares: what one shall give depends on the other",
            "Use one adapter with `init: least_squares`.",
        )
    if pieces[place].frozen:
        raise refuse("a frozen adapter is not fitted", "Leave `frozen` out, and set `test_only` to train nothing.")
    loose = [i for i in (*range(place), place + 1) if i < len(pieces) and not pieces[i].frozen]
    if loose or place == 0 or place + 1 == len(pieces):
        found = f"part {loose[0]} is not frozen" if loose else f"it is part {place} of {len(pieces)}"
        raise refuse(
            f"least squares fits an adapter between frozen parts, and {found}",
            "Freeze the parts around it, without `unfrozen: true`; or leave the init out.",
        )
    cut = getattr(pieces[place + 1].net, "cut_from", None)
    if cut is None or cut[1].index == 0:
        raise refuse(
            "the part behind the adapter does not begin inside a model: there is nothing to fit to",
            "Let a Subnet with a `block_input` follow the adapter.",
        )
    model, start, _ = cut
    return Fit(place, pieces[place], model, start)
