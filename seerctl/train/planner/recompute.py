"""Which blocks to recompute in backward: the least recomputation that keeps within a budget of memory.

SEER placed its checkpoints by dynamic programming (arXiv 2202.08360, section 3.1.2); this is one for a chain of blocks
whose activations are freed from the end on while backward goes through them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Chunk = tuple[int, int]  # the first and the last of consecutive blocks, counted from the input


@dataclass(frozen=True, slots=True)
class Block:
    """What one block of a chain takes, in bytes of one rank and in operations of a step.

    `entering`: the tensor that enters it. `inside`: what its backward needs beside what enters and what leaves it.
    `flops`: of its forward. `gathering`: bytes that its parameters take to be gathered once more. `stage`: chunks stay
    inside one.
    """

    name: str
    stage: int
    entering: int
    inside: int
    flops: int
    gathering: int = 0


@dataclass(frozen=True, slots=True)
class Chain:
    """Blocks between what is always kept: bytes of the stem (`before`), what leaves the last block, and the head."""

    blocks: tuple[Block, ...]
    before: int = 0
    leaving: int = 0
    after: int = 0

    def out_of(self, number: int) -> int:
        """Bytes of what leaves a block: what enters the next."""
        return self.blocks[number + 1].entering if number + 1 < len(self.blocks) else self.leaving


@dataclass(frozen=True, slots=True)
class _Way:
    """Blocks so far: bytes kept of them, what recomputing costs, and which chunks are recomputed."""

    kept: int
    cost: float
    chunks: tuple[Chunk, ...]

    @property
    def order(self) -> tuple[int, float, tuple[Chunk, ...]]:
        return self.kept, self.cost, self.chunks


def place(chain: Chain, budget: float, price: float = 0.0) -> tuple[Chunk, ...] | None:
    """The chunks whose recomputation costs least of all that hold at most `budget` bytes; None: there are none.

    Of a recomputed chunk only what enters it is kept until its backward, which then holds all of it. A chunk of several
    blocks gathers their parameters again, at `price` operations a byte; a block alone is gathered for its backward
    anyway. Exact: of the ways to the same block only those are left out that another beats in both bytes and cost.
    Equal ways are told apart by bytes, then by the chunks, so that the answer is always the same.
    """
    blocks = chain.blocks
    ways: list[list[_Way]] = [[_Way(chain.before, 0.0, ())]] + [[] for _ in blocks]
    for first in range(len(blocks)):
        starts = _best(ways[first])
        for last in range(first, _end_of_stage(blocks, first)):
            held = _held(chain, first, last)
            cost = _cost(blocks, first, last, price)
            for way in starts:
                if way.kept + held > budget:
                    continue
                entered = way.kept + blocks[first].entering
                ways[last + 1].append(_Way(entered, way.cost + cost, (*way.chunks, (first, last))))
                if first == last:
                    ways[last + 1].append(_Way(entered + blocks[first].inside, way.cost, way.chunks))
    done = [way for way in ways[-1] if way.kept + chain.leaving + chain.after <= budget]
    return min(done, key=lambda way: (way.cost, way.kept, way.chunks)).chunks if done else None


def peak_of(chain: Chain, chunks: Sequence[Chunk]) -> int:
    """Most bytes of activations at one moment of a step that recomputes `chunks`."""
    lasts = dict(chunks)
    kept, first, most = chain.before, 0, 0
    while first < len(chain.blocks):
        last = lasts.get(first, first)
        most = max(most, kept + _held(chain, first, last))
        kept += chain.blocks[first].entering + (0 if first in lasts else chain.blocks[first].inside)
        first = last + 1
    return max(most, kept + chain.leaving + chain.after)


def cost_of(chain: Chain, chunks: Sequence[Chunk], price: float = 0.0) -> float:
    """Operations of recomputing `chunks`, gathering included at `price` operations a byte."""
    return sum(_cost(chain.blocks, first, last, price) for first, last in chunks)


def _held(chain: Chain, first: int, last: int) -> int:
    """Bytes that the backward of these blocks begins with, beside what is kept of earlier ones."""
    return sum(one.entering + one.inside for one in chain.blocks[first : last + 1]) + chain.out_of(last)


def _cost(blocks: Sequence[Block], first: int, last: int, price: float) -> float:
    again = price if last > first else 0.0
    return sum(one.flops + again * one.gathering for one in blocks[first : last + 1])


def _end_of_stage(blocks: Sequence[Block], first: int) -> int:
    return next((n for n in range(first, len(blocks)) if blocks[n].stage != blocks[first].stage), len(blocks))


def _best(ways: Sequence[_Way]) -> list[_Way]:
    """Those that no other beats: with more bytes comes less cost."""
    best: list[_Way] = []
    for way in sorted(ways, key=lambda one: one.order):
        if not best or way.cost < best[-1].cost:
            best.append(way)
    return best
