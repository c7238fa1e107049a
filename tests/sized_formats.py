"""A format of each kind, of one size: 4x4 positions of 6 channels."""

from __future__ import annotations

from stitching.cutting.formats import Format

C = 6
SIZED = {
    "img": Format("img", C, (4, 4)),
    "bhwc": Format("bhwc", C, (4, 4)),
    "token": Format("token", C, 16),
    "bert": Format("bert", C, 16, 1),
    "bert+3": Format("bert", C, 16, 3),
    "vector": Format("vector", C),
}
