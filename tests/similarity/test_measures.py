"""Measures of representations against closed forms, references by other libraries, and what they must not depend on."""

from __future__ import annotations

import itertools
from math import isnan

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from stitching.config.errors import UserError
from stitching.similarity.measures import (
    ImageVectors,
    MinibatchCKA,
    Moments,
    Residuals,
    centred_gram,
    procrustes,
    r2,
    unbiased_hsic,
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def rotation(size: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(size, size, dtype=torch.float64)).Q


def cka(x: torch.Tensor, y: torch.Tensor, batch: int = 1000) -> float:
    found = MinibatchCKA()
    for a, b in zip(x.split(batch), y.split(batch), strict=True):
        found.add(centred_gram(a), centred_gram(b))
    return found.value


def moments(x: torch.Tensor, y: torch.Tensor, batch: int = 1000) -> Moments:
    found = Moments()
    for a, b in zip(x.split(batch), y.split(batch), strict=True):
        found.add(a, b)
    return found


# ------------------------------------------------------------------------ CKA


def test_hsic_is_the_mean_over_all_quadruples_of_different_images():
    """The definition of the U-statistic: h(i, j, q, r) = (k_ij l_ij + k_ij l_qr - 2 k_ij l_iq) on average."""
    x, y = torch.randn(7, 3), torch.randn(7, 2)
    k, l = (x @ x.T).double(), (y @ y.T).double()  # noqa: E741
    terms = [k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]) for i, j, q, r in itertools.permutations(range(7), 4)]
    expected = torch.stack(terms).mean()
    assert torch.allclose(unbiased_hsic(k, l), expected)
    assert torch.allclose(unbiased_hsic(centred_gram(x), centred_gram(y)), expected)  # centring changes nothing


def test_hsic_of_independent_representations_is_zero_on_average():
    values = torch.stack([unbiased_hsic(*(centred_gram(torch.randn(8, 4)) for _ in range(2))) for _ in range(3000)])
    assert abs(values.mean()) < 3 * values.std() / len(values) ** 0.5


def test_hsic_takes_four_images():
    with pytest.raises(ValueError, match="3 images are too few"):
        unbiased_hsic(torch.eye(3), torch.eye(3))
    found = MinibatchCKA()
    found.add(torch.eye(3), torch.eye(3))  # the last few of a data set
    assert isnan(found.value)


def test_cka_does_not_see_rotations_scales_and_shifts():
    x, y = torch.randn(60, 8, dtype=torch.float64), torch.randn(60, 5, dtype=torch.float64)
    y[:, :3] += 2 * x[:, :3]
    same = cka(x, 3 * x @ rotation(8) + 100)
    assert same == pytest.approx(1, abs=1e-9)
    assert 0.1 < cka(x, y) < 0.9
    assert cka(x @ rotation(8) * 0.1 - 7, y) == pytest.approx(cka(x, y), abs=1e-9)
    assert cka(y, x) == pytest.approx(cka(x, y), abs=1e-12)


def test_cka_is_about_the_same_for_any_batch_size_and_not_biased_by_wide_features():
    x = torch.randn(600, 50)
    y = x @ torch.randn(50, 400) + 5 * torch.randn(600, 400)
    whole = cka(x, y)
    assert cka(x, y, 50) == pytest.approx(whole, abs=0.02)
    assert abs(cka(torch.randn(600, 3000), torch.randn(600, 3000), 50)) < 0.05  # the biased estimate gives 0.98


def test_cka_compares_maps_of_different_sizes_and_a_constant_is_not_a_number():
    maps = torch.randn(20, 3, 4, 4)
    assert cka(maps, maps.permute(0, 2, 3, 1).flatten(1, 2)) == pytest.approx(1, abs=1e-9)
    assert isnan(cka(maps, torch.ones(20, 7)))


# ------------------------------------------------------------------------ least squares


def test_least_squares_is_what_numpy_finds():
    x, y = torch.randn(200, 6, dtype=torch.float64), torch.randn(200, 4, dtype=torch.float64)
    found = moments(x, y, 64).least_squares()
    ones = np.column_stack([x.numpy(), np.ones(200)])
    expected = np.linalg.lstsq(ones, y.numpy(), rcond=None)[0]
    assert np.allclose(found.weight, expected[:-1])
    assert np.allclose(found.bias, expected[-1])
    assert found.rank == 6


def test_a_linear_relation_is_found_however_large_the_means_are():
    x = torch.randn(500, 6, dtype=torch.float64) + 1e5
    weight, bias = torch.randn(6, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    found = moments(x, x @ weight + bias, 100).least_squares()
    assert torch.allclose(found.weight, weight, atol=1e-8)
    residuals = Residuals()
    residuals.add(x @ found.weight + found.bias, x @ weight + bias)
    assert r2([residuals]) == pytest.approx(1, abs=1e-12)


def test_of_channels_that_depend_on_each_other_the_shortest_map_is_taken():
    x = torch.randn(300, 4)
    x = torch.cat([x, x[:, :2] + x[:, 2:], torch.full((300, 1), 3.0)], 1)  # in float32: dependent but for rounding
    y = torch.randn(300, 2)
    found = moments(x, y).least_squares()
    assert found.rank == 4
    centred = (x - x.mean(0)).double().numpy()
    expected = np.linalg.lstsq(centred, (y - y.mean(0)).double().numpy(), rcond=1e-6)[0]
    assert np.allclose(found.weight, expected, atol=1e-6)
    assert found.weight.abs().max() < 1


def test_fewer_vectors_than_channels_are_met_exactly():
    x, y = torch.randn(5, 20, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    found = moments(x, y).least_squares()
    assert found.rank == 4  # one of five is the mean
    assert torch.allclose(x @ found.weight + found.bias, y)


def test_a_constant_gives_the_mean():
    found = moments(torch.ones(10, 3), torch.arange(10.0)[:, None]).least_squares()
    assert found.rank == 0
    assert found.weight.abs().max() == 0
    assert found.bias.item() == 4.5


def test_sums_do_not_depend_on_batches(monkeypatch):
    x, y = torch.randn(90, 2, 3, 6), torch.randn(90, 2, 3, 4)
    whole = moments(x, y)
    monkeypatch.setattr("stitching.similarity.measures.COPIED_AT_ONCE", 50)
    parts = moments(x, y, 7)
    assert whole.count == parts.count == 540
    for name in ("mean_x", "mean_y", "xx", "xy"):
        assert torch.allclose(getattr(whole, name), getattr(parts, name))
    assert parts.yy == pytest.approx(whole.yy)
    centred = (x - x.mean(0)).flatten(1).double()
    assert torch.allclose(centred_gram(x), centred @ centred.T, atol=1e-5)


def test_what_is_not_finite_is_told():
    with pytest.raises(UserError, match="not finite"):
        moments(torch.tensor([[1.0], [torch.inf]]), torch.ones(2, 1)).least_squares()


def test_r2_is_the_one_of_scikit_learn():
    y = torch.randn(100, 3) * torch.tensor([1.0, 5.0, 0.1])
    prediction = y + torch.randn(100, 3)
    residuals = Residuals()
    for some in range(0, 100, 30):
        residuals.add(prediction[some : some + 30], y[some : some + 30])
    assert r2([residuals]) == pytest.approx(r2_score(y, prediction, multioutput="variance_weighted"), abs=1e-5)


def test_r2_of_two_kinds_of_vectors_has_a_mean_for_each():
    y, z = torch.randn(50, 3), torch.randn(20, 4) + 100
    parts = Residuals(), Residuals()
    parts[0].add(torch.zeros_like(y), y)
    parts[1].add(torch.full_like(z, 100), z)
    left = y.square().sum() + (z - 100).square().sum()
    around = (y - y.mean(0)).square().sum() + (z - z.mean(0)).square().sum()
    assert r2(parts) == pytest.approx(float(1 - left / around), abs=1e-4)


# ------------------------------------------------------------------------ one vector an image


def vectors(x: torch.Tensor, y: torch.Tensor) -> ImageVectors:
    found = ImageVectors()
    for a, b in zip(x.split(16), y.split(16), strict=True):
        found.add(a, b)
    return found


@pytest.mark.parametrize("images", [20, 40, 300])
def test_ridge_has_the_penalty_of_the_least_cross_validated_residuals(images):
    x = torch.randn(images, 40, dtype=torch.float64) * torch.linspace(0.1, 3, 40) + 5
    y = x @ torch.randn(40, 3, dtype=torch.float64) + 4 * torch.randn(images, 3, dtype=torch.float64)
    centred = (x - x.mean(0)).numpy()
    errors = {}
    for penalty in np.linalg.eigvalsh(centred.T @ centred).max() * np.logspace(-6, 2, 33):
        hat = centred @ np.linalg.solve(centred.T @ centred + penalty * np.eye(40), centred.T) + 1 / images
        left = y.numpy() - hat @ y.numpy()
        errors[penalty] = (left**2).sum() / (1 - np.trace(hat) / images) ** 2
    expected = Ridge(alpha=min(errors, key=errors.get)).fit(x.numpy(), y.numpy())
    found = vectors(x, y).ridge()
    assert np.allclose(found.weight.T, expected.coef_, atol=1e-8)
    assert np.allclose(found.bias, expected.intercept_, atol=1e-8)


def test_as_many_channels_as_images_are_no_reason_to_follow_noise():
    x, weight = torch.randn(1040, 40), torch.randn(40, 5)
    y = x @ weight + 3 * torch.randn(1040, 5)
    ridge, plain = vectors(x[:40], y[:40]).ridge(), moments(x[:40], y[:40]).least_squares()
    scores = [
        r2_score(y[40:], (x[40:].double() @ each.weight + each.bias), multioutput="variance_weighted")
        for each in (ridge, plain)
    ]
    assert scores[0] > 0.3
    assert scores[1] < 0


def test_one_vector_an_image_may_be_constant_and_not_infinite():
    constant = vectors(torch.ones(6, 3), torch.arange(6.0)[:, None]).ridge()
    assert (constant.weight.abs().max(), constant.bias.item()) == (0, 2.5)
    with pytest.raises(UserError, match="not finite"):
        vectors(torch.tensor([[1.0], [torch.nan]]), torch.ones(2, 1)).ridge()


# ------------------------------------------------------------------------ Procrustes


def test_procrustes_is_what_is_left_after_scipys_best_rotation():
    x, y = torch.randn(80, 5, dtype=torch.float64), torch.randn(80, 5, dtype=torch.float64)
    y += x
    a, b = ((each - each.mean(0)) / (each - each.mean(0)).norm() for each in (x, y))
    turn, _ = orthogonal_procrustes(a.numpy(), b.numpy())
    assert procrustes([moments(x, y, 30)]) == pytest.approx(np.linalg.norm(a.numpy() @ turn - b.numpy()) ** 2)


def test_procrustes_sees_neither_rotations_nor_scales_nor_shifts():
    x, y = torch.randn(80, 5, dtype=torch.float64), torch.randn(80, 9, dtype=torch.float64)
    assert procrustes([moments(x, 4 * x @ rotation(5) - 3)]) == pytest.approx(0, abs=1e-12)
    assert procrustes([moments(x, torch.nn.functional.pad(x, (0, 4)) @ rotation(9))]) == pytest.approx(0, abs=1e-12)
    assert procrustes([moments(x @ rotation(5), y)]) == pytest.approx(procrustes([moments(y, x)]))
    assert 1 < procrustes([moments(x, y)]) <= 2
    assert isnan(procrustes([moments(x, torch.ones(80, 2))]))


def test_procrustes_turns_positions_and_whole_images_each_by_a_rotation_of_its_own():
    x, z = torch.randn(80, 5, dtype=torch.float64), torch.randn(20, 7, dtype=torch.float64)
    rotated = [moments(x, 4 * x @ rotation(5) + 3), vectors(z, 4 * z @ rotation(7) - 1)]
    assert procrustes(rotated) == pytest.approx(0, abs=1e-12)
    other = vectors(z, torch.randn(20, 7, dtype=torch.float64))
    assert procrustes([rotated[0], other]) > 0.05
    assert procrustes([vectors(z, z[:, :3])]) == pytest.approx(procrustes([moments(z, z[:, :3])]))
