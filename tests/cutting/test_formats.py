"""Formats as they are written, sized and refused."""

from __future__ import annotations

import pytest
from sized_formats import SIZED, C

from stitching.config.errors import UserError
from stitching.cutting.formats import Format, converted


@pytest.mark.parametrize(
    ("given", "fmt", "words"),
    [
        ("img", Format("img"), "img"),
        (["img", [256, 56, 28]], Format("img", 256, (56, 28)), "img 256x56x28"),
        (("bhwc", (96, 7, 14)), Format("bhwc", 96, (7, 14)), "bhwc 96x7x14"),
        (["token", [384, 196]], Format("token", 384, 196), "token 384x196"),
        ("bert", Format("bert", prefix=1), "bert"),
        (["bert", [384, 196]], Format("bert", 384, 196, 1), "bert 384x196+1"),
        (["vector", [1000]], Format("vector", 1000), "vector 1000"),
    ],
)
def test_parse_and_back(given, fmt, words):
    assert Format.parse(given) == fmt
    assert str(fmt) == words
    assert Format.parse(fmt.to_yaml()) == fmt


def test_half_sized_format_is_written_as_its_kind():
    assert Format("img", 3).to_yaml() == "img"
    assert str(Format("img", 3)) == "img 3x?x?"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("tokens", "did you mean 'token'"),
        (None, "no format 'None'"),
        (["img", [1, 2, 3], 4], "is no format"),
        (["img", [3, 256, 56, 4]], r"\[C, H, W\], 3 whole numbers"),
        (["bert", [384, 14, 14]], r"\[C, L\]"),
        (["vector", [10, 10]], r"\[C\], 1 whole number above"),
        (["img", [256, 56.0, 56]], "whole numbers"),
        (["img", [True, 56, 56]], "whole numbers"),
        (["token", [384, 0]], "above zero"),
        (["img", [256]], "the size of 'img' is"),
    ],
)
def test_parse_tells_what_is_wrong(given, words):
    with pytest.raises(UserError, match=words):
        Format.parse(given)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("img", (2, C, 4, 4)),
        ("bhwc", (2, 4, 4, C)),
        ("token", (2, 16, C)),
        ("bert", (2, 17, C)),
        ("bert+3", (2, 19, C)),
        ("vector", (2, C)),
    ],
)
def test_shape_and_of(name, shape):
    fmt = SIZED[name]
    assert fmt.shape(2) == shape
    assert Format.of(fmt.kind, shape, fmt.prefix) == fmt


def test_of_refuses_other_shapes():
    assert Format.of("img", (1, 3, 5, 7), prefix=1) == Format("img", 3, (5, 7))
    with pytest.raises(UserError, match="is no 'vector'"):
        Format.of("vector", (1, 197, 384))
    with pytest.raises(UserError, match="with 1 prefix"):
        Format.of("bert", (1, 1, 384), prefix=1)


def test_invariants():
    with pytest.raises(ValueError, match="not fully sized"):
        Format("img", 3).shape(1)
    with pytest.raises(ValueError, match="not fully sized"):
        converted(Format("token", 3), Format("img"))
    with pytest.raises(ValueError, match="no prefix"):
        Format("token", prefix=1)


def test_spatial():
    assert Format("bhwc", 3, (7, 5)).spatial == (7, 5)
    assert Format("bert", 3, 196, 1).spatial == (14, 14)
    assert Format("token", 3, 98).spatial is None
    assert Format("vector", 3).spatial is None
    assert Format("img").spatial is None
