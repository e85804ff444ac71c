"""The reading plan: which sample comes at which position of an epoch, as a pure function of numbers.

An epoch is cut into blocks of consecutive samples (one contiguous read), the blocks are permuted, and the result is
shuffled within windows of many blocks. Nothing of the size of the data set is held (weights apart), any rank computes
any part by itself, and the position of a run is its step number. Permutations are built from SHA-256 and the splitmix64
finaliser (Steele et al., OOPSLA 2014) alone, so they stay the same under every version of numpy.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]
_Words = npt.NDArray[np.uint64]

_TABLE = 1 << 16  # up to here a permutation is sorted out whole (exactly uniform), beyond it is a Feistel network
_ROUNDS = 6
_LINE = 64  # samples whose order is drawn anew each epoch before they are sampled by weight
_MOST_WEIGHTED = 1 << 31  # keeps slot * samples within 62 bits
_MOST = 10**11  # keeps position * number of windows within 64 bits


@dataclass(frozen=True, slots=True)
class ReadingPlan:
    """The order of `samples` samples, keyed by the hash of their index and a seed.

    `block` is in samples; so is `window`, the most that are shuffled together: windows are all of a size, give or take
    one, and a set no larger than `window` is shuffled whole.
    """

    samples: int
    index_sha256: str
    seed: int
    block: int = 64
    window: int = 65536

    def __post_init__(self) -> None:
        if not 1 <= self.samples <= _MOST:
            raise ValueError(f"a reading plan needs 1 to {_MOST} samples, not {self.samples}")
        if not 1 <= self.block <= self.window <= _TABLE:
            raise ValueError(f"block {self.block} and window {self.window} must obey 1 <= block <= window <= {_TABLE}")

    def order(self, epoch: int, positions: Positions) -> Positions:
        """Sample indices at `positions` (each in [0, samples)) of `epoch`: over all positions, a permutation."""
        positions = np.asarray(positions, dtype=np.int64)
        if positions.size and (positions.min() < 0 or positions.max() >= self.samples):
            raise ValueError(f"positions must lie in [0, {self.samples})")
        slots = self._shuffle_windows(epoch, positions)
        whole = self.samples // self.block  # the tail shorter than a block stays where it is, before the turn
        blocks, offsets = np.divmod(slots, self.block)
        inside = blocks < whole
        if whole > 1:
            moved = _permute(blocks[inside], whole, self.key(epoch, "blocks"))
            slots = slots.copy()
            slots[inside] = moved * self.block + offsets[inside]
        # Another cut into blocks every epoch: neighbours part, and no sample is for ever in the tail.
        turn = self.key(epoch, "turn") % self.samples
        return (slots + turn) % self.samples

    def step(self, step: int, batch: int, places: slice = slice(None)) -> tuple[Positions, Positions]:
        """(epochs, samples) of global step `step`: the positions [step * batch, (step + 1) * batch) of the run.

        `places` picks some of them, such as a rank's.
        """
        positions = np.arange(step * batch, (step + 1) * batch, dtype=np.int64)[places]
        epochs, within = np.divmod(positions, self.samples)
        samples = np.empty_like(within)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            samples[chosen] = self.order(int(epoch), within[chosen])
        return epochs, samples

    def key(self, epoch: int, what: str) -> int:
        """A 64-bit number of its own for each epoch and purpose."""
        return _derive(self.index_sha256, self.seed, epoch, what)

    def _shuffle_windows(self, epoch: int, positions: Positions) -> Positions:
        count = -(-self.samples // self.window)
        windows = ((positions + 1) * count - 1) // self.samples
        slots = np.empty_like(positions)
        for window in np.unique(windows).tolist():
            chosen = windows == window
            start, end = window * self.samples // count, (window + 1) * self.samples // count
            slots[chosen] = start + _table(end - start, self.key(epoch, f"window {window}"))[positions[chosen] - start]
        return slots


class WeightedPlan:
    """A reading plan by weights: in each epoch a sample comes floor or ceil of its expected number of times.

    An epoch keeps its N positions; sample i is expected e_i = N w_i / sum(w) times, a uniform weight gives every sample
    once. The positions of `plan` are slots: systematic sampling (W. G. Madow, Ann. Math. Stat. 20, 1949) lays the
    samples out on a line, each as long as its weight, and puts N points at equal distances on it, moved by one uniform
    offset an epoch; slot j takes the sample under point j. Within blocks of consecutive samples the line is in a new
    random order each epoch, so that a pattern in the order of the set cannot fall in step with the points. All of it is
    integer arithmetic on the weights as multiples of a fixed part of the largest (2^-38 for 10,000,000 samples; what is
    less than half of that never comes); only their running sum is held, 8 bytes a sample.
    """

    def __init__(self, plan: ReadingPlan, weights: npt.NDArray[np.float64]) -> None:
        """`weights` (N,) are finite, not negative and not all 0.

        Raises:
            ValueError: they are not, or there are more than 2^31.
        """
        if weights.shape != (plan.samples,) or plan.samples > _MOST_WEIGHTED:
            raise ValueError(f"{len(weights)} weights for a plan of {plan.samples} samples (at most {_MOST_WEIGHTED})")
        largest = float(weights.max())
        if not (np.isfinite(largest) and float(weights.min()) >= 0 and largest > 0):
            raise ValueError("weights have to be finite, not negative, and not all 0")
        self.plan = plan
        self.samples = plan.samples
        unit = 1 << (62 - plan.samples.bit_length())  # of the largest weight: the sum stays below 2^62
        self._ends = np.empty(plan.samples + 1, dtype=np.int64)
        self._ends[0] = 0
        for first in range(0, plan.samples, _TABLE):  # in parts: no second array of this size
            part = weights[first : first + _TABLE]
            lengths = np.rint(part / largest * unit).astype(np.int64)
            self._ends[first + 1 : first + 1 + len(part)] = self._ends[first] + np.cumsum(lengths)
        self._ends.flags.writeable = False

    def expected(self) -> npt.NDArray[np.float64]:
        """(N,) how often an epoch is expected to hold each sample: their sum is N."""
        return np.diff(self._ends) * (self.samples / float(self._ends[-1]))

    def order(self, epoch: int, positions: Positions) -> tuple[Positions, Positions]:
        """(samples, copies) at `positions` of `epoch`; the copies of one sample in an epoch are numbered from 0."""
        return self._pick(epoch, self.plan.order(epoch, positions))

    def step(self, step: int, batch: int, places: slice = slice(None)) -> tuple[Positions, Positions, Positions]:
        """(epochs, samples, copies) of global step `step`, or of some `places` in it, as `ReadingPlan.step`."""
        epochs, slots = self.plan.step(step, batch, places)
        samples, copies = np.empty_like(slots), np.empty_like(slots)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            samples[chosen], copies[chosen] = self._pick(int(epoch), slots[chosen])
        return epochs, samples, copies

    def _pick(self, epoch: int, slots: Positions) -> tuple[Positions, Positions]:
        """The samples under the points of `slots`, and how many points lie before on the same sample."""
        total, count = int(self._ends[-1]), self.samples
        offset = self.plan.key(epoch, "weights") % total
        # Point j lies at (j * total + offset) / count, whole part and remainder without leaving 64 bits.
        step, rest = divmod(total, count)
        carry, remainder = np.divmod(slots * rest + offset, count)
        points = slots * step + carry
        blocks = (np.searchsorted(self._ends, points, side="right") - 1) // _LINE
        unique, inverse = np.unique(blocks, return_inverse=True)
        samples, starts = self._lines(epoch, unique)
        # Each line is sorted: the last start that is not beyond the point is its sample's (empty samples come first).
        at = (starts[inverse] <= points[:, None]).sum(axis=1) - 1
        start = starts[inverse, at]
        copies = ((points - start) * count + remainder) // total
        return samples[inverse, at], copies

    def _lines(self, epoch: int, blocks: Positions) -> tuple[Positions, Positions]:
        """The samples of each block in the epoch's order, and where each begins: two (B, _LINE) arrays."""
        members = blocks[:, None] * _LINE + np.arange(_LINE)
        inside = np.minimum(members, self.samples - 1)
        lengths = np.where(members < self.samples, self._ends[inside + 1] - self._ends[inside], 0)
        words = _mix(_mix(members.astype(np.uint64)) + np.uint64(self.plan.key(epoch, "lines")))
        order = np.argsort(words, axis=1, kind="stable")
        lengths, inside = np.take_along_axis(lengths, order, 1), np.take_along_axis(inside, order, 1)
        first = self._ends[np.minimum(blocks * _LINE, self.samples)]
        starts = first[:, None] + np.cumsum(lengths, axis=1) - lengths
        return inside, starts


@lru_cache(maxsize=4096)
def _derive(*parts: object) -> int:
    """A 64-bit key from `parts`."""
    text = "\n".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def _mix(words: _Words) -> _Words:
    """The splitmix64 finaliser: a bijection of 64-bit words whose every output bit depends on every input bit."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


@lru_cache(maxsize=16)
def _table(size: int, key: int) -> Positions:
    """A permutation of range(size), held whole: the order of `size` hashed words (read-only)."""
    counters = (np.arange(size, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    table = np.argsort(_mix(counters ^ _mix(counters + np.uint64(key))), kind="stable").astype(np.int64)
    table.flags.writeable = False
    return table


def _permute(values: Positions, size: int, key: int) -> Positions:
    """A keyed permutation of range(size), applied to `values`."""
    if size <= _TABLE:
        return _table(size, key)[values]
    half = ((size - 1).bit_length() + 1) // 2
    words = _feistel(values.astype(np.uint64), half, key)
    while (outside := words >= size).any():  # cycle walking: on average at most four turns
        words[outside] = _feistel(words[outside], half, key)
    return words.astype(np.int64)


def _feistel(words: _Words, half: int, key: int) -> _Words:
    """A permutation of [0, 4**half): a balanced Feistel network of `_ROUNDS` rounds."""
    bits, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = words >> bits, words & mask
    for turn in range(_ROUNDS):
        left, right = right, left ^ (_mix(right + np.uint64(_derive(key, turn))) & mask)
    return (left << bits) | right
