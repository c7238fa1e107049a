"""Cutting any `nn.Module`: tracing, cut points, subnets, formats of tensors, blocks and stages, cost.

Begin with `cut_points.py`. Others use `trace`, `cut_points`, `resolve` and `extract` (`cut_points`), `Format` and
`converted` (`formats`), `find_stages` and `find_blocks` (`stages`), `cost` and `cut_costs` (`cost`), and `meta_copy`
(`shapes`), which runs a model's shapes without its weights.
"""
