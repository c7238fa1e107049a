"""`python -m stitching`, the same as the command `stitching`."""

from stitching.cli import main

main()
