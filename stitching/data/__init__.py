"""Data sets by name, transforms, and batches that depend on seed and epoch alone.

Others use `Batches` (`loading`), `dataset_info`, `open_dataset` and `look_for_dataset` (`datasets`), and
`make_transform` (`transforms`). Ours are in `shipped`; a user's own are registered with `datasets.dataset`.
"""
