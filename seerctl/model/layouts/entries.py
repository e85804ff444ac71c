"""A tensor that has not been read yet: its shape and dtype, and the way to its values, piece by piece."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PIECE_BYTES = 1 << 24  # what is held of a large tensor at a time


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file: `pieces()` reads it from front to back, flat, in row-major order.

    `whole` is the tensor itself where it lies in a file as it is, mapped into memory and not read yet.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: Callable[[], Iterator[Tensor]]
    whole: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Size of the values."""
        return math.prod(self.shape) * self.dtype.itemsize

    def mapped(self) -> Tensor:
        """The whole tensor, from the file itself where it can be: its storage may hold more than it."""
        return self.tensor() if self.whole is None else self.whole

    def tensor(self) -> Tensor:
        """The whole tensor, in memory of its own."""
        whole = torch.empty(math.prod(self.shape), dtype=self.dtype)
        filled = 0
        for piece in self.pieces():
            whole[filled : filled + piece.numel()] = piece
            filled += piece.numel()
        return whole.view(self.shape)


def entry_of(tensor: Tensor) -> Entry:
    """The entry of a tensor that is in memory or memory-mapped."""
    return Entry(tuple(tensor.shape), tensor.dtype, lambda: flat_pieces(tensor), tensor)


def flat_pieces(tensor: Tensor) -> Iterator[Tensor]:
    """`tensor` flat in row-major order, in pieces of at most `PIECE_BYTES` (or one row), whatever its strides."""
    tensor = tensor.detach()
    if tensor.is_contiguous():
        yield from torch.split(tensor.view(-1), max(1, PIECE_BYTES // tensor.element_size()))
        return
    row = max(1, tensor[0].numel() * tensor.element_size())
    for part in torch.split(tensor, max(1, PIECE_BYTES // row)):
        yield part.contiguous().view(-1)


def joined(parts: Sequence[Tensor], start: int, shape: tuple[int, ...]) -> Entry:
    """The entry of the `prod(shape)` values from position `start` on of flat `parts` put end to end."""
    end = start + math.prod(shape)

    def pieces() -> Iterator[Tensor]:
        position = 0
        for part in parts:
            low, high = max(start - position, 0), min(end - position, part.numel())
            if low < high:
                yield from flat_pieces(part.view(-1)[low:high])
            position += part.numel()

    return Entry(shape, parts[0].dtype, pieces)
