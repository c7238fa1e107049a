"""Cutting any `nn.Module`: tracing, cut points, subnets, formats of tensors, blocks and stages, cost.

Begin with `cut_points.py`. Others use `trace`, `cut_points`, `resolve`, `extract` and `extract_for` (`cut_points`),
`Format` and `converted` (`formats`), `find_stages` and `find_blocks` (`stages`), `boundaries` (`blocks`), `cost` and
`cut_costs` (`cost`), and `meta_copy` (`shapes`), which runs a model's shapes without its weights. `flow.py` tells what
carries the images' content from what follows from their size.
"""
