"""Whitening: scikit-learn's PCA, the floor of the eigenvalues, and the steps of the region pipeline by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from seerctl.errors import InputError
from seerctl.probes import whitening as module
from seerctl.probes.whitening import Whitening, descriptors, region_vectors, unit


def vectors(rows: int = 400, dim: int = 12, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (generator.normal(size=(rows, dim)) @ generator.normal(size=(dim, dim)) + 3).astype(np.float32)


@pytest.mark.parametrize("rows", [16384, 37])
def test_equal_to_scikit_learn(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS", rows)
    learn, use = vectors(), vectors(50, seed=1)
    mine = Whitening.fit(learn, 5)(use)
    reference = PCA(5, whiten=True).fit(learn.astype(np.float64))
    theirs = reference.transform(use.astype(np.float64)) * np.sqrt(400 / 399)  # population, not sample, variance
    np.testing.assert_allclose(np.abs(mine), np.abs(theirs), rtol=2e-3, atol=2e-3)
    whitened = Whitening.fit(learn, 12)(learn)
    np.testing.assert_allclose(np.cov(whitened.T, bias=True), np.eye(12), atol=1e-3)


def test_directions_without_variance_are_not_blown_up() -> None:
    flat = vectors()
    flat[:, 3] = flat[:, 4]
    found = Whitening.fit(flat, 12, floor=1e-2)
    largest = np.linalg.eigvalsh(np.cov(flat.T, bias=True))[-1]
    assert np.linalg.norm(found.axes, axis=0).max() == pytest.approx(1 / np.sqrt(1e-2 * largest), rel=1e-3)


def test_no_more_components_than_vectors_say() -> None:
    assert Whitening.fit(vectors(6), 512).components == 5
    assert Whitening.fit(vectors(50), 512).components == 12
    with pytest.raises(InputError, match="do not differ"):
        Whitening.fit(np.ones((9, 4), np.float32), 2)
    with pytest.raises(InputError, match="1 vectors"):
        Whitening.fit(vectors(1), 2)


def test_regions_step_by_step() -> None:
    features = vectors(20, 12)
    learnt = Whitening.fit(region_vectors(vectors(200, 12, seed=3), 3), 4)
    found = descriptors(features, 3, learnt)
    by_hand = np.zeros((20, 4))
    for part in range(3):
        region = features[:, 4 * part : 4 * part + 4]
        region = region / np.linalg.norm(region, axis=1, keepdims=True)
        white = (region - learnt.mean) @ learnt.axes
        by_hand += white / np.linalg.norm(white, axis=1, keepdims=True)
    np.testing.assert_allclose(found, by_hand / np.linalg.norm(by_hand, axis=1, keepdims=True), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(descriptors(features, 3), axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(descriptors(features), unit(features), rtol=1e-5)


def test_regions_of_zeros_add_nothing() -> None:
    """Whole pictures have as many regions as their shape gives; the file fills them up with zeros."""
    generator = np.random.default_rng(3)
    regions = generator.normal(size=(20, 5, 8)).astype(np.float32)
    filled = np.concatenate([regions, np.zeros((20, 3, 8), np.float32)], axis=1)
    learnt = Whitening.fit(region_vectors(regions.reshape(20, -1), 5), 4)
    np.testing.assert_allclose(
        descriptors(filled.reshape(20, -1), 8, learnt), descriptors(regions.reshape(20, -1), 5, learnt), rtol=1e-5
    )
