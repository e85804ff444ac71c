"""Exact nearest neighbours, 10,000 queries in 50,000 rows of 512 numbers, k 200, against bare matmul and top-k.

The peer works in the same pieces of queries; ours also orders equals by row. The similarities of both
have to be the same numbers (tests compare the rows with scikit-learn's).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seerctl.probes.knn import QUERY_ROWS, neighbours
from tests.bench.measure import in_turn

QUERIES, ROWS, DIM, K = 10_000, 50_000, 512, 200


def run() -> list[dict[str, Any]]:
    torch.manual_seed(0)
    queries, bank = (torch.nn.functional.normalize(torch.randn(n, DIM), dim=1) for n in (QUERIES, ROWS))
    found: dict[str, list[Any]] = {"ours": [], "peer": []}

    def ours() -> None:
        found["ours"] = [neighbours(part, bank, K)[0] for part in queries.split(QUERY_ROWS)]

    def peer() -> None:
        found["peer"] = [_bare(part, bank) for part in queries.split(QUERY_ROWS)]

    seconds = in_turn(ours, peer, 2, cpu=True)
    same = [torch.equal(torch.from_numpy(a), b) for a, b in zip(*found.values(), strict=True)]
    assert all(same), "the similarities differ"
    return [{
        "name": "knn", "ours": seconds[0], "peer": seconds[1], "ratio": seconds[0] / seconds[1],
        "unit": "s of processor time", "peer_name": "matmul + top-k", "note": f"{QUERIES:,} x {ROWS:,} x {DIM}, k {K}",
    }]  # fmt: skip


def _bare(queries: Tensor, bank: Tensor) -> Tensor:
    return (queries @ bank.T).topk(K, dim=1).values
