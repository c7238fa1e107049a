"""The conversions between formats as modules."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stitching.cutting.formats import Format, converted, maps

__all__ = ["Reformat"]


class Reformat(nn.Module):
    """Converts tensors of format `src` to `dst`, without parameters.

    The image is resized (bilinear, no antialiasing, `align_corners` off) if `dst` names another size, then rearranged.
    Prefix tokens:

    - bert -> img, bhwc: the first is spread over the map as further channels, after those of the map; others are
      dropped.
    - bert -> token: dropped. bert -> vector: the first is the vector.
    - bert -> bert: kept; if `dst` has more, new ones follow.
    - anything else -> bert: `dst.prefix` new ones, at least one.

    New tokens are as `class_token` says. Tokens form a square map, unless `dst` is a map of as many positions. A map or
    tokens become a vector by the mean over all positions; a vector becomes a map or a sequence of one position. If
    nothing changes, the same tensor is returned.

    Args:
        src: the format before, with its size; the batch size is free.
        dst: the format to convert to, with a size or without.
        class_token: zeros, ones, or avg, the mean over the positions of the resized image.

    Raises:
        UserError: as `converted`.
    """

    def __init__(self, src: Format, dst: Format, class_token: str = "zeros") -> None:
        super().__init__()
        self.src = src
        self.class_token = class_token
        self.out_format = converted(src, dst, class_token)
        self.src_size, self.dst_size = maps(src, dst)
        kept = src.prefix if self.out_format.kind == "bert" else 0
        self.new_prefix = self.out_format.prefix - kept
        self.changes = src.kind != self.out_format.kind or self.src_size != self.dst_size or self.new_prefix > 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.changes:
            return x
        prefix = None
        if self.src.prefix:
            prefix, x = x[:, : self.src.prefix], x[:, self.src.prefix :]
        x = self._as_map(x)
        if self.out_format.kind == "vector":
            return x.mean((2, 3)) if prefix is None else prefix[:, 0]
        if self.src_size != self.dst_size:
            x = F.interpolate(x, self.dst_size, mode="bilinear", align_corners=False)
        return self._to_output(x, prefix)

    def _as_map(self, x: Tensor) -> Tensor:
        """The positions of a tensor of kind `src`, without its prefix, as (N, C, H, W)."""
        match self.src.kind:
            case "img":
                return x
            case "bhwc":
                return x.permute(0, 3, 1, 2)
            case "vector":
                return x[:, :, None, None]
        return x.transpose(1, 2).unflatten(2, self.src_size)

    def _to_output(self, x: Tensor, prefix: Tensor | None) -> Tensor:
        """A map (N, C, H, W) and its prefix tokens (N, P, C) in the output format."""
        kind = self.out_format.kind
        if kind in ("img", "bhwc"):
            if prefix is not None:
                x = torch.cat([x, prefix[:, 0, :, None, None].expand_as(x)], 1)
            return x if kind == "img" else x.permute(0, 2, 3, 1)
        x = x.flatten(2).transpose(1, 2)
        if kind == "token":
            return x
        new = x.mean(1, keepdim=True) if self.class_token == "avg" else torch.zeros_like(x[:, :1])
        if self.class_token == "ones":
            new = torch.ones_like(new)
        new = new.expand(-1, self.new_prefix, -1)
        return torch.cat([new, x] if prefix is None else [prefix, new, x], 1)

    def extra_repr(self) -> str:
        return f"{self.src} -> {self.out_format}" if self.changes else "same"
