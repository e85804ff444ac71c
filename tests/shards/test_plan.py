"""The reading plan: each sample once an epoch, the same for ever, well mixed, nothing held of the set's size."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seerctl.shards.plan import ReadingPlan, WeightedPlan

PLANS = st.builds(
    ReadingPlan,
    samples=st.integers(1, 3000),
    index_sha256=st.sampled_from(["ab" * 32, "cd" * 32]),
    seed=st.integers(0, 3),
    block=st.integers(1, 70),
    window=st.integers(70, 900),
)


@settings(max_examples=150)
@given(PLANS, st.integers(0, 5))
def test_an_epoch_holds_every_sample_once(plan: ReadingPlan, epoch: int) -> None:
    order = plan.order(epoch, np.arange(plan.samples))
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(plan.samples))


@given(PLANS, st.integers(0, 3), st.data())
def test_the_order_is_a_function_of_the_position(plan: ReadingPlan, epoch: int, data: st.DataObject) -> None:
    order = plan.order(epoch, np.arange(plan.samples))
    some = np.array(data.draw(st.lists(st.integers(0, plan.samples - 1), max_size=40)), dtype=np.int64)
    np.testing.assert_array_equal(plan.order(epoch, some), order[some])


@given(PLANS, st.integers(1, 64), st.integers(0, 200))
def test_steps_tile_the_epochs(plan: ReadingPlan, batch: int, step: int) -> None:
    epochs, samples = plan.step(step, batch)
    positions = np.arange(step * batch, (step + 1) * batch)
    np.testing.assert_array_equal(epochs, positions // plan.samples)
    expected = [plan.order(int(p // plan.samples), np.array([p % plan.samples]))[0] for p in positions]
    np.testing.assert_array_equal(samples, expected)


@pytest.mark.parametrize("samples", [10_000, 70_001 * 64])
def test_epochs_seeds_and_sets_differ(samples: int) -> None:
    places = np.arange(5000)
    plans = [ReadingPlan(samples, "ab", 1), ReadingPlan(samples, "ab", 2), ReadingPlan(samples, "ac", 1)]
    orders = [plans[0].order(1, places), *(plan.order(0, places) for plan in plans)]
    for first in range(4):
        for second in range(first):
            assert (orders[first] == orders[second]).mean() < 0.01


def test_it_stays_the_same_for_ever() -> None:
    """A run must go on after an upgrade: these numbers may never change."""
    small = ReadingPlan(10, "ab" * 32, 7).order(0, np.arange(10))
    large = ReadingPlan(10**9, "ab" * 32, 7).order(3, np.arange(5 * 10**8, 5 * 10**8 + 1000))
    assert small.tolist() == [3, 8, 0, 1, 5, 7, 4, 2, 9, 6]
    assert hashlib.sha256(large.astype("<i8").tobytes()).hexdigest() == (
        "ff28dd24399f0b8bccd6b37ae5936fb86a7974cf0db78e81bf234078175bbc32"
    )


def test_a_billion_samples_are_a_billion_different_ones() -> None:
    plan = ReadingPlan(10**9 + 7, "ab", 0)
    start = 123_456_789
    order = plan.order(2, np.arange(start, start + 200_000))
    assert len(np.unique(order)) == len(order)
    assert order.min() >= 0
    assert order.max() < plan.samples
    # Spread over the whole set: a window takes its blocks from everywhere.
    assert np.histogram(order, bins=10, range=(0, plan.samples))[0].min() > 15_000


@pytest.mark.parametrize("samples", [2, 7, 100])
def test_small_sets_are_shuffled_uniformly(samples: int) -> None:
    counts = np.zeros((samples, samples))
    rounds = 400
    for seed in range(rounds):
        counts[np.arange(samples), ReadingPlan(samples, "ab", seed).order(0, np.arange(samples))] += 1
    expected = rounds / samples
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = (samples - 1) ** 2
    assert abs(statistic - freedom) < 5 * np.sqrt(2 * freedom) + 3


def test_sorted_classes_come_mixed() -> None:
    """Ten classes one after the other, as folders give them: every batch of 256 sees all of them in proportion."""
    plan = ReadingPlan(50_000, "ab", 3, window=16384)
    classes = plan.order(0, np.arange(50_000)) // 5000
    batches = classes[: 195 * 256].reshape(195, 256)
    counts = np.stack([(batches == label).sum(1) for label in range(10)], 1)
    assert counts.min() >= 5
    assert counts.std() < 1.6 * np.sqrt(25.6 * 0.9)  # a full shuffle has 1.0


def test_neighbours_part_in_another_epoch() -> None:
    plan = ReadingPlan(200_000, "ab", 3)
    edges = []
    for epoch in range(4):
        samples = np.sort(plan.order(epoch, np.arange(50_000)))  # the first window: whole blocks, but for its end
        counts = np.bincount(samples[1:][np.diff(samples) > 1] % plan.block, minlength=plan.block)
        assert counts.max() > 0.9 * counts.sum()
        edges.append(int(counts.argmax()))
    assert len(set(edges)) == 4


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"block": 0}, {"window": 10, "block": 20}, {"window": 1 << 20}])
def test_wrong_plans_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"reading plan|window"):
        ReadingPlan(**{"samples": 10, "index_sha256": "ab", "seed": 0, **wrong})  # type: ignore[arg-type]


def test_positions_outside_are_refused() -> None:
    for position in (-1, 10):
        with pytest.raises(ValueError, match="positions"):
            ReadingPlan(10, "ab", 0).order(0, np.array([position]))


WEIGHTS = st.one_of(
    st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1e6)), min_size=1, max_size=300).filter(any),
    st.builds(lambda number, value: [value] * number, st.integers(1, 300), st.floats(1e-3, 1e3)),
)


def weighted(weights: list[float], seed: int = 0, **plan: int) -> WeightedPlan:
    return WeightedPlan(ReadingPlan(len(weights), "ab" * 32, seed, **plan), np.array(weights))


@settings(max_examples=150)
@given(WEIGHTS, st.integers(0, 3))
def test_a_sample_comes_floor_or_ceil_of_its_expected_count(weights: list[float], epoch: int) -> None:
    plan = weighted(weights, block=7, window=50)
    samples, copies = plan.order(epoch, np.arange(len(weights)))
    counts = np.bincount(samples, minlength=len(weights))
    expected = len(weights) * np.array(weights) / sum(weights)
    np.testing.assert_allclose(plan.expected(), expected, rtol=1e-9, atol=1e-9)
    assert counts.sum() == len(weights)
    assert (counts >= np.floor(expected - 1e-7)).all()
    assert (counts <= np.ceil(expected + 1e-7)).all()
    assert not counts[np.array(weights) == 0].any()
    numbered = sorted(zip(samples.tolist(), copies.tolist(), strict=True))
    assert numbered == [(sample, copy) for sample in range(len(weights)) for copy in range(counts[sample])]


@given(WEIGHTS, st.integers(0, 3), st.data())
def test_the_weighted_order_is_a_function_of_the_position(
    weights: list[float], epoch: int, data: st.DataObject
) -> None:
    plan = weighted(weights)
    samples, copies = plan.order(epoch, np.arange(len(weights)))
    some = np.array(data.draw(st.lists(st.integers(0, len(weights) - 1), max_size=40)), dtype=np.int64)
    again, numbers = plan.order(epoch, some)
    np.testing.assert_array_equal(again, samples[some])
    np.testing.assert_array_equal(numbers, copies[some])


@given(st.integers(1, 32), st.integers(0, 100), st.integers(1, 4))
def test_weighted_steps_tile_the_epochs_and_ranks_the_steps(share: int, step: int, ranks: int) -> None:
    plan, batch = weighted([0.5, 0.0, 3.0, 1.0, 1.0, 0.1, 2.0] * 11, seed=4), share * ranks
    epochs, samples, copies = plan.step(step, batch)
    positions = np.arange(step * batch, (step + 1) * batch)
    np.testing.assert_array_equal(epochs, positions // 77)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        whole, numbers = plan.order(int(epoch), positions[chosen] % 77)
        np.testing.assert_array_equal(samples[chosen], whole)
        np.testing.assert_array_equal(copies[chosen], numbers)
    parts = [plan.step(step, batch, slice(rank * share, (rank + 1) * share)) for rank in range(ranks)]
    for whole, part in zip((epochs, samples, copies), zip(*parts, strict=True), strict=True):
        np.testing.assert_array_equal(whole, np.concatenate(part))


def test_over_many_epochs_frequencies_are_the_weights() -> None:
    weights = np.random.default_rng(0).gamma(0.5, size=500)
    plan = WeightedPlan(ReadingPlan(500, "ab", 1), weights)
    epochs = 800
    counts = sum(np.bincount(plan.order(epoch, np.arange(500))[0], minlength=500) for epoch in range(epochs))
    expected = plan.expected()
    part = expected - np.floor(expected)  # an epoch adds one with this probability
    deviations = (counts - epochs * expected) / np.sqrt(np.maximum(epochs * part * (1 - part), 1e-9))
    assert np.abs(deviations[part > 1e-3]).max() < 4.5
    assert np.std(deviations[part > 1e-3]) == pytest.approx(1, abs=0.15)


def test_equal_weights_give_every_sample_once() -> None:
    for value in (0.1, 1.0, 3.7e-5):
        samples, copies = weighted([value] * 1000).order(3, np.arange(1000))
        np.testing.assert_array_equal(np.sort(samples), np.arange(1000))
        assert not copies.any()


def test_groups_come_by_their_weight_also_where_they_alternate() -> None:
    """Plain systematic sampling would take every other sample twice or never; the epochs' own orders prevent it."""
    plan = weighted([1.5, 0.5] * 3200)
    shares = [(plan.order(epoch, np.arange(6400))[0] % 2 == 0).mean() for epoch in range(20)]
    assert max(abs(share - 0.75) for share in shares) < 0.02
    assert len(set(shares)) > 5


def test_weighted_epochs_and_seeds_differ() -> None:
    weights = np.random.default_rng(0).gamma(2.0, size=20_000).tolist()
    one, two = weighted(weights, seed=1), weighted(weights, seed=2)
    orders = [one.order(0, np.arange(5000))[0], one.order(1, np.arange(5000))[0], two.order(0, np.arange(5000))[0]]
    for first in range(3):
        for second in range(first):
            assert (orders[first] == orders[second]).mean() < 0.01


def test_the_weighted_order_stays_the_same_for_ever() -> None:
    """A run must go on after an upgrade: these numbers may never change."""
    samples, copies = weighted([0.5, 0.0, 3.0, 1.0, 1.0, 0.1, 2.0, 0.4], seed=7).order(0, np.arange(8))
    assert samples.tolist() == [2, 2, 4, 3, 6, 7, 2, 6]
    assert copies.tolist() == [0, 2, 0, 0, 1, 0, 1, 0]
    weights = np.arange(100_000) % 1009 + 0.25
    order, _ = WeightedPlan(ReadingPlan(100_000, "ab" * 32, 7), weights).order(3, np.arange(50_000, 51_000))
    assert hashlib.sha256(order.astype("<i8").tobytes()).hexdigest() == (
        "ed8a616aff4924763a996febf112ef2a8dac2ccb2e23a9e8682730dbdf572fc1"
    )


@pytest.mark.parametrize(
    "weights", [[0.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [float("inf"), 1.0], [1.0, 1.0, 1.0]]
)
def test_wrong_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        WeightedPlan(ReadingPlan(2, "ab", 0), np.array(weights))
