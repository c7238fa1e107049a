"""Networks made of parts: pieces in a row or side by side, each with the format conversions around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stitching.cutting.formats import Format
from stitching.nets.conversions import Reformat

__all__ = ["Network", "Parallel", "Part"]


class Part(nn.Module):
    """One part of a network: conversion of its input, the part itself, conversion of its output.

    A frozen piece has no gradients and stays in eval mode when the network is put in train mode: no dropout, no
    stochastic depth, no moving statistics. With `frozen_norm="batch"` its BatchNorm layers alone follow the network's
    mode: they normalise by the batch and their running statistics move, as in works that call `model.train()` on a
    network with frozen parts.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        before: Reformat,
        after: Reformat,
        out_format: Format,
        frozen: bool,
        frozen_norm: Literal["running", "batch"] = "running",
    ) -> None:
        super().__init__()
        self.net = net
        self.before = before
        self.after = after
        self.out_format = out_format
        self.frozen = frozen
        self.frozen_norm = frozen_norm
        if frozen:
            net.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.net(self.before(x)))

    def train(self, mode: bool = True) -> Part:
        super().train(mode)
        if self.frozen:
            self.net.eval()
            if self.frozen_norm == "batch":
                for module in self.net.modules():
                    if isinstance(module, _BatchNorm):
                        module.train(mode)
        return self


class Network(nn.Module):
    """Pieces in a row: a stitched network, or a whole one as its only piece.

    Takes images (N, C, H, W). Returns the last piece's output: (N, classes) as a rule, or a list of these if the last
    piece has a head for each task.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor, first: int = 0) -> Tensor:
        """The output for images; with `first`, for the output of the pieces before that number."""
        for part in self.pieces[first:]:
            x = part(x)
        return x

    @property
    def out_format(self) -> Format:
        """The format of the last piece's output."""
        return self.pieces[-1].out_format

    @property
    def pieces(self) -> list[Part]:
        """The parts, typed."""
        return [part for part in self.parts if isinstance(part, Part)]

    def changing_state(self) -> dict[str, Tensor]:
        """The state that training can change: that of all pieces that are not frozen, and moving statistics."""
        fixed = [f"parts.{i}." for i, p in enumerate(self.pieces) if p.frozen and p.frozen_norm == "running"]
        return {key: value for key, value in self.state_dict().items() if not key.startswith(tuple(fixed))}


class Parallel(nn.Module):
    """Pieces side by side on the same input.

    `agg` combines their outputs: `none` returns the list, `avg` the mean, `concat_channels` joins the channels,
    `concat_sequence` the tokens (dimension 1).
    """

    def __init__(self, parts: Sequence[Part], agg: str) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.agg = {"concat": "concat_channels"}.get(agg, agg)
        # The channels are the second dimension of an image and of a vector, the last one of everything else.
        self.channel_dim = 1 if parts[0].out_format.kind in ("img", "vector") else -1
        self.out_kind, self.out_prefix = parts[0].out_format.kind, parts[0].out_format.prefix

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        outputs = [part(x) for part in self.parts]
        if self.agg == "none":
            return outputs
        if self.agg == "avg":
            return torch.stack(outputs).mean(0)
        return torch.cat(outputs, self.channel_dim if self.agg == "concat_channels" else 1)
