"""Training one job or several that share a pass over the data: the loop, losses, optimizers, checkpoints."""
