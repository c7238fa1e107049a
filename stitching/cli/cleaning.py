"""The command `clean`."""

from __future__ import annotations

from typing import Annotated

import typer

from stitching.cli.console import app, out
from stitching.cli.sweep_arguments import SweepsOrFolders, expected_of


@app.command(
    epilog="""
Examples: `stitching clean across-scales/digits.yml --dry-run`, `stitching clean experiments/demo/digits`
"""
)
def clean(
    paths: SweepsOrFolders,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be removed.")] = False,
) -> None:
    """Remove copies of the code, and logs and records of submitted jobs, that no unfinished or queued run needs.

    Results are never removed. The files of queued jobs stay, and so do those of an unfinished run's newest job.
    """
    from stitching.launch.leftovers import remove_leftovers

    total = 0
    for path in paths:
        folder, runs = expected_of(path)
        leftovers = remove_leftovers(folder, runs, dry_run=dry_run)
        for leftover in leftovers.removed:
            verb = "would remove" if dry_run else "removed"
            out.print(f"{verb} {leftover.words} ({_size(leftover.bytes)})", markup=False, soft_wrap=True)
        for words in leftovers.kept:
            out.print(f"kept {words}", markup=False, soft_wrap=True)
        total += sum(leftover.bytes for leftover in leftovers.removed)
    out.print(f"{_size(total)} {'would be freed' if dry_run else 'freed'}")


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count / 1e3:,.1f} kB"
