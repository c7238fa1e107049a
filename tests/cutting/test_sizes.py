"""Sizes, tables of positions and the like do not count as crossing a cut; pieces know them again, or say that they cannot."""

from __future__ import annotations

import copy
import itertools
import pickle

import pytest
import torch
from torch import Tensor, nn

from stitching.config.errors import UserError
from stitching.cutting.blocks import boundaries, find_blocks
from stitching.cutting.cut_points import cut_points, extract, extract_for, resolve, trace
from stitching.training.shared_prefixes import FrozenPrefix, SharedPrefixes


class Block(nn.Module):
    """Lays tokens out as a map, for which it must know the map's size, and adds a table of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int], table: Tensor) -> Tensor:
        batch, _, channels = x.shape
        image = x.transpose(1, 2).reshape(batch, channels, *size)
        return x + self.conv(image).flatten(2).transpose(1, 2) * table


class Tokens(nn.Module):
    """A size, a table that is computed from it and from weights, and the number of images are used in all blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 2, stride=2)
        self.scale = nn.Parameter(torch.rand(4))
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        batch, _, height, width = x.shape
        table = torch.arange(height * width, device=x.device, dtype=x.dtype).view(1, -1, 1) * self.scale
        table = table.expand(batch, -1, -1)
        x = x.flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x, (height, width), table)
        return x.sum(1).view(batch, 4)


IMAGES = (3, 8, 16)


@pytest.fixture(scope="module")
def tokens():
    return trace(Tokens(), IMAGES)


def _pieces(traced, block="blocks.0"):
    points = cut_points(traced)
    middle = resolve(traced, block)
    return extract(traced, points[0], middle), extract(traced, middle, points[-1])


def test_a_model_is_cut_where_sizes_and_tables_accompany_a_tensor(tokens):
    assert [block.name for block in find_blocks(tokens)] == ["blocks.0", "blocks.1", "blocks.2"]
    for batch in (1, 3):
        images = torch.randn(batch, *IMAGES)
        for point in cut_points(tokens)[1:-1]:
            front, back = (extract(tokens, *ends) for ends in _ends(tokens, point))
            for training in (False, True):
                expected = tokens.model.train(training)(images)
                assert torch.equal(back.train(training)(front.train(training)(images)), expected)


def _ends(traced, point):
    points = cut_points(traced)
    return (points[0], point), (point, points[-1])


def test_such_a_piece_holds_no_tensor_that_the_model_has_not(tokens):
    front, back = _pieces(tokens)
    assert {*front.state_dict(), *back.state_dict()} == {*tokens.model.state_dict()}
    assert list(back.buffers()) == []
    images = torch.randn(2, *IMAGES)
    again = pickle.loads(pickle.dumps(copy.deepcopy(back)))
    assert torch.equal(again(front(images)), tokens.model(images))
    # Tables follow the piece to another type and device.
    expected = copy.deepcopy(tokens.model).double()(images.double())
    assert torch.equal(back.double()(front.double()(images.double())), expected)
    with torch.device("meta"):
        assert back.to("meta")(torch.empty(2, 32, 4, dtype=torch.float64)).shape == (2, 4)


def test_another_size_is_an_error_not_a_wrong_result(tokens):
    front, back = _pieces(tokens)
    assert (front.sized_for, back.sized_for) == (IMAGES, IMAGES)
    with pytest.raises(UserError, match=r"cut for 3x8x16 images, where its input is 32x4 for each, and got 64x4"):
        back(torch.randn(2, 64, 4))
    # As many tokens, laid out otherwise: the back could not tell.
    with pytest.raises(UserError, match=r"cut for 3x8x16 images, .* tell the output for 3x16x8"):
        front(torch.randn(2, 3, 16, 8))
    assert front(torch.randn(2, 3, 16, 16)).shape == (2, 64, 4)
    whole = extract(tokens, cut_points(tokens)[0], cut_points(tokens)[-1])
    assert whole.sized_for is None
    assert torch.equal(whole(images := torch.randn(2, 3, 4, 6)), tokens.model(images))


def test_a_piece_is_cut_for_the_size_that_it_will_get():
    square = trace(Tokens(), (3, 8, 8))
    start, end = resolve(square, "blocks.1", "input"), cut_points(square)[-1]
    images = torch.randn(2, 3, 12, 12)
    front = extract_for(square, cut_points(square)[0], start, (3, 12, 12))
    back = extract_for(square, start, end, (36, 4))
    assert (front.sized_for, back.sized_for) == ((3, 12, 12), (3, 12, 12))
    assert torch.equal(back(front(images)), square.model(images))
    with pytest.raises(UserError, match=r"Tokens behind 'blocks.0.add' needs the size of its images, and none .* 37x4"):
        extract_for(square, start, end, (37, 4))


def test_shared_fronts_are_cut_for_the_images_of_their_runs(monkeypatch):
    square = trace(Tokens(), (3, 8, 8))
    monkeypatch.setattr("stitching.training.shared_prefixes.traced_model", lambda *_: square)
    fronts = [FrozenPrefix("tokens", 0, resolve(square, f"blocks.{i}"), 1, (3, 16, 4)) for i in range(2)]  # type: ignore[arg-type]
    images = torch.randn(2, 3, 16, 4)
    features = SharedPrefixes(fronts)(images, fronts)
    back = extract(square, fronts[1].end, cut_points(square)[-1], (3, 16, 4))
    assert torch.equal(back(features.of(fronts[1])), square.model(images))


class Rolls(nn.Module):
    """What crosses after the first layer beside its value is `other`, made from the input's size."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, _ = x.shape
        if self.kind == "random":
            other = self.first.weight.new_empty((batch, channels, 1, 1)).bernoulli_(0.5)
        elif self.kind == "half":
            other = batch // 2
        elif self.kind == "twice":
            other = batch * 2
        else:
            other = (x + height).mean()
        return (self.second(self.first(x)) * other).mean((2, 3))


@pytest.mark.parametrize(("kind", "is_cut"), [("random", False), ("half", False), ("twice", True), ("content", False)])
def test_what_cannot_be_known_again_counts_as_crossing(kind, is_cut):
    traced = trace(Rolls(kind), (3, 4, 4))
    names = [point.name for point in cut_points(traced)]
    assert ("first" in names) == is_cut
    if is_cut:
        front, back = _pieces(traced, "first")
        assert back.sized_for == (3, 4, 4)  # a multiple may follow the size
        assert torch.equal(back(front(images := torch.randn(3, 3, 4, 4))), traced.model(images))
    else:
        with pytest.raises(UserError, match="'first' in Rolls is no cut point: 2 values cross there"):
            resolve(traced, "first")


class Table(nn.Module):
    def forward(self, size: int) -> Tensor:
        return torch.arange(size)


class WithTable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = Table()

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.table(x.shape[-1])).mean((2, 3))


def test_a_module_of_sizes_is_no_place_to_cut():
    with pytest.raises(UserError, match="'table' in WithTable depends on the size of the input only"):
        resolve(trace(WithTable(), (3, 4, 4)), "table")


class Nested(nn.Module):
    """Rows of rows of blocks, as in DaViT; two values cross at the end of the first block of each row."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.Sequential(*(_Stage() for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(x).mean((2, 3))


class _Stage(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(nn.Sequential(_Pair(), _Pair()) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class _Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x))


def test_blocks_in_nested_rows_are_found():
    names = [block.name for block in find_blocks(trace(Nested(), (3, 4, 4)))]
    assert names == [f"stages.{stage}.blocks.{row}.{i}" for stage in range(2) for row in range(2) for i in range(2)]


class TwoPaths(nn.Module):
    """The image's own path goes on beside the first two of three blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Pair() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks[2](self.blocks[1](self.blocks[0](x)) + x).mean((2, 3))


def test_ends_of_blocks_that_cannot_be_cut_say_what_crosses():
    ends = boundaries(trace(TwoPaths(), (3, 4, 4)))
    assert [(end.block, end.crossing) for end in ends] == [
        ("blocks.0", ("x", "blocks.0.add")),
        ("blocks.1", ("x", "blocks.1.add")),
        ("blocks.2", ("blocks.2.add",)),
    ]
    assert [end.point is None for end in ends] == [True, True, False]
    assert ends[0].shapes == ((3, 4, 4), (3, 4, 4))


def test_a_cut_where_several_values_cross_carries_a_tuple():
    model = TwoPaths()
    traced = trace(model, (3, 4, 4))
    with pytest.raises(UserError, match="2 values cross there"):
        resolve(traced, "blocks.0")
    points = cut_points(traced)
    first, second = (resolve(traced, f"blocks.{i}", as_tuple=True) for i in range(2))
    assert (first.name, first.also, first.layout) == ("blocks.0.add", ("x",), None)
    ends = [points[0], first, second, points[-1]]
    pieces = [extract(traced, start, end) for start, end in itertools.pairwise(ends)]
    images = value = torch.randn(2, 3, 4, 4)
    for piece in pieces:
        value = piece(value)
    assert torch.equal(value, model(images))
    with pytest.raises(UserError, match=r"'blocks.0.add' does not come after the input 'blocks.1.add'"):
        extract(traced, second, first)
