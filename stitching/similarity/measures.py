"""How similar two representations of the same images are, and the linear map that carries one into the other.

Everything is added up batch by batch in float64, so that memory does not grow with the number of images; only
`ImageVectors` keeps a vector of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from stitching.config.errors import UserError

__all__ = [
    "AffineMap", "ImageVectors", "MinibatchCKA", "Moments", "Residuals", "centred_gram", "procrustes", "r2",
    "unbiased_hsic",
]  # fmt: skip

COPIED_AT_ONCE = 2**24  # of the largest float64 copy of features: 128 MiB


# ------------------------------------------------------------------------ centred kernel alignment


def centred_gram(features: Tensor) -> Tensor:
    """The linear kernel of a batch: inner products of the images' features, centred over the batch.

    Args:
        features: (N, ...), flattened for each image.

    Returns:
        (N, N), float64. Centring changes no unbiased HSIC; it keeps large means from eating digits.
    """
    flat = features.flatten(1)
    gram = torch.zeros((len(flat), len(flat)), dtype=torch.float64, device=flat.device)
    for columns in flat.split(max(1, COPIED_AT_ONCE // len(flat)), dim=1):
        centred = columns.double()
        centred = centred - centred.mean(0)
        gram += centred @ centred.T
    return gram


def unbiased_hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741 - K and L are what the papers call them
    """The unbiased estimate of the Hilbert-Schmidt independence criterion of two kernels of the same n images.

    HSIC_1 of Song et al. (2012, "Feature selection via dependence maximization"): with the diagonals of K and L set
    to zero, (tr(KL) + 1'K1 1'L1 / ((n - 1)(n - 2)) - 2 / (n - 2) 1'KL1) / (n (n - 3)).

    Args:
        k, l: (n, n), n at least 4.
    """
    n = len(k)
    if n < 4:
        raise ValueError(f"{n} images are too few for an unbiased estimate, which takes 4")
    k, l = (kernel - torch.diag(kernel.diagonal()) for kernel in (k, l))  # noqa: E741
    rows_k, rows_l = k.sum(0), l.sum(0)
    total = (k * l).sum() + rows_k.sum() * rows_l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (rows_k @ rows_l)
    return total / (n * (n - 3))


class MinibatchCKA:
    """Linear centred kernel alignment (Kornblith et al., 2019, arXiv:1905.00414), added up over batches.

    Unbiased HSIC estimates of every batch are averaged before they are divided, as by Nguyen et al. (2021,
    arXiv:2010.15327): on average the result does not depend on the batch size, and no pair of images of different
    batches has to be in memory together. An image's features are all its activations, flattened, so that maps of
    different sizes are compared as they are. 1 for representations that differ by a rotation, a scale and a shift;
    about 0, and sometimes a little below, for unrelated ones.
    """

    def __init__(self) -> None:
        self.sums = torch.zeros(3, dtype=torch.float64)

    def add(self, k: Tensor, l: Tensor) -> None:  # noqa: E741
        """Add a batch's `centred_gram` of both representations; a batch of fewer than 4 images is skipped."""
        if len(k) >= 4:
            self.sums += torch.stack([unbiased_hsic(k, l), unbiased_hsic(k, k), unbiased_hsic(l, l)]).cpu()

    @property
    def value(self) -> float:
        """The alignment; NaN if a representation is constant."""
        both, first, second = self.sums.tolist()
        return both / (first * second) ** 0.5 if first > 0 and second > 0 else float("nan")


# ------------------------------------------------------------------------ maps between channels


@dataclass(frozen=True)
class AffineMap:
    """y = x @ weight + bias.

    Attributes:
        weight: (channels of x, channels of y), float64.
        bias: (channels of y,), float64.
        rank: of the covariance of x; if it is below the channels of x, they depend on each other.
    """

    weight: Tensor
    bias: Tensor
    rank: int


class Moments:
    """Means and centred second moments of pairs of vectors: enough for least squares and for Procrustes.

    The sums of squares are centred within each batch and combined as in Chan et al. (1979): sums of raw squares
    would cancel where a channel's mean is large.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean_x = self.mean_y = self.xx = self.xy = torch.zeros(0, dtype=torch.float64)
        self.yy = 0.0  # the trace: no more of it is needed

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add pairs: x (..., C) and y (..., D), of the same leading shape."""
        x, y = x.flatten(0, -2), y.flatten(0, -2)
        if self.count == 0:
            self.mean_x, self.mean_y = (z.new_zeros(z.shape[1], dtype=torch.float64) for z in (x, y))
            self.xx = x.new_zeros((x.shape[1], x.shape[1]), dtype=torch.float64)
            self.xy = x.new_zeros((x.shape[1], y.shape[1]), dtype=torch.float64)
        rows = max(1, COPIED_AT_ONCE // max(x.shape[1], y.shape[1]))
        for x_rows, y_rows in zip(x.split(rows), y.split(rows), strict=True):
            self._add(x_rows.double(), y_rows.double())

    def _add(self, x: Tensor, y: Tensor) -> None:
        mean_x, mean_y, n = x.mean(0), y.mean(0), len(x)
        x, y = x - mean_x, y - mean_y
        shift_x, shift_y = mean_x - self.mean_x, mean_y - self.mean_y
        total = self.count + n
        weight = self.count * n / total
        self.xx += x.T @ x + weight * torch.outer(shift_x, shift_x)
        self.xy += x.T @ y + weight * torch.outer(shift_x, shift_y)
        self.yy += float(y.square().sum() + weight * shift_y.square().sum())
        self.mean_x = self.mean_x + shift_x * (n / total)
        self.mean_y = self.mean_y + shift_y * (n / total)
        self.count = total

    def least_squares(self) -> AffineMap:
        """The affine map of x with the least squared error to y; of several, that of the least norm.

        It solves the normal equations by eigenvectors, without a ridge. Directions of x whose variance is below
        C * 2^-52 of the largest, C its channels, are left out, as numpy's `lstsq` does with singular values: their
        variance is of rounding in float32 (2^-48 and less), and a map would only enlarge it. It is computed on the
        CPU, whatever device the sums are on.

        Raises:
            UserError: x or y had values that are not finite numbers.
        """
        if not (self.xx.isfinite().all() and self.xy.isfinite().all() and isfinite(self.yy)):
            raise _not_finite()
        variances, directions = torch.linalg.eigh(self.xx.cpu())
        kept = variances > variances.max().clamp(min=0) * len(variances) * torch.finfo(torch.float64).eps
        variances, directions = variances[kept], directions[:, kept]
        weight = directions @ ((directions.T @ self.xy.cpu()) / variances[:, None])
        return AffineMap(weight, self.mean_y.cpu() - self.mean_x.cpu() @ weight, int(kept.sum()))

    @property
    def spread(self) -> tuple[float, float, Tensor]:
        """The centred sums of squares of x and of y, and the products of both (C, D)."""
        return float(self.xx.diagonal().sum()), self.yy, self.xy


class ImageVectors:
    """Pairs of vectors, one for each image. All are kept, as there are few images compared with channels."""

    def __init__(self) -> None:
        self.x: list[Tensor] = []
        self.y: list[Tensor] = []

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add pairs: x (N, C) and y (N, D)."""
        self.x.append(x.cpu())
        self.y.append(y.cpu())

    @property
    def count(self) -> int:
        return sum(map(len, self.x))

    def ridge(self) -> AffineMap:
        """The affine map of x to y by ridge regression, its penalty chosen by generalized cross-validation.

        Least squares would follow the noise of so few pairs: with as many channels as images it fits all of them
        exactly, and predicts others worse than their mean does. Of 33 penalties from 1e-6 to 100 times the largest
        variance it takes the one with the least |y - Hy|^2 / (1 - tr(H) / n)^2 (Golub, Heath and Wahba, 1979).

        Raises:
            UserError: x or y have values that are not finite numbers.
        """
        x, mean_x, y, mean_y = self._centred()
        if not (x.isfinite().all() and y.isfinite().all()):
            raise _not_finite()
        left, singular_values, right = torch.linalg.svd(x, full_matrices=False)
        variances = singular_values.square()
        kept = variances > variances.max() * x.shape[1] * torch.finfo(torch.float64).eps
        left, right, variances = left[:, kept], right[kept], variances[kept]
        singular_values = singular_values[kept]
        if not len(singular_values):
            return AffineMap(x.new_zeros(x.shape[1], y.shape[1]), mean_y, 0)
        along = left.T @ y
        outside = (y.square().sum() - along.square().sum()).clamp(min=0)
        penalties = variances.max() * torch.logspace(-6, 2, 33, dtype=torch.float64)
        shrunk = penalties[:, None] / (variances + penalties[:, None])
        residuals = outside + (shrunk.square() * along.square().sum(1)).sum(1)
        freedom = 1 - (1 + (1 - shrunk).sum(1)) / len(x)
        penalty = penalties[(residuals / freedom.square()).argmin()]
        weight = right.T @ ((singular_values / (variances + penalty))[:, None] * along)
        return AffineMap(weight, mean_y - mean_x @ weight, len(singular_values))

    @property
    def spread(self) -> tuple[float, float, Tensor]:
        """As of `Moments`."""
        x, _, y, _ = self._centred()
        return float(x.square().sum()), float(y.square().sum()), x.T @ y

    def _centred(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x, y = torch.cat(self.x).double(), torch.cat(self.y).double()
        return x - x.mean(0), x.mean(0), y - y.mean(0), y.mean(0)


def procrustes(groups: Sequence[Moments | ImageVectors]) -> float:
    """The orthogonal Procrustes distance: the distance between x and y after the best rotation.

    Both are centred and scaled to a Frobenius norm of one; then it is 2 - 2 |X'Y|_*, the nuclear norm (Ding et
    al., 2021, arXiv:2108.01661). 0 for representations that differ by a rotation, a scale and a shift, 2 at most;
    NaN if one is constant. All positions of an image share one rotation, and the narrower of the two is padded with
    channels of zeros (both as Williams et al., 2021,
    arXiv:2110.14739).

    Args:
        groups: pairs of vectors, each group with a rotation of its own: those of positions, and those of prefix
            tokens, which are mapped from whole images.
    """
    spreads = [pairs.spread for pairs in groups]
    size = (sum(x for x, _, _ in spreads) * sum(y for _, y, _ in spreads)) ** 0.5
    nuclear = sum(float(torch.linalg.svdvals(xy.cpu()).sum()) for _, _, xy in spreads)
    return max(0.0, 2 - 2 * nuclear / size) if size > 0 else float("nan")


def _not_finite() -> UserError:
    return UserError("the networks give values that are not finite numbers, so no adapter can be fitted")


class Residuals:
    """Sums of squared residuals of predictions of vectors y."""

    def __init__(self) -> None:
        self.squares = 0.0
        self.moments = Moments()

    def add(self, prediction: Tensor, y: Tensor) -> None:
        """Add predictions and the vectors y that they predict, (..., D) both."""
        self.squares += float((prediction.double() - y.double()).square().sum())
        self.moments.add(y[..., :0], y)


def r2(groups: Sequence[Residuals]) -> float:
    """The share of the variance of vectors y that predictions of them explain, of all channels together.

    R2 = 1 - sum |y - prediction|^2 / sum |y - mean(y)|^2, with the mean of each group's own vectors. It may be
    negative for images that the predictions were not fitted to; NaN if y is constant.
    """
    variance = sum(residuals.moments.yy for residuals in groups)
    return 1 - sum(residuals.squares for residuals in groups) / variance if variance > 0 else float("nan")
