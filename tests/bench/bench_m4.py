"""M4 weights for 1,000,000 samples by 10 attributes, from columns on, and its solver against cvxpy with Clarabel."""

from __future__ import annotations

import resource
import time
from typing import Any

import cvxpy as cp
import numpy as np

from seerctl.audit.balance import Settings, balance, make_programme, target_shares
from seerctl.audit.contingency import name_of
from seerctl.audit.moments import Programme, solve
from seerctl.columns import Column
from seerctl.weighting import SampleWeights

ROWS, ATTRIBUTES, LABELS = 1_000_000, 10, 20
LIMIT = 10.0  # seconds


def columns(rows: int, values: int, seed: int = 0) -> dict[str, Column]:
    """Attributes of so many values each, whose shares are uneven and differ from label to label."""
    generator = np.random.default_rng(seed)
    label = generator.choice(LABELS, rows, p=generator.dirichlet(np.full(LABELS, 3.0))).astype(np.int32)
    made = {"label": Column(label, tuple(f"l{number:02d}" for number in range(LABELS)))}
    for number in range(ATTRIBUTES):
        cumulative = generator.dirichlet(np.full(values, 4.0), size=LABELS).cumsum(1)[:, :-1]
        codes = (generator.random(rows)[:, None] > cumulative[label]).sum(1).astype(np.int32)
        made[f"a{number}"] = Column(codes, tuple(f"v{value}" for value in range(values)))
    return made


def whole(values: int) -> dict[str, Any]:
    """Seconds from coded columns to weights and the report's numbers."""
    table = columns(ROWS, values)
    names = tuple(name for name in table if name != "label")
    blank = SampleWeights(np.zeros(ROWS, dtype="S25"), np.ones(ROWS), "")
    started = time.perf_counter()
    result = balance(table, [(name,) for name in names], Settings(names, ("label",)), {}, blank, "memory")
    seconds = time.perf_counter() - started
    assert result.after.representation(result.targets) <= 0.01 + 1e-6
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    note = (
        f"{ROWS:,} x {ATTRIBUTES} attributes of {values} values, {LABELS} labels, {result.patterns:,} patterns, "
        f"peak {memory:,.0f} MiB; association {result.before.association():.3f} -> {result.after.association():.3f}"
    )
    return {"name": f"m4_{values}_values", "ours": seconds, "peer": LIMIT, "ratio": LIMIT / seconds, "unit": "s",
            "peer_name": "limit", "note": note}  # fmt: skip


def clarabel(programme: Programme) -> float:
    """The optimum by cvxpy."""
    rows = np.concatenate([np.ones((len(programme.labels), 1)), programme.labels], axis=1)
    rows = np.repeat(rows, np.diff(programme.starts), axis=0)
    products = (rows[:, :, None] * programme.centred[:, None, :]).reshape(len(rows), -1) * programme.mass[:, None]
    q = cp.Variable(len(programme.mass))
    limits = [q >= 0, q <= programme.bound, cp.abs(products.T @ q) <= programme.eps.ravel()]
    limits.append(programme.mass @ q == programme.eta)
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum(cp.multiply(programme.mass, (q - programme.eta) ** 2))), limits)
    problem.solve(solver=cp.CLARABEL)
    return float(problem.value)


def solvers() -> dict[str, Any]:
    """Seconds of both solvers on the same grouped programme, and how far their optima are apart."""
    table = columns(20_000, 2)
    attributes = {name_of((name,)): table[name] for name in list(table)[1:5]}
    targets = {name: target_shares(name, column, "uniform", "") for name, column in attributes.items()}
    programme, _ = make_programme(attributes, {"label": table["label"]}, targets, Settings(("a",), ("label",)))
    started = time.perf_counter()
    ours = solve(programme).objective
    middle = time.perf_counter()
    peer = clarabel(programme)
    seconds = middle - started, time.perf_counter() - middle
    return {"name": "m4_solver", "ours": seconds[0], "peer": seconds[1], "ratio": seconds[1] / seconds[0], "unit": "s",
            "peer_name": "cvxpy Clarabel", "note": f"{len(programme.mass)} patterns, {programme.eps.size} limits, "
            f"objectives {abs(ours - peer) / peer:.1e} apart"}  # fmt: skip


def run() -> list[dict[str, Any]]:
    return [solvers(), whole(2), whole(4)]
