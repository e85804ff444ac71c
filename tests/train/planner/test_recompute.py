"""The placement of recomputed chunks against every way there is, with memory counted tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from seerctl.train.planner.recompute import Block, Chain, Chunk, cost_of, peak_of, place

SIZES = st.integers(0, 9)


@st.composite
def chains(draw: st.DrawFn) -> Chain:
    stages = sorted(draw(st.lists(st.integers(0, 2), min_size=1, max_size=6)))
    blocks = [
        Block(f"{number}", stage, draw(SIZES), draw(SIZES), draw(st.integers(1, 5)), draw(st.integers(0, 3)))
        for number, stage in enumerate(stages)
    ]
    return Chain(tuple(blocks), draw(SIZES), draw(SIZES), draw(SIZES))


def every_way(chain: Chain, first: int = 0) -> Iterator[tuple[Chunk, ...]]:
    """Each set of chunks inside stages."""
    if first == len(chain.blocks):
        yield ()
        return
    for rest in every_way(chain, first + 1):
        yield rest
    for last in range(first, len(chain.blocks)):
        if chain.blocks[last].stage == chain.blocks[first].stage:
            for rest in every_way(chain, last + 1):
                yield ((first, last), *rest)


def simulated(chain: Chain, chunks: tuple[Chunk, ...]) -> int:
    """The most bytes at once, of tensors by name: between a block and the next, inside a block, the stem, the head."""
    blocks, of = chain.blocks, {number: chunk for chunk in chunks for number in range(chunk[0], chunk[1] + 1)}
    sizes = {("between", number): one.entering for number, one in enumerate(blocks)}
    sizes |= {("inside", number): one.inside for number, one in enumerate(blocks)}
    sizes |= {("between", len(blocks)): chain.leaving, ("stem", 0): chain.before, ("head", 0): chain.after}
    live = {("stem", 0), ("head", 0), ("between", len(blocks))}
    for number in range(len(blocks)):
        if number not in of:
            live |= {("between", number), ("inside", number)}
        elif of[number][0] == number:
            live.add(("between", number))
    most = sum(sizes[one] for one in live)
    live.discard(("head", 0))
    for number in reversed(range(len(blocks))):
        if number in of and of[number][1] == number:  # the chunk is computed again, whole
            for inner in range(of[number][0], number + 1):
                live |= {("between", inner), ("inside", inner)}
        most = max(most, sum(sizes[one] for one in live))
        live -= {("between", number + 1), ("inside", number)}
    return most


@settings(max_examples=150, deadline=None)
@given(chains(), st.integers(0, 80), st.sampled_from([0.0, 0.5, 2.0]))
def test_no_way_within_the_budget_costs_less(chain: Chain, budget: int, price: float) -> None:
    fitting = [way for way in every_way(chain) if simulated(chain, way) <= budget]
    found = place(chain, budget, price)
    if not fitting:
        assert found is None
        return
    assert found is not None
    assert simulated(chain, found) <= budget
    assert cost_of(chain, found, price) == min(cost_of(chain, way, price) for way in fitting)
    assert place(chain, budget, price) == found


@settings(max_examples=50, deadline=None)
@given(chains())
def test_the_peak_is_that_of_the_tensors(chain: Chain) -> None:
    for way in every_way(chain):
        assert peak_of(chain, way) == simulated(chain, way)


def test_chunks_save_boundaries_and_cost_gathering() -> None:
    blocks = tuple(Block(f"{number}", 0, 10, 2, 5, 3) for number in range(4))
    chain = Chain(blocks)
    assert place(chain, 48) == ()
    assert place(chain, 46) == ((0, 0),)
    assert place(chain, 38) == ((0, 1),)  # kept alone, what enters block 1 would be ten bytes too many
    assert cost_of(chain, ((0, 1),), price=2.0) == 2 * 5 + 2 * 2 * 3
    assert place(chain, 20) is None
