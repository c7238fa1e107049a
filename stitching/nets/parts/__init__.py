"""The parts of networks: a file for each family, with the schema of its YAML, its module, and what it does to formats.

Reading the registry `PARTS` imports this package, which registers ours. A part of your own takes from here `PARTS`,
`BuildablePart` or `ChannelsPart` (its base), `BuildOptions` and `Format`: see docs/extending/parts.md.
"""

from stitching.config.parts import PARTS
from stitching.cutting.formats import Format
from stitching.nets.buildable import BuildablePart, BuildOptions, ChannelsPart
from stitching.nets.parts import adapters, composite, dery, heads, residual, trained, transformer

__all__ = [
    "PARTS", "BuildOptions", "BuildablePart", "ChannelsPart", "Format",
    "adapters", "composite", "dery", "heads", "residual", "trained", "transformer",
]  # fmt: skip
