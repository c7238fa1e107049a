"""How many parameters the published stitches train, worked out from tables of the models' shapes, without our recipes.

A norm has two parameters for each channel; a k x k convolution with a bias (k^2 in + 1) out, a bottleneck's have none.
"""

from __future__ import annotations

from itertools import pairwise

from stitching.cutting.formats import Format

GAPS = {(1, 1): 0, (1, 2): 1, (1, 4): 2, (1, 6): 3, (3, 3): 0, (3, 4): 1, (3, 6): 2, (5, 5): 0, (5, 6): 1}
LINEAR = ("linear_no_downsample", "linear_relu_no_downsample", "downsample_then_linear", "downsample_then_linear_relu")
CONV3X3 = ("downsample_then_3x3conv", "conv3x3_with_downsample")
BOTTLENECK = ("bottleneck_no_downsample", "downsample_then_bottleneck", "bottleneck_with_downsample")

SIZES = (56, 56, 28, 28, 14, 14, 7)  # behind each of the first seven pieces
CHANNELS = {  # likewise
    "resnet-50": (256, 256, 512, 512, 1024, 1024, 2048),
    "swin-t": (96, 96, 192, 192, 384, 384, 768),
    "mobilenet-v3": (24, 24, 40, 40, 80, 112, 160),
    "vit-small": (384,) * 7,
}
VIT_BLOCK = 4 * (384 * 384 + 384) + 384 * 1536 + 1536 + 1536 * 384 + 384 + 4 * 384  # attention, MLP, two norms
BEFORE, HEAD = 384 * 3 * 16 * 16 + 384 + 197 * 384 + 384, 2 * 384 + 384 * 1000 + 1000
PIECES = {  # the parameters of each: the sums of the modules that are in it
    "resnet-50": (84_544, 140_800, 379_392, 840_192, 1_512_448, 5_585_920, 6_039_552, 10_974_184),
    "swin-t": (4_896, 224_694, 74_496, 891_756, 296_448, 10_658_952, 1_182_720, 14_954_392),
    "mobilenet-v3": (4_368, 4_440, 10_328, 41_984, 32_080, 699_288, 429_224, 4_261_320),
    "vit-small": (BEFORE + VIT_BLOCK, *(2 * VIT_BLOCK, VIT_BLOCK) * 3, 2 * VIT_BLOCK + HEAD),
}
EIGHT = {  # sweeps, each with its source and destination
    **{name: (name, name) for name in CHANNELS},
    "resnet-50-swin-t": ("resnet-50", "swin-t"),
    "resnet-50-vit-small": ("resnet-50", "vit-small"),
    "vit-small-resnet-50": ("vit-small", "resnet-50"),
    "vit-small-swin-t": ("vit-small", "swin-t"),
}


def interface(model: str, piece: int) -> Format:
    """The format behind the piece of this number."""
    channels, size = CHANNELS[model][piece], SIZES[piece]
    if model == "vit-small":
        return Format("bert", channels, 196, 1)
    return Format("bhwc" if model == "swin-t" else "img", channels, (size, size))


def adapter_parameters(source: str, dest: str, gap: tuple[int, int], stitcher: str) -> int | None:
    """The parameters of the adapter; None where it is declined."""
    first, last = gap
    sequences = source == dest == "vit-small"
    if sequences and stitcher not in LINEAR:
        return None
    steps = max(1, GAPS[gap])
    channels, end = CHANNELS[source][first - 1], CHANNELS[dest][last]
    if source == "vit-small" and not sequences:
        channels *= 2  # the class token's
    widths = [channels]
    for _ in range(steps - 1):
        widths.append(min(2 * widths[-1], end) if widths[-1] < end else max(widths[-1] // 2, end))
    widths.append(end)
    total = 0
    for step, (fan_in, fan_out) in enumerate(pairwise(widths)):
        if stitcher in BOTTLENECK:
            is_strided = stitcher == "bottleneck_with_downsample" and step < _halvings(source, dest, gap)
            total += _bottleneck(fan_in, fan_out, is_projected=fan_in != fan_out or is_strided)
        else:
            positions = 9 if stitcher in CONV3X3 else 1
            total += 2 * fan_in + (positions * fan_in + 1) * fan_out + 2 * fan_out
    return total


def _halvings(source: str, dest: str, gap: tuple[int, int]) -> int:
    """How often the map halves between the two, which the first steps do."""
    before = 14 if source == "vit-small" else SIZES[gap[0] - 1]
    after = 14 if dest == "vit-small" else SIZES[gap[1]]
    return max(0, (before // after).bit_length() - 1)


def _bottleneck(fan_in: int, fan_out: int, is_projected: bool) -> int:
    width = fan_out // 4
    branch = fan_in * width + 9 * width * width + width * fan_out + 2 * (2 * width + fan_out)
    return branch + is_projected * (fan_in * fan_out + 2 * fan_out)


def finetune_parameters(source: str, dest: str, gap: tuple[int, int]) -> int | None:
    """The parameters of a network without an adapter; None where sizes do not meet."""
    first, last = gap
    kept = [piece for piece in range(8) if piece < first or piece > last or piece % 2 == 0]
    if source != dest or (source == "mobilenet-v3" and 5 not in kept):  # 80 channels before 6, which takes 112
        return None
    return sum(PIECES[source][piece] for piece in kept)


def parameters(source: str, dest: str, gap: tuple[int, int], stitcher: str) -> int | None:
    """What is trained; None where it is declined."""
    if stitcher == "finetune":
        return finetune_parameters(source, dest, gap)
    return adapter_parameters(source, dest, gap, stitcher)
