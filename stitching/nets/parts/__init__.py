"""The parts of networks that are trained: adapters, residual and transformer blocks, heads."""
