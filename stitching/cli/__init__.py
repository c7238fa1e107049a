"""The command line: parses, calls, prints."""

from __future__ import annotations

import os
import sys

from stitching.cli import jobs, sweeps, results  # isort: skip - in the order of the help
from stitching.cli.console import app, err
from stitching.config.errors import UserError

__all__ = ["app", "jobs", "main", "results", "sweeps"]


def main() -> None:
    """Run the command line; a user's mistake ends it with one message and exit code 2, Ctrl-C with 130."""
    try:
        app()
    except UserError as error:
        err.print(f"error: {error}", markup=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("Stopped.")
        sys.exit(130)
    except BrokenPipeError:  # `stitching ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
