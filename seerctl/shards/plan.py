"""The reading plan: which sample comes at which position of an epoch, as a pure function of numbers.

An epoch is cut into blocks of consecutive samples (one contiguous read), the blocks are permuted, and the result is
shuffled within windows of many blocks. Nothing of the size of the data set is ever held, any rank computes any part by
itself, and the position of a run is its step number. Permutations are built from SHA-256 and the splitmix64 finaliser
(Steele et al., OOPSLA 2014) alone, so they stay the same under every version of numpy.
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
            moved = _permute(blocks[inside], whole, self._key(epoch, "blocks"))
            slots = slots.copy()
            slots[inside] = moved * self.block + offsets[inside]
        # Another cut into blocks every epoch: neighbours part, and no sample is for ever in the tail.
        turn = self._key(epoch, "turn") % self.samples
        return (slots + turn) % self.samples

    def step(self, step: int, batch: int) -> tuple[Positions, Positions]:
        """(epochs, samples) of global step `step`: the positions [step * batch, (step + 1) * batch) of the run."""
        positions = np.arange(step * batch, (step + 1) * batch, dtype=np.int64)
        epochs, within = np.divmod(positions, self.samples)
        samples = np.empty_like(within)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            samples[chosen] = self.order(int(epoch), within[chosen])
        return epochs, samples

    def _key(self, epoch: int, what: str) -> int:
        return _derive(self.index_sha256, self.seed, epoch, what)

    def _shuffle_windows(self, epoch: int, positions: Positions) -> Positions:
        count = -(-self.samples // self.window)
        windows = ((positions + 1) * count - 1) // self.samples
        slots = np.empty_like(positions)
        for window in np.unique(windows).tolist():
            chosen = windows == window
            start, end = window * self.samples // count, (window + 1) * self.samples // count
            slots[chosen] = start + _table(end - start, self._key(epoch, f"window {window}"))[positions[chosen] - start]
        return slots


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
