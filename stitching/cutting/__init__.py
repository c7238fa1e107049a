"""Cutting any `nn.Module`: tracing, cut points, subnets, formats of tensors, blocks and stages, cost."""
