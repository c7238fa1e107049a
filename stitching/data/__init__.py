"""Data sets by name, transforms, and batches that depend on seed and epoch alone."""
