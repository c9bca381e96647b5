"""Sampling under common noise against brute force: nuclei, noise, and how often two distributions then part."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from prunescope.pipelines.metrics.sampling import (
    Nucleus,
    draw,
    flip_probability,
    gumbel_noise,
    noise_key,
    nuclei,
    on_union,
    total_variation,
)

Array = NDArray[np.float64]
PINNED = [2.2796405929943595, -0.7938832333194115]
# Zeros, ties and tiny weights among others.
WEIGHTS = arrays(np.float64, 6, elements=st.sampled_from([0, 0, 1, 1, 2, 1e-9, 1e-200, 0.3, 7]))


def slow_flip_probability(p: Array, q: Array) -> float:
    total = 0.0
    for i in range(len(p)):
        if p[i] > 0 and q[i] > 0:
            total += 1 / sum(max(p[j] / p[i], q[j] / q[i]) for j in range(len(p)))
    return 1 - total


@given(WEIGHTS, WEIGHTS)
def test_a_flip_has_the_probability_of_the_definition_and_keeps_its_bounds(one: Array, other: Array) -> None:
    one[0] += not one.any()
    other[1] += not other.any()
    p, q = one / one.sum(), other / other.sum()
    flip, distance = flip_probability(p, q), total_variation(p, q)
    assert flip == pytest.approx(slow_flip_probability(p, q), abs=1e-12)
    assert distance - 1e-12 <= flip <= 2 * distance / (1 + distance) + 1e-12
    assert flip == pytest.approx(flip_probability(q, p), abs=1e-12)
    assert flip_probability(p, p.copy()) == 0


def test_a_tiny_flip_keeps_its_digits() -> None:
    p = np.array([0.25, 0.25, 0.5])
    for size in (1e-3, 1e-6, 1e-9, 1e-12):
        q = p + size * np.array([1, -1, 0])
        # By hand, in first order in ε.
        assert flip_probability(p, q) == pytest.approx(size * 1.5, rel=4 * size + 1e-3)
    assert flip_probability(np.array([1.0, 0]), np.array([0, 1.0])) == 1


@pytest.mark.parametrize("vocabulary", [5, 40, 3000])
@pytest.mark.parametrize("top_p", [0.3, 0.95, 1.0])
@pytest.mark.parametrize("is_tied", [False, True])
def test_a_nucleus_is_the_shortest_head_of_the_sorted_tokens(vocabulary: int, top_p: float, is_tied: bool) -> None:
    logits = torch.randn(4, vocabulary, generator=torch.Generator().manual_seed(vocabulary)) * 2
    logits[0] = 0  # all equal
    if is_tied:
        logits = logits.round()
    for row, found in zip(logits.double().numpy(), nuclei(logits, 0.7, top_p), strict=True):
        p = np.exp((row - row.max()) / 0.7)
        order = np.lexsort((np.arange(vocabulary), -row))
        count = vocabulary if top_p == 1 else int((p[order].cumsum() < top_p * p.sum() * (1 - 1e-9)).sum()) + 1
        assert found.ids.tolist() == sorted(order[:count].tolist())
        np.testing.assert_allclose(np.exp(found.scores), p[found.ids], rtol=1e-12)


def test_noise_is_gumbels_and_depends_on_every_part_of_its_name() -> None:
    key, ids = noise_key(0, "p", 0), np.arange(200_000)
    noise = gumbel_noise(key, 3, ids)
    assert noise.mean() == pytest.approx(np.euler_gamma, abs=0.01)
    assert noise.var() == pytest.approx(np.pi**2 / 6, abs=0.03)
    others = [gumbel_noise(key, 4, ids)] + [
        gumbel_noise(noise_key(*name), 3, ids) for name in ((1, "p", 0), (0, "q", 0), (0, "p", 1))
    ]
    assert all(abs(np.corrcoef(noise, other)[0, 1]) < 0.01 for other in others)
    # The same numbers on every machine, computed once by an independent splitmix64 in Python's integers.
    assert noise[:2] == pytest.approx(PINNED, rel=1e-14)


def test_draws_follow_the_distribution_and_part_as_often_as_computed() -> None:
    generator = np.random.default_rng(5)
    one, other = (Nucleus(np.sort(generator.choice(20, 12, replace=False)), generator.normal(size=12)) for _ in "pq")
    p, q = on_union(one, other)
    ids, draws = np.union1d(one.ids, other.ids), 40_000
    pairs = np.array([[draw(side, noise_key(0, "p", 0), step) for side in (one, other)] for step in range(draws)])
    for side, probabilities in zip(pairs.T, (p, q), strict=True):
        shares = np.array([(side == token).mean() for token in ids])
        assert (np.abs(shares - probabilities) < 5 * np.sqrt(probabilities / draws) + 1e-12).all()
    flip = flip_probability(p, q)
    assert (pairs[:, 0] != pairs[:, 1]).mean() == pytest.approx(flip, abs=5 * np.sqrt(flip * (1 - flip) / draws))
