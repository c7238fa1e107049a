"""Arguments of parts as older job files have them: other words, sizes without channels, branches of other formats."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from building import build

from stitching.config.errors import UserError
from stitching.config.format_syntax import ReformatOptions
from stitching.cutting.formats import Format
from stitching.nets.build import BuildOptions, build_network
from stitching.nets.parts import PARTS

IMAGES = Format("img", 3, (28, 28))


def network(*parts: dict[str, Any], **options: Any) -> Any:
    return build_network(PARTS.validated({"Assembly": {"parts": list(parts)}}), IMAGES, BuildOptions(**options)).eval()


@pytest.mark.parametrize(
    ("written", "parsed"),
    [
        (["img", [14, 14]], Format("img", None, (14, 14))),
        (["img", 14], Format("img", None, (14, 14))),
        (["bhwc", [7, 14]], Format("bhwc", None, (7, 14))),
        (["bert", 196], Format("bert", None, 196, 1)),
        (["token", [196]], Format("token", None, 196)),
        (["vector", 384], Format("vector", 384)),
        (["img", [384, 14, 14]], Format("img", 384, (14, 14))),
    ],
)
def test_sizes_of_formats_may_leave_channels_out(written: Any, parsed: Format) -> None:
    assert Format.parse(written) == parsed


@pytest.mark.parametrize("size", [14, [14, 14]])
def test_a_part_resizes_to_a_format_without_channels(size: Any) -> None:
    made = network(
        {"SimpleAdapter": {"num_conv": 1, "out_channels": 4, "in_format": ["img", size], "out_format": ["bert", 49]}}
    )
    assert made(torch.randn(2, 3, 28, 28)).shape == (2, 50, 4)


@pytest.mark.parametrize(("older", "newer"), [("mean", "avg"), ("zeroes", "zeros"), ("ones", "ones")])
def test_class_tokens_have_older_words(older: str, newer: str) -> None:
    assert ReformatOptions(class_token=older) == ReformatOptions(class_token=newer)  # type: ignore[arg-type]


@pytest.mark.parametrize(("token", "value"), [("ones", 1.0), ("zeroes", 0.0)])
def test_parallel_parts_have_options_of_their_own(token: str, value: float) -> None:
    branch = {
        "ParallelPart": {
            "parts": [],
            "agg": "avg",
            "in_format": "img",
            "out_format": "img",
            "reformat_options": {"class_token": token},
        }
    }
    branch["ParallelPart"]["parts"] = [{"SimpleAdapter": {"num_conv": 1, "out_channels": 4, "out_format": "bert"}}]
    branch["ParallelPart"].pop("out_format")
    out = network(branch, class_token="avg")(torch.randn(2, 3, 28, 28))
    assert (out[:, 0] == value).all()


def test_branches_are_converted_before_they_are_joined() -> None:
    """A map with channels last, 4x7x7, beside an image, 10x7x7: of 14 channels, in the order of the branches."""
    linear = {"SimpleAdapter": {"num_fc": 1, "out_channels": 4, "in_format": ["bhwc", 7], "fc_format": "bhwc"}}
    conv = {"SimpleAdapter": {"num_conv": 1, "out_channels": 10, "stride": 4}}
    joined = {"parts": [linear, conv], "agg": "concat"}
    with pytest.raises(UserError, match="concat cannot join them"):
        network({"ParallelPart": joined})
    for out_format in ("img", ["img", [14, 7, 7]], ["img", 7]):
        made = network({"ParallelPart": joined | {"out_format": out_format}})
        x = torch.randn(2, 3, 28, 28)
        out = made(x)
        first, second = (branch(x) for branch in made.pieces[0].net.parts)
        assert torch.equal(out, torch.cat([first, second], 1))
        assert out.shape == (2, 14, 7, 7)
    with pytest.raises(UserError, match="declares 9 channels"):
        network({"ParallelPart": joined | {"out_format": ["img", [9, 7, 7]]}})


def test_joined_sequences_are_as_long_as_their_branches_together() -> None:
    branches = [{"SimpleAdapter": {"num_conv": 1, "out_channels": 4, "stride": 4}}] * 2
    made = network({"ParallelPart": {"parts": branches, "agg": "concat_sequence", "out_format": ["token", 98]}})
    assert made(torch.randn(2, 3, 28, 28)).shape == (2, 98, 4)


@pytest.mark.parametrize("window", [4, [4, 4], [2, 7]])
def test_windows_of_two_sides(window: Any) -> None:
    block = build("SwinTransformerBlock", 12, num_heads=2, window_size=window, do_shift=True, drop_path_rate=0.25)
    sides = [window, window] if isinstance(window, int) else window
    assert (block.attn.window_size, block.attn.shift_size) == (sides, [side // 2 for side in sides])
    assert block.stochastic_depth.p == 0.25
    assert block.eval()(torch.randn(1, 14, 14, 12)).shape == (1, 14, 14, 12)


def test_a_window_that_is_square_has_one_spelling() -> None:
    schema: Any = PARTS["SwinTransformerBlock"]
    one, other = schema(window_size=[7, 7], drop_path_rate=0.1), schema(stochastic_depth=0.1)
    assert one == other
    with pytest.raises(ValueError, match=r"stochastic_depth 0\.2"):
        schema(drop_path_rate=0.1, stochastic_depth=0.2)


@pytest.mark.parametrize("layers", [{"num_conv": 0, "num_fc": 1}, {"num_conv": 1, "num_fc": 0}])
def test_no_layers_of_the_other_kind(layers: dict[str, int]) -> None:
    adapter = build("SimpleAdapter", 4, **layers)
    assert adapter(torch.randn(2, 4, 9, 9) if layers["num_conv"] else torch.randn(2, 9, 4)).shape[:1] == (2,)


@pytest.mark.parametrize(("fan_in", "fan_out"), [(6, 4), (4, 6), (4, 4)])
@pytest.mark.parametrize("layers", [{"num_conv": 2}, {"num_fc": 1, "leading_norm": False, "trailing_norm": False}])
@pytest.mark.parametrize("nonlinearity", [False, True])
def test_the_first_channels_are_kept(fan_in: int, fan_out: int, layers: dict, nonlinearity: bool) -> None:
    adapter = build(
        "SimpleAdapter", fan_in, out_channels=fan_out, init_identity=True, nonlinearity=nonlinearity, **layers
    )
    x = torch.rand(2, fan_in, 5, 5) + 0.1
    out = adapter.eval()(x if "num_conv" in layers else x.permute(0, 2, 3, 1))
    out = out if "num_conv" in layers else out.permute(0, 3, 1, 2)
    kept = min(fan_in, fan_out)
    assert torch.equal(out[:, :kept], x[:, :kept])
    assert (out[:, kept:] == 0).all()
    assert any("negative" in note for note in adapter.notes) == nonlinearity
    assert any("first 4 as they are" in note for note in adapter.notes) == (fan_in != fan_out)
