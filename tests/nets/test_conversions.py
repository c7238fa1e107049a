"""Every pair of formats converts, to the values that config.md promises."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from sized_formats import SIZED, C
from torch.nn import functional as F

from stitching.config.errors import UserError
from stitching.cutting.formats import CLASS_TOKENS, Format, converted
from stitching.nets.conversions import Reformat

PAIRS = list(product(SIZED, repeat=2))


def tensor(fmt: Format, batch: int = 2) -> torch.Tensor:
    return torch.randn(fmt.shape(batch), generator=torch.Generator().manual_seed(0))


def resized(x: torch.Tensor, side: int) -> torch.Tensor:
    return F.interpolate(x, (side, side), mode="bilinear", align_corners=False, antialias=False)


def as_image(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return torch.stack([tokens[:, h * width : (h + 1) * width] for h in range(height)], 1).permute(0, 3, 1, 2)


@pytest.mark.parametrize("class_token", CLASS_TOKENS)
@pytest.mark.parametrize(("src", "dst"), PAIRS)
def test_every_pair_converts_as_announced(src, dst, class_token):
    src, dst = SIZED[src], SIZED[dst]
    for wanted in (replace(dst, channels=None, size=None), *([dst] if src.kind != "vector" else [])):
        out = converted(src, wanted, class_token)
        assert out.kind == dst.kind
        for batch in (1, 3):
            assert Reformat(src, wanted, class_token)(tensor(src, batch)).shape == out.shape(batch)


@pytest.mark.parametrize(("src", "dst"), [pair for pair in PAIRS if pair[0] != "vector"])
def test_every_pair_resizes_as_announced(src, dst):
    src, dst = SIZED[src], SIZED[dst]
    wanted = replace(dst, size={tuple: (3, 5), int: 9, type(None): None}[type(dst.size)])
    out = converted(src, wanted)
    assert out.size == wanted.size
    assert Reformat(src, wanted)(tensor(src)).shape == out.shape(2)


@pytest.mark.parametrize(("src", "dst"), PAIRS)
def test_every_pair_on_meta_in_bf16_and_backwards(src, dst):
    src, dst = SIZED[src], replace(SIZED[dst], size=None)
    reformat = Reformat(src, dst, "avg")
    assert list(reformat.parameters()) == []
    assert reformat(torch.empty(src.shape(2), device="meta")).shape == reformat.out_format.shape(2)
    assert reformat(tensor(src).bfloat16()).dtype == torch.bfloat16
    x = tensor(src).requires_grad_()
    reformat(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("name", SIZED)
def test_same_format_gives_the_same_tensor(name):
    x = tensor(SIZED[name])
    for wanted in (SIZED[name], replace(SIZED[name], channels=None, size=None)):
        reformat = Reformat(SIZED[name], wanted)
        assert reformat(x) is x
        assert not reformat.changes
        assert reformat.out_format == SIZED[name]


# Values


def test_layouts_without_resizing():
    image = tensor(SIZED["img"])
    tokens = Reformat(SIZED["img"], Format("token"))(image)
    assert torch.equal(tokens[:, 4 * 2 + 1], image[:, :, 2, 1])
    assert torch.equal(Reformat(SIZED["img"], Format("bhwc"))(image), image.permute(0, 2, 3, 1))
    for kind in ("token", "bhwc"):
        there = Reformat(SIZED["img"], Format(kind))
        assert torch.equal(Reformat(there.out_format, Format("img"))(there(image)), image)


@pytest.mark.parametrize("dst", [Format("img", size=(2, 2)), Format("token", size=4), Format("bhwc", size=(2, 2))])
@pytest.mark.parametrize("src", ["img", "bhwc", "token"])
def test_resizing_is_bilinear_on_the_image(src, dst):
    x = tensor(SIZED[src])
    image = {"img": x, "bhwc": x.permute(0, 3, 1, 2)}[src] if src != "token" else as_image(x, 4, 4)
    small = resized(image, 2)
    expected = {"img": small, "bhwc": small.permute(0, 2, 3, 1), "token": small.flatten(2).transpose(1, 2)}
    assert torch.equal(Reformat(SIZED[src], dst)(x), expected[dst.kind])


@pytest.mark.parametrize("kind", ["img", "bhwc"])
@pytest.mark.parametrize("src", ["bert", "bert+3"])
def test_class_token_is_spread_as_further_channels(src, kind):
    x, prefix = tensor(SIZED[src]), SIZED[src].prefix
    reformat = Reformat(SIZED[src], Format(kind, size=(8, 8)))
    assert reformat.out_format == Format(kind, 2 * C, (8, 8))
    out = reformat(x) if kind == "img" else reformat(x).permute(0, 3, 1, 2)
    assert torch.equal(out[:, :C], resized(as_image(x[:, prefix:], 4, 4), 8))
    for h, w in product(range(8), repeat=2):
        assert torch.equal(out[:, C:, h, w], x[:, 0])


@pytest.mark.parametrize("src", ["img", "bhwc", "token", "vector"])
@pytest.mark.parametrize("prefix", [0, 1, 4])
def test_new_prefix_tokens(src, prefix):
    x = tensor(SIZED[src])
    tokens = Reformat(SIZED[src], Format("token"))(x)
    for class_token, value in {"zeros": 0.0, "ones": 1.0, "avg": tokens.mean(1, keepdim=True)}.items():
        out = Reformat(SIZED[src], Format("bert", prefix=prefix), class_token)(x)
        count = max(1, prefix)
        assert torch.equal(out[:, :count], torch.zeros(2, count, C) + value)
        assert torch.equal(out[:, count:], tokens)


def test_average_is_taken_after_resizing():
    x = tensor(SIZED["img"])
    out = Reformat(SIZED["img"], Format("bert", C, 9, 1), "avg")(x)
    torch.testing.assert_close(out[:, 0], resized(x, 3).mean((2, 3)))


def test_bert_of_another_length_keeps_its_prefix():
    x = tensor(SIZED["bert+3"])
    out = Reformat(SIZED["bert+3"], Format.parse(["bert", [C, 64]]))(x)
    assert torch.equal(out[:, :3], x[:, :3])
    assert torch.equal(out[:, 3:], resized(as_image(x[:, 3:], 4, 4), 8).flatten(2).transpose(1, 2))


def test_bert_with_more_prefix_tokens_makes_the_missing_ones():
    x = tensor(SIZED["bert"])
    reformat = Reformat(SIZED["bert"], SIZED["bert+3"], "ones")
    assert reformat.out_format == SIZED["bert+3"]
    assert torch.equal(reformat(x), torch.cat([x[:, :1], torch.ones(2, 2, C), x[:, 1:]], 1))


def test_bert_and_token():
    x = tensor(SIZED["bert+3"])
    assert torch.equal(Reformat(SIZED["bert+3"], Format("token"))(x), x[:, 3:])


def test_vectors():
    for name in ("img", "bhwc", "token"):
        x = tensor(SIZED[name])
        image = {"img": x, "bhwc": x.permute(0, 3, 1, 2)}[name] if name != "token" else as_image(x, 4, 4)
        torch.testing.assert_close(Reformat(SIZED[name], Format("vector"))(x), image.mean((2, 3)))
    x = tensor(SIZED["bert+3"])
    assert torch.equal(Reformat(SIZED["bert+3"], Format("vector"))(x), x[:, 0])
    x = tensor(SIZED["vector"])
    assert torch.equal(Reformat(SIZED["vector"], Format("img"))(x), x[:, :, None, None])
    assert torch.equal(Reformat(SIZED["vector"], Format("token", C, 1))(x), x[:, None])


def test_tokens_that_are_no_square():
    tokens = Format("token", C, 8)
    x = tensor(tokens)
    image = as_image(x, 2, 4)
    assert torch.equal(Reformat(tokens, Format("img", C, (2, 4)))(x), image)
    assert torch.equal(Reformat(Format("img", C, (2, 4)), Format("token"))(image), x)
    assert torch.equal(Reformat(tokens, Format("bert"))(x)[:, 1:], x)
    torch.testing.assert_close(Reformat(tokens, Format("vector"))(x), x.mean(1))
    # A square number of tokens too is the map that the format names.
    assert torch.equal(
        Reformat(SIZED["token"], Format("bhwc", C, (2, 8)))(tensor(SIZED["token"])),
        tensor(SIZED["token"]).unflatten(1, (2, 8)),
    )


@pytest.mark.parametrize(
    ("src", "dst", "words"),
    [
        (Format("token", C, 8), Format("img"), "8 tokens are no square map"),
        (Format("bert", C, 8, 1), Format("bhwc", C, (4, 4)), "8 tokens are no square map"),
        (Format("token", C, 8), Format("token", C, 16), "8 tokens are no square map"),
        (Format("img", C, (4, 4)), Format("token", C, 8), "square number of tokens only"),
        (Format("vector", C), Format("img", C, (4, 4)), "nothing to fill 16 positions"),
        (Format("vector", C), Format("bert", C, 4, 1), "nothing to fill 4 positions"),
    ],
)
def test_what_cannot_be_converted(src, dst, words):
    for attempt in (converted, Reformat):
        with pytest.raises(UserError, match=words) as caught:
            attempt(src, dst)
        assert caught.value.do


def test_unknown_class_token():
    with pytest.raises(UserError, match="did you mean 'zeros'"):
        Reformat(SIZED["img"], Format("bert"), "zeroes")
