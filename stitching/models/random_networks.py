"""Networks with random weights: every branch computes something, and BatchNorm has the statistics of real images.

As libraries initialise them, many networks compute less than their architecture does: a norm, a layer or a gate at the
end of each residual branch starts at zero, so that training begins with the identity, and BatchNorm has a mean of zero
and a variance of one for any input. A control with such a network would be weaker than "random weights" suggests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stitching.config.preprocessing import Preprocessing
from stitching.cutting.shapes import meta_copy
from stitching.cutting.tracing import Shape3
from stitching.data.loading import Batches

__all__ = ["STATISTICS_IMAGES", "ImageSample", "measure_statistics", "open_branches"]

STATISTICS_IMAGES = 256
_BATCH = 64  # fixed, as a batch's statistics depend on it
_LAYERS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.Linear, _ConvNd)
_OFF = 0.01  # of a gate: 1e-6 (ConvNeXt) and 1e-5 (CaiT) all but switch a branch off, 0.1 does not
_PRODUCTS = (torch.ops.aten.mul, torch.ops.aten.mul_)


@dataclass(frozen=True)
class ImageSample:
    """Training images of a data set, without augmentation.

    Attributes:
        dataset, data_path, preprocessing, seed, validation: as for `Batches`; sequences as tuples.
    """

    dataset: str
    data_path: str | None
    preprocessing: Preprocessing
    seed: int
    validation: tuple[float, int] | None = None

    @property
    def shape(self) -> Shape3:
        """(C, H, W) of the images."""
        return self.batches().shape

    def batches(self) -> Batches:
        """`STATISTICS_IMAGES` of them, or all if there are fewer; which ones depends on the seed."""
        return Batches(
            self.dataset, self.data_path, preprocessing=self.preprocessing, batch_size=_BATCH, seed=self.seed,
            split="train", validation=self.validation, only=STATISTICS_IMAGES,
        )  # fmt: skip


def open_branches(model: nn.Module, shape: Shape3) -> None:
    """Reset what starts at zero, and so switches its branch off, to the ordinary start of its layer.

    A norm, linear layer or convolution whose weights are all zero is reset by its own `reset_parameters`. A gate (a
    parameter that activations are multiplied with, such as the gamma of LayerScale) that is nowhere above 0.01 becomes
    one, so that the branch counts as in networks without gates.

    Args:
        model: an untrained network; new values are drawn from the global random state.
        shape: (C, H, W) of images that it takes.
    """
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, _LAYERS) and isinstance(weight, nn.Parameter) and not weight.any():
            module.reset_parameters()
    copy = meta_copy(model).eval()
    with torch.no_grad(), _Gates(copy) as hooked, torch.device("meta"):
        copy(torch.empty(1, *shape))
    for name in sorted(hooked.gates):
        gate = model.get_parameter(name)
        if gate.abs().max() <= _OFF:
            nn.init.ones_(gate)


class _Gates(TorchDispatchMode):
    """Collects the parameters of a model that are multiplied with something, directly or as a view."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.views: list[Tensor] = []  # kept, so that no other tensor gets their `id`
        self.gates: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        names = [self.names.get(id(value)) for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        if func.overloadpacket in _PRODUCTS:
            self.gates.update(name for name in names if name)
        elif func.is_view and isinstance(out, Tensor) and names[0]:
            self.names[id(out)] = names[0]
            self.views.append(out)
        return out


@torch.no_grad()
def measure_statistics(model: nn.Module, sample: ImageSample) -> int:
    """Give the BatchNorm layers of a model, on the CPU, the statistics of images: the mean over batches of 64.

    Each layer sees what the layers before it compute with the statistics of the same batch (PreciseBN of Wu and
    Johnson, 2021, arXiv:2105.07576). The rest of the model is in eval mode meanwhile.

    Returns:
        the number of images used: 0 if the model has no such layers or does not take these images, and is unchanged.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
        return 0
    if not _takes(model, sample.shape):
        return 0
    batches = sample.batches()
    mode, momenta = model.training, [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    for images, _ in batches.epoch(0):
        model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train(mode)
    return batches.num_images


def _takes(model: nn.Module, shape: Shape3) -> bool:
    try:
        with torch.device("meta"):
            meta_copy(model).eval()(torch.empty(1, *shape))
    except (RuntimeError, AssertionError, ValueError, TypeError, IndexError):
        return False
    return True
