"""Reading the YAML that runs write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from stitching.runs.folder import read_checked


def read_yaml(path: Path) -> Any:
    """Plain data as `write_yaml` left it; the digest at its end must fit."""
    return yaml.safe_load(read_checked(path, str))
