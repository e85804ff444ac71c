"""The reading plan: each sample once an epoch, the same for ever, well mixed, nothing held of the set's size."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seerctl.shards.plan import ReadingPlan

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
