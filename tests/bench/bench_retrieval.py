"""Nearest neighbours of 3,000 queries among 24,000 rows of 512 dimensions, against the full sort of the indicators."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from seerctl.audit.retrieval import top_k
from tests.bench.measure import in_turn

QUERIES, DATABASE, DIMENSIONS, K = 3000, 24_000, 512, 50


def unit(rows: int, seed: int) -> NDArray[np.float32]:
    points = np.random.default_rng(seed).normal(size=(rows, DIMENSIONS)).astype(np.float32)
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def full_sort(queries: NDArray[np.float32], bank: NDArray[np.float32]) -> NDArray[np.intp]:
    """What VISSL's similarity_search does: all products, all sorted."""
    return np.argsort(-(queries @ bank.T), axis=1)[:, :K]


def run() -> list[dict[str, Any]]:
    queries, bank, own = unit(QUERIES, 1), unit(DATABASE, 2), np.full(QUERIES, -1)
    few = slice(0, 100)
    assert (np.sort(top_k(queries[few], bank, K, own[few])) == np.sort(full_sort(queries[few], bank))).all()
    mine, peer = in_turn(lambda: top_k(queries, bank, K, own), lambda: full_sort(queries, bank), repeats=3, cpu=True)
    return [
        {
            "name": "retrieval", "ours": mine, "peer": peer, "ratio": peer / mine, "unit": "s",
            "peer_name": "full argsort", "note": f"{QUERIES} x {DATABASE} x {DIMENSIONS}, k {K}, CPU time",
        }
    ]  # fmt: skip
