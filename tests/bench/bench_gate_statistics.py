"""What the gate promises, by simulation: false FAILs, gaps that are found, and coverage, beside uncorrected intervals.

2,000 data sets a case of 48 groups (2 x 6 x 4, shares from 6 to 0.25 %), judged by the shipped policy's three checks:
144 comparisons a report. The peer is the same gate without correction, each interval at 95 %.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from seerctl.audit.clusters import make_frame, with_spread
from seerctl.audit.counts import GroupCounts, count
from seerctl.audit.gate import Judged, Verdict, judge, make_block
from seerctl.audit.policy import Check, Stats
from seerctl.columns import Column
from seerctl.stats import newcombe, wilson, z_quantile

SETS = 2000
SHARES = np.outer([0.5, 0.5], np.outer([0.3, 0.25, 0.2, 0.1, 0.1, 0.05], [0.4, 0.3, 0.2, 0.1]).ravel()).ravel()
RATE = 0.8  # of true positives, and of true negatives
NOMINAL = 0.95


def report(generator: np.random.Generator, rows: int, tpr: NDArray[np.float64]) -> GroupCounts:
    """Counts of 48 groups of a classifier with the true positive rates `tpr`; half of the rows are positive."""
    n = generator.multinomial(rows, SHARES)
    positive = generator.binomial(n, 0.5)
    hit, rejected = generator.binomial(positive, tpr), generator.binomial(n - positive, RATE)
    correct = np.stack([rejected, hit], 1)
    said = hit + (n - positive - rejected)
    kept = n > 0
    groups = tuple((str(index),) for index in np.flatnonzero(kept))
    tables = (np.stack([n - positive, positive], 1), np.stack([n - said, said], 1), correct)
    return GroupCounts(("g",), groups, n[kept], *(table[kept] for table in tables), 0)


def checks(tolerance: float) -> list[Check]:
    return [Check(name, name, tolerance=tolerance) for name in ("accuracy", "tpr", "selection_rate")]  # type: ignore[arg-type]


def verdicts(counts: GroupCounts, tolerance: float, stats: Stats) -> list[Judged]:
    return judge([make_block(check, counts, ("0", "1")) for check in checks(tolerance)], stats)


def failed(judged: list[Judged]) -> bool:
    return any((block.verdict == Verdict.FAIL).any() for block in judged)


def fail_rates(rows: int, tolerance: float, tpr: NDArray[np.float64], sets: int, seed: int = 0) -> tuple[float, float]:
    """Shares of reports that fail: by the gate, and without correction."""
    generator, ours, naive = np.random.default_rng(seed), 0, 0
    for _ in range(sets):
        counts = report(generator, rows, tpr)
        ours += failed(verdicts(counts, tolerance, Stats()))
        naive += failed(verdicts(counts, tolerance, Stats(correction="none")))
    return ours / sets, naive / sets


def with_gap(group: int, gap: float) -> NDArray[np.float64]:
    rates = np.full(48, RATE)
    rates[group] -= gap
    return rates


def wilson_coverage(n: int, rate: float) -> float:
    """The exact chance that Wilson's 95 % interval of `n` trials holds the true rate."""
    x = np.arange(n + 1)
    limits = wilson(x, n)
    return float((binom.pmf(x, n, rate) * ((limits.low <= rate) & (rate <= limits.high))).sum())


def newcombe_coverage(n: int, rate: float, rest: int, other: float) -> float:
    """The exact chance that Newcombe's 95 % interval of a group of `n` against `rest` holds the true gap."""
    x, y = np.arange(n + 1)[:, None], np.arange(rest + 1)[None, :]
    limits = newcombe(x, n, y, rest)
    chance = binom.pmf(x, n, rate) * binom.pmf(y, rest, other)
    return float((chance * ((limits.low <= rate - other) & (rate - other <= limits.high))).sum())


def coverages() -> dict[str, NDArray[np.float64]]:
    """Coverage over n from 30 to 1,000 and rates from 0.05 to 0.95."""
    rates = np.arange(0.05, 0.951, 0.05)
    sizes = (30, 40, 50, 75, 100, 200, 500, 1000)
    gaps = [newcombe_coverage(n, p, 10 * n, q) for n in sizes[:6] for p in rates for q in rates if abs(p - q) <= 0.3]
    return {"wilson": np.array([wilson_coverage(n, p) for n in sizes for p in rates]), "newcombe": np.array(gaps)}


def household_coverage(homes: int, rows: int, sets: int, seed: int = 2) -> tuple[float, float]:
    """Coverage of 95 % intervals of the gaps of three groups of households: ours, and of rows taken as independent."""
    generator, z = np.random.default_rng(seed), z_quantile(np.full((3, 1), 0.05))
    house = np.repeat(np.arange(homes, dtype=np.int32), rows)
    group = (house % 3).astype(np.int32)
    label, columns = np.ones(len(house), dtype=np.int32), {"g": Column(group, ("a", "b", "c"))}
    ours = naive = 0
    for turn in range(sets):
        chance = generator.beta(0.7 / 0.3, 0.3 / 0.3, homes)
        said = (generator.random(len(house)) < chance[house]).astype(np.int32)
        block = make_block(Check("a", "accuracy"), count(label, said, 2, columns, [("g",)])[("g",)], ("0", "1"))
        frame = make_frame(label, said, 2, columns, cluster=house)
        drawn = with_spread([block], frame, columns, ("0", "1"), replicates=1000, seed=turn, min_clusters=2, what="")[0]
        found, plain = drawn.interval(z), block.interval(z)
        ours += int(((found.low <= 0) & (found.high >= 0)).sum())
        naive += int(((plain.low <= 0) & (plain.high >= 0)).sum())
    return ours / (3 * sets), naive / (3 * sets)


def run() -> list[dict[str, Any]]:
    results = []
    for tolerance in (0.05, 0.0):
        for rows in (5_000, 20_000, 100_000):
            ours, naive = fail_rates(rows, tolerance, np.full(48, RATE), SETS)
            assert tolerance == 0.0 or ours <= 0.06, f"{ours:.3f} of the reports on equal groups fail"
            results.append(_row(f"false_fail_{rows // 1000}k_{tolerance:g}", ours, naive, "no gap"))
    for group in (5, 10, 11, 19):
        ours, naive = fail_rates(20_000, 0.05, with_gap(group, 0.30), SETS, seed=1)
        share = f"{100 * SHARES[group]:g} %"
        results.append(_row(f"found_in_{share.replace(' ', '')}", ours, naive, f"TPR less 0.30 in {share} of rows"))
    assert results[-4]["ours"] >= 95
    for name, found in coverages().items():
        note = f"exact, {len(found)} cases, n >= 30, rates 0.05-0.95; lowest, highest {100 * found.max():.2f}"
        note += f", {100 * float((abs(found - NOMINAL) <= 0.02).mean()):.0f} % within 2 points of 95"
        results.append({
            "name": f"coverage_{name}", "ours": 100 * float(found.min()), "peer": 100 * NOMINAL,
            "ratio": float(found.min()) / NOMINAL, "unit": "%", "peer_name": "nominal", "note": note,
        })  # fmt: skip
    for homes in (30, 90, 300):
        ours, naive = household_coverage(homes, 10, SETS)
        results.append({
            "name": f"coverage_homes_{homes}", "ours": 100 * ours, "peer": 100 * naive, "ratio": ours / naive,
            "unit": "%", "peer_name": "rows as independent",
            "note": f"{SETS:,} sets of {homes} households of 10 rows in 3 groups",
        })  # fmt: skip
    return results


def _row(name: str, ours: float, naive: float, note: str) -> dict[str, Any]:
    return {
        "name": name, "ours": 100 * ours, "peer": 100 * naive, "ratio": naive / ours if ours else float("inf"),
        "unit": "% of reports", "peer_name": "each at 95 %",
        "note": f"{note}; {SETS:,} sets of 48 groups, 144 comparisons",
    }  # fmt: skip
