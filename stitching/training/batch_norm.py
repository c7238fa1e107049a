"""BatchNorm with the statistics of a whole batch that is split over several processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from stitching.training.distributed import ProcessGroup

__all__ = ["WholeBatchNorm"]


class WholeBatchNorm(TorchFunctionMode):
    """Makes the BatchNorm layers of a network take their statistics over the shares of all processes.

    torch's SyncBatchNorm refuses tensors on a CPU, and replacing a layer by it loses what a subclass adds (timm's have
    an activation). So the layers stay, and only `F.batch_norm` inside them is replaced; in eval mode it is torch's.
    """

    def __init__(self, network: nn.Module, world: ProcessGroup) -> None:
        super().__init__()
        self.world = world
        self.has_images = True  # False while this process has no image of the batch, and computes with another's
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.forward = self._in_this_mode(module.forward)  # type: ignore[assignment]

    def _in_this_mode(self, forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        @torch.compiler.disable
        def forward_in_this_mode(x: Tensor) -> Tensor:
            with self:
                return forward(x)

        return forward_in_this_mode

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (self._batch_norm if func is F.batch_norm else func)(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
        y, mean, var, count = _Normalised.apply(x, weight, bias, eps, self.world, self.has_images)
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((var * count / (count - 1)).to(running_var.dtype), momentum)
        return y


class _Normalised(torch.autograd.Function):
    """y = (x - mean) / sqrt(var + eps) * weight + bias; x is (N, C, ...), mean and var (C) are of all processes.

    With g the gradient of y and h = (x - mean) / sqrt(var + eps), that of x is
    weight / sqrt(var + eps) * (g - mean(g) - h * mean(g * h)), the means again over all processes (Ioffe and Szegedy,
    2015). Weight and bias get this process's part of their gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        world: ProcessGroup,
        has_images: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        var, mean = torch.var_mean(x.float(), _all_but_channels(x), correction=0)
        # Mean and variance of each process, combined as in Chan et al. (1979): sums of squares would cancel.
        table = x.new_zeros((world.size, 3, len(mean)), dtype=torch.float32)
        table[world.rank] = torch.stack([torch.full_like(mean, has_images * x.numel() / x.shape[1]), mean, var])
        counts, means, variances = world.sum(table).unbind(1)
        count = counts.sum(0)
        mean = (counts * means).sum(0) / count
        var = (counts * (variances + (means - mean).square())).sum(0) / count
        ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt(), count)
        ctx.world, ctx.has_images = world, has_images
        ctx.mark_non_differentiable(mean, var, count)
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps), mean, var, count

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Any:
        x, weight, mean, scale, count = ctx.saved_tensors
        dims = _all_but_channels(x)
        shape = [-1 if dim == 1 else 1 for dim in range(x.dim())]
        g = grad.float()
        h = (x.float() - mean.view(shape)) * scale.view(shape)
        local_sums = torch.stack([g.sum(dims), (g * h).sum(dims)])
        grad_x = None
        if ctx.needs_input_grad[0]:
            sums = ctx.world.sum(local_sums.clone()) / count
            if ctx.has_images:  # else the statistics do not depend on this x
                g = g - sums[0].view(shape) - h * sums[1].view(shape)
            factor = scale if weight is None else scale * weight.float()
            grad_x = (g * factor.view(shape)).to(x.dtype)
        grad_weight = local_sums[1].to(weight.dtype) if ctx.needs_input_grad[1] else None
        grad_bias = local_sums[0] if ctx.needs_input_grad[2] else None
        return grad_x, grad_weight, grad_bias, None, None, None


def _all_but_channels(x: Tensor) -> list[int]:
    return [dim for dim in range(x.dim()) if dim != 1]
