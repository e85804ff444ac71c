"""Places of 60 relevant rows among 200,000, with 20 of junk, for 100 queries, against a full argsort of each."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from seerctl.probes.ranking import Wanted, ranks
from tests.bench.measure import in_turn

QUERIES, INDEX, RELEVANT, JUNK = 100, 200_000, 60, 20


def full_sort(similarity: NDArray[np.float32], wanted: Wanted) -> NDArray[np.intp]:
    """What the published evaluation does: sort the index, look the rows up, close the gaps of junk."""
    order = np.argsort(-similarity, kind="stable")
    order = order[~np.isin(order, wanted.junk)]
    return np.flatnonzero(np.isin(order, wanted.relevant))


def run() -> list[dict[str, Any]]:
    generator = np.random.default_rng(0)
    similarity = generator.normal(size=(QUERIES, INDEX)).astype(np.float32)
    asked = []
    for _ in range(QUERIES):
        rows = generator.choice(INDEX, RELEVANT + JUNK, replace=False)
        asked.append(Wanted(rows[:RELEVANT], rows[RELEVANT:]))
    pairs = list(zip(similarity, asked, strict=True))
    assert all((ranks(*pair) == full_sort(*pair)).all() for pair in pairs[:5])
    mine, peer = in_turn(
        lambda: [ranks(*pair) for pair in pairs], lambda: [full_sort(*pair) for pair in pairs], repeats=3, cpu=True
    )  # fmt: skip
    return [
        {
            "name": "ranking", "ours": mine, "peer": peer, "ratio": peer / mine, "unit": "s",
            "peer_name": "full argsort", "note": f"{QUERIES} x {INDEX}, CPU time",
        }
    ]  # fmt: skip
