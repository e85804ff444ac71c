"""Intervals against published examples, hand-worked numbers and simulation; corrections against their definitions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from seerctl.stats import (
    Estimate,
    adjust,
    bootstrap_mean,
    clustered,
    gap_limits,
    macro,
    macro_gap_z,
    mean_difference,
    newcombe,
    newcombe_z,
    shared_spread,
    t_quantile,
    two_sided_p,
    wilson,
    wilson_z,
    z_quantile,
)


def test_quantile_and_its_inverse() -> None:
    assert z_quantile(0.05) == pytest.approx(1.959963984540054)
    alphas = np.array([0.5, 0.05, 1e-6, 1e-12])
    np.testing.assert_allclose(two_sided_p(z_quantile(alphas)), alphas, rtol=1e-9)


@pytest.mark.parametrize(
    ("events", "trials", "low", "high"),
    # R. G. Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_published(events: int, trials: int, low: float, high: float) -> None:
    interval = wilson(events, trials)
    assert interval.value == pytest.approx(events / trials)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


def test_wilson_by_hand() -> None:
    # 7 of 10 at z = 2: centre (0.7 + 4/20) / 1.4, half 2 sqrt(0.021 + 4/400) / 1.4
    interval = wilson_z(7, 10, 2.0)
    half = 2 * math.sqrt(0.7 * 0.3 / 10 + 4 / 400) / 1.4
    assert (interval.low, interval.high) == pytest.approx((0.9 / 1.4 - half, 0.9 / 1.4 + half))


def test_wilson_at_the_edges() -> None:
    nothing, everything, empty = (wilson(x, n) for x, n in ((0, 62), (62, 62), (0, 0)))
    z2 = 1.959963984540054**2
    assert nothing.low == 0.0
    assert nothing.high == pytest.approx(z2 / (62 + z2))  # "0 of 62" still allows 5.8 %
    assert everything.high == 1.0
    assert everything.low == pytest.approx(1 - nothing.high)
    assert math.isnan(empty.value)
    assert (empty.low, empty.high) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("one", "other", "low", "high"),
    # Newcombe, Statistics in Medicine 17 (1998) 873-890, table II, method 10
    [((56, 70), (48, 80), 0.0524, 0.3339), ((9, 10), (3, 10), 0.1705, 0.8090), ((10, 10), (0, 10), 0.6075, 1.0)],
)
def test_newcombe_published(one: tuple[int, int], other: tuple[int, int], low: float, high: float) -> None:
    interval = newcombe(*one, *other)
    assert interval.value == pytest.approx(one[0] / one[1] - other[0] / other[1])
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


def test_newcombe_is_antisymmetric_and_vectorised() -> None:
    x, n = np.array([3, 40, 0, 12]), np.array([10, 50, 9, 12])
    y, m = np.array([30, 20, 2, 1]), np.array([60, 50, 70, 3])
    forward, backward = newcombe(x, n, y, m, 0.01), newcombe(y, m, x, n, 0.01)
    np.testing.assert_allclose(forward.low, -backward.high, atol=1e-15)
    np.testing.assert_allclose(forward.value, -backward.value, atol=1e-15)
    single = [newcombe(*counts, 0.01).high for counts in zip(x, n, y, m, strict=True)]
    np.testing.assert_allclose(forward.high, single)


def test_limits_move_outwards_with_z() -> None:
    z = np.linspace(0, 12, 60)
    interval = newcombe_z(8, 40, 20, 45, z)
    assert (np.diff(interval.low) <= 0).all()
    assert (np.diff(interval.high) >= 0).all()
    assert interval.low[0] == interval.high[0] == pytest.approx(8 / 40 - 20 / 45)


def test_macro_of_one_rate_is_wilson_and_of_two_by_hand() -> None:
    single, alone = macro([30], [40]), wilson(30, 40)
    assert (single.low, single.high) == pytest.approx((float(alone.low), float(alone.high)))
    a, b, mean = wilson(30, 40), wilson(5, 50), macro([30, 5, 0], [40, 50, 0])  # a class without trials is left out
    assert mean.value == pytest.approx((0.75 + 0.1) / 2)
    assert mean.low == pytest.approx(mean.value - math.hypot(a.value - a.low, b.value - b.low) / 2)
    assert mean.high == pytest.approx(mean.value + math.hypot(a.high - a.value, b.high - b.value) / 2)


def test_macro_gap_of_one_class_is_newcombe() -> None:
    wanted, z = newcombe(56, 70, 48, 80), z_quantile(0.05)
    gap = macro_gap_z([[56]], [[70]], [[48]], [[80]], np.array([float(z)]))
    assert (gap.low[0], gap.high[0]) == pytest.approx((float(wanted.low), float(wanted.high)))
    # a class that only one side has does not enter either mean
    two = macro_gap_z([[56, 9]], [[70, 10]], [[48, 0]], [[80, 0]], np.array([float(z)]))
    assert two.value[0] == pytest.approx(gap.value[0])


def test_coverage_by_simulation() -> None:
    generator = np.random.default_rng(7)
    for p, q, n, m in ((0.05, 0.3, 30, 400), (0.5, 0.5, 50, 50), (0.9, 0.8, 100, 60)):
        x, y = generator.binomial(n, p, 20_000), generator.binomial(m, q, 20_000)
        gap, rate = newcombe(x, n, y, m), wilson(x, n)
        assert ((gap.low <= p - q) & (p - q <= gap.high)).mean() == pytest.approx(0.95, abs=0.02)
        assert ((rate.low <= p) & (p <= rate.high)).mean() == pytest.approx(0.95, abs=0.03)
    classes = np.array([0.2, 0.5, 0.7, 0.95])
    hits = generator.binomial(25, classes, (20_000, 4))
    mean = macro(hits, np.full((20_000, 4), 25))
    assert ((mean.low <= classes.mean()) & (classes.mean() <= mean.high)).mean() == pytest.approx(0.95, abs=0.02)


def test_corrections_by_hand() -> None:
    p = np.array([0.04, 0.01, 0.03, 0.005])
    np.testing.assert_allclose(adjust(p, "none"), p)
    np.testing.assert_allclose(adjust(p, "bonferroni"), [0.16, 0.04, 0.12, 0.02])
    # sorted: .005*4=.02, .01*3=.03, .03*2=.06, .04*1=.04 -> running maximum .06
    np.testing.assert_allclose(adjust(p, "holm"), [0.06, 0.03, 0.06, 0.02])
    assert adjust(np.empty(0), "holm").shape == (0,)
    assert (adjust(np.ones(3), "bonferroni") == 1).all()


def test_holm_bounds_the_family_and_beats_bonferroni() -> None:
    generator = np.random.default_rng(1)
    p = generator.random((4000, 8))  # all null
    holm = np.array([adjust(row, "holm") for row in p])
    bonferroni = np.array([adjust(row, "bonferroni") for row in p])
    assert (holm.min(1) <= 0.05).mean() <= 0.06
    assert (holm <= bonferroni).all()


def test_an_estimate_of_a_plain_rate_has_wilsons_limits() -> None:
    for events, trials in ((56, 70), (0, 62), (62, 62), (1, 29)):
        p = events / trials
        estimate = Estimate(p, p * (1 - p) / trials, worth=trials)
        for alpha in (0.5, 0.05, 1e-6):
            wanted = wilson(events, trials, alpha)
            assert estimate.limits(alpha) == pytest.approx((float(wanted.low), float(wanted.high)), abs=1e-12)
    other = Estimate(48 / 80, 0.6 * 0.4 / 80, worth=80)
    wanted = newcombe(56, 70, 48, 80)
    low, high = gap_limits(Estimate(0.8, 0.8 * 0.2 / 70, worth=70), other, 0.05)
    assert (low, high) == pytest.approx((float(wanted.low), float(wanted.high)))


@pytest.mark.parametrize(
    "estimate",
    [
        Estimate(0.9, 0.001), Estimate(1.0, 0.0, worth=20), Estimate(0.3, 0.02, freedom=2),
        Estimate(-0.1, 0.004, floor=-1, ceiling=1, score=False), Estimate(0.2, 0.003, excess=0.05, score=False),
        Estimate(0.4, 0.0), Estimate(0.5, math.inf, freedom=0),
    ],
)  # fmt: skip
def test_limits_of_estimates_move_outwards(estimate: Estimate) -> None:
    levels = [0.9, 0.5, 0.1, 0.05, 1e-3, 1e-6, 1e-12, 1e-40, 1e-200]
    for limits in (estimate.limits, lambda a: gap_limits(estimate, Estimate(0.4, 0.01, freedom=9), a, 0.6)):
        pairs = [limits(alpha) for alpha in levels]
        assert all(low <= high for low, high in pairs)
        assert all(after[0] <= before[0] and after[1] >= before[1] for before, after in itertools.pairwise(pairs))
    low, high = estimate.limits(0.05)
    assert low <= estimate.value <= high


def test_student_and_normal_quantiles() -> None:
    assert t_quantile(0.05, 2) == pytest.approx(4.302652729)
    assert t_quantile(0.05) == pytest.approx(1.959963985)
    assert t_quantile(1e-300, 3) > 1e60  # far beyond any doubt, not NaN
    assert t_quantile(0.05, 0) == t_quantile(0.05, 1)  # a single cluster has no variance of its own: see `clustered`


def test_clustered_variance_by_hand() -> None:
    influence = np.array([1.0, -1.0, 2.0, -2.0])
    assert clustered(influence, None) == (10 / 16, 4)
    # totals 0 and 0 of two clusters, then 3 and -3: (9 + 9)/16 * 2/1
    assert clustered(influence, np.array([7, 7, 9, 9])) == (0.0, 2)
    assert clustered(influence, np.array([0, 1, 0, 1])) == (18 / 16 * 2, 2)
    assert clustered(influence, np.array([3, 3, 3, 3])) == (math.inf, 1)


def test_clusters_on_both_sides() -> None:
    """100 people, seen in light and in dark: what they share cancels, and the limits know."""
    generator = np.random.default_rng(2)
    people, sets = 100, 1500
    light, dark = np.repeat(np.arange(people), 2), np.repeat(np.arange(people), 3)
    covered, widths = 0, np.zeros(2)
    for _ in range(sets):
        p = generator.beta(0.6, 0.3, people)
        hits = [(generator.random(len(rows)) < p[rows]).astype(float) for rows in (light, dark)]
        parts = [hit - hit.mean() for hit in hits]
        one, two = (
            Estimate(hit.mean(), clustered(part, rows)[0], worth=len(rows), freedom=people - 1)
            for hit, part, rows in zip(hits, parts, (light, dark), strict=True)
        )
        spread = shared_spread(parts[0], light, parts[1], dark)
        low, high = gap_limits(one, two, 0.05, spread)
        covered += low <= 0 <= high
        widths += high - low, np.diff(gap_limits(one, two, 0.05))[0]
    assert covered / sets == pytest.approx(0.95, abs=0.02)
    assert widths[0] < 0.65 * widths[1]


def test_spread_by_hand() -> None:
    ups, same = np.array([1.0, -1.0]), np.array([0, 1])
    assert shared_spread(ups, same, ups, same + 2) == 1.0  # nobody in common
    assert shared_spread(ups, same, ups, same) == pytest.approx(math.sqrt(8 / 10))  # two alike: little doubt less
    assert shared_spread(ups, same, -ups, same) == pytest.approx(math.sqrt(2))  # one's gain the other's loss
    assert shared_spread(np.zeros(2), same, np.zeros(2), same) == 1.0


def test_coverage_of_clustered_rates() -> None:
    """60 households of 1 to 15 pictures, half of the variance between households."""
    generator = np.random.default_rng(3)
    rows = np.repeat(np.arange(60), generator.integers(1, 16, 60))
    covered = {"clusters": 0, "rows": 0}
    sets = 1500
    for _ in range(sets):
        hits = (generator.random(len(rows)) < generator.beta(0.7, 0.3, 60)[rows]).astype(float)
        p, influence = hits.mean(), hits - hits.mean()
        for name, clusters in (("clusters", rows), ("rows", None)):
            variance, units = clustered(influence, clusters)
            freedom = units - 1 if clusters is not None else math.inf
            low, high = Estimate(p, variance, worth=len(rows), freedom=freedom).limits(0.05)
            covered[name] += low <= 0.7 <= high
    assert covered["clusters"] / sets == pytest.approx(0.95, abs=0.02)
    assert covered["rows"] / sets < 0.8  # what not knowing of households costs


def test_bootstrap_of_a_mean_covers_it() -> None:
    generator, inside = np.random.default_rng(0), 0
    for _ in range(300):
        found = bootstrap_mean(generator.beta(2, 3, 60), replicates=400)
        inside += int(found.low <= 0.4 <= found.high)
    assert 0.90 <= inside / 300 <= 0.98
    values = generator.beta(2, 3, 400)
    found = bootstrap_mean(values)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)


def test_a_few_perfect_scores_are_no_certainty() -> None:
    found = bootstrap_mean([1.0] * 8)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(float(wilson(8, 8).low))
    nothing = bootstrap_mean([])
    assert math.isnan(nothing.value)
    assert (nothing.low, nothing.high) == (0.0, 1.0)


def test_paired_difference_is_narrower_than_that_of_strangers() -> None:
    generator = np.random.default_rng(1)
    before = generator.random(500) < 0.7
    after = before & (generator.random(500) < 0.9)
    found = mean_difference(before, after)
    assert found.value == pytest.approx(after.mean() - before.mean())
    low, high = found.limits(0.05)
    strangers = newcombe(after.sum(), 500, before.sum(), 500)
    assert high - low < 0.6 * (strangers.high - strangers.low)
    never = mean_difference(before, before)
    assert never.value == 0.0
    assert never.limits(0.05)[1] > 0.0
