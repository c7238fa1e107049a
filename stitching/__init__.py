"""Cut trained networks, stitch them with adapters, and measure what comes back.

`cut_points`, `cut` and `stitch` work on any network; the rest loads and draws the results of runs. The names stand in
`__init__.pyi`, and each is imported when it is first used: `stitching --help` need not wait for pandas.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
