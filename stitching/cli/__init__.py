"""The command line: parses, calls, prints."""

from __future__ import annotations

import errno
import os
import sys

from stitching.cli import (  # isort: skip - in the order of the help
    jobs, planning, scoring, submitting, watching, cleaning, results, cross_testing, config_schemas,
)  # fmt: skip
from stitching.cli.console import app, err
from stitching.config.errors import UserError, shortened
from stitching.config.yaml import unwritable_character
from stitching.processes import process_rank

__all__ = [
    "app",
    "cleaning",
    "config_schemas",
    "cross_testing",
    "jobs",
    "main",
    "planning",
    "results",
    "scoring",
    "submitting",
    "watching",
]


def main() -> None:
    """Run the command line; a user's mistake ends it with one message and exit code 2, Ctrl-C with 130."""
    try:
        _check_text(sys.argv[1:])
        app(args=sys.argv[1:])
    except UserError as error:
        if process_rank().size > 1 and not _tells():
            sys.exit(2)
        err.quiet = False
        err.print(f"error: {error}", markup=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("Stopped.")
        sys.exit(130)
    except BrokenPipeError:  # `stitching ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in _NO_PATH or not error.filename:
            raise
        err.print(f"error: {shortened(error.filename, 120)} is no path: {error.strerror}", markup=False, soft_wrap=True)
        sys.exit(2)


# What the system says of a path that nobody could use: too long, a circle of links, not allowed.
_NO_PATH = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM)


def _check_text(arguments: list[str]) -> None:
    """Raise for what no file name, config or terminal could hold: bytes that are no UTF-8, and NUL."""
    for argument in arguments:
        if unwritable_character(argument):
            raise UserError(f"the argument {argument!r} is no text", allowed="UTF-8 without NUL")


def _tells() -> bool:
    """Whether it is this of several processes that tells what went wrong."""
    from stitching.training.distributed import process_group

    try:
        return process_group().first_to_report()
    except UserError:  # nobody else is there
        return True
