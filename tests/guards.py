"""What tests may do to the machine that they run on."""

from __future__ import annotations

import os

MAY_CHANGE = "STITCHING_TESTS_MAY_CHANGE_MACHINE"


def why_unchanged() -> str | None:
    """Why no package may be installed and no file system mounted; None if they may."""
    if os.geteuid() != 0:
        return "that takes root"
    if not os.environ.get(MAY_CHANGE):
        return f"that changes the machine: set {MAY_CHANGE}=1 to allow it, as `make test` does for root"
    return None
