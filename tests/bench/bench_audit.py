"""An audit of 10,000,000 rows by 2 x 6 x 4 groups: from codes in memory with a bootstrap, from parquet; fairlearn."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from seerctl.audit.counts import count
from seerctl.audit.fairness import audit_fairness, measure_table
from seerctl.audit.indicators import METRICS
from seerctl.audit.policy import LoadedPolicy, Policy, Stats, load_policy
from seerctl.audit.summary import assemble
from seerctl.columns import Column
from seerctl.predictions import Predictions

ROWS, PEER_ROWS = 10_000_000, 1_000_000
REPLICATES = 1000
LEVELS = {"gender": 2, "skin": 6, "age": 4}
RATES = ("accuracy", "tpr", "selection_rate")


def make_table(rows: int, seed: int = 0) -> Predictions:
    """A binary classifier that is right four times in five."""
    generator = np.random.default_rng(seed)
    columns = {
        name: Column(generator.integers(0, levels, rows, dtype=np.int32), tuple(f"{name}{i}" for i in range(levels)))
        for name, levels in LEVELS.items()
    }
    label = generator.integers(0, 2, rows, dtype=np.int32)
    said = np.where(generator.random(rows) < 0.8, label, 1 - label).astype(np.int32)
    nothing = np.empty((rows, 0))
    keys = np.broadcast_to(np.array("k", dtype=object), (rows,))  # no key is read
    return Predictions(keys, ("0", "1"), label, said, nothing, nothing.astype(np.int32), nothing, columns)


def policy(method: str) -> LoadedPolicy:
    """The shipped policy on the three attributes, and all three crossed."""
    loaded = load_policy()
    stats = Stats(method=method, replicates=REPLICATES)  # type: ignore[arg-type]
    return LoadedPolicy(Policy(loaded.policy.check, groups=tuple(LEVELS), intersections=3, stats=stats), "bench", "")


def audit(table: Predictions, loaded: LoadedPolicy) -> dict[str, Any]:
    """The report on a table in memory."""
    plan = {check.id: loaded.policy.groupings(check) for check in loaded.policy.check}
    return assemble([measure_table(table, loaded.policy, plan, {"predictions": "memory", "sha256": ""})], loaded)


def from_memory() -> tuple[float, float]:
    """Seconds of an audit with a bootstrap, and MB that it needs above those of the columns."""
    table, loaded = make_table(ROWS), policy("bootstrap")
    audit(make_table(1000), loaded)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        report = audit(table, loaded)
        seconds.append(time.perf_counter() - started)
    assert len(report["groups"]) == 7
    assert report["checks"][0]["method"].startswith("bootstrap of rows")
    tracemalloc.start()
    audit(table, loaded)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return float(np.median(seconds)), peak / 1e6


def from_parquet(directory: Path) -> tuple[float, float]:
    """Seconds of the same audit from a file with names, and MB at its peak."""
    table = make_table(ROWS)
    names = {name: pd.Categorical.from_codes(c.values, list(c.categories or ())) for name, c in table.columns.items()}
    keys = np.char.add("image", np.arange(ROWS).astype("U8"))
    frame = pd.DataFrame({"key": keys, "label": table.label, "prediction": table.prediction, **names})
    frame = frame.astype(dict.fromkeys(names, "str"))
    frame.to_parquet(directory / "p.parquet")
    code = "from tests.bench.bench_audit import read_once; read_once()"
    done = subprocess.run(
        [sys.executable, "-c", code, str(directory / "p.parquet")], capture_output=True, text=True, check=True
    )
    seconds, peak = map(float, done.stdout.split())
    return seconds, peak


def read_once() -> None:
    """In a process of its own: print seconds and MB of one audit of the file named on the command line."""
    started = time.perf_counter()
    report = audit_fairness(Path(sys.argv[1]), policy("bootstrap"))
    assert report["inputs"]["rows"] == ROWS
    print(time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def against_fairlearn() -> tuple[float, float, float]:
    """Processor seconds of rates by all 48 groups, ours and MetricFrame's, and the largest difference of a value."""
    from fairlearn.metrics import MetricFrame, selection_rate, true_positive_rate
    from sklearn.metrics import accuracy_score

    table = make_table(PEER_ROWS)
    metrics = {"accuracy": accuracy_score, "tpr": true_positive_rate, "selection_rate": selection_rate}
    frame = pd.DataFrame({name: column.values for name, column in table.columns.items()})
    grouping = tuple(LEVELS)
    mine: list[float] = []
    for _ in range(5):
        started = time.process_time()
        found = count(table.label, table.prediction, 2, table.columns, [grouping])[grouping]
        ours = {name: np.divide(*METRICS[name].rates(found)) for name in RATES}
        mine.append(time.process_time() - started)
    started = time.process_time()
    peer = MetricFrame(metrics=metrics, y_true=table.label, y_pred=table.prediction, sensitive_features=frame).by_group
    seconds = time.process_time() - started
    worst = 0.0
    for row, group in enumerate(found.groups):
        theirs = peer.loc[tuple(int(name[-1]) for name in group)]
        worst = max(worst, *(abs(float(ours[name][row, -1]) - theirs[name]) for name in RATES))
    return float(np.median(mine)), seconds, worst


def run() -> list[dict[str, Any]]:
    seconds, memory = from_memory()
    with tempfile.TemporaryDirectory() as where:
        read, peak = from_parquet(Path(where))
    mine, peer, worst = against_fairlearn()
    assert worst < 1e-12, f"rates differ by {worst}"
    what = f"{ROWS:,} rows, 2 x 6 x 4, 7 groupings, 3 rates, {REPLICATES:,} replicates"
    return [
        {
            "name": "audit_memory", "ours": seconds, "peer": 1.0, "ratio": 1.0 / seconds, "unit": "s",
            "peer_name": "bar", "note": f"{what}; {memory:.0f} MB above the columns",
        },
        {
            "name": "audit_parquet", "ours": read, "peer": 10.0, "ratio": 10.0 / read, "unit": "s",
            "peer_name": "bar", "note": f"{what}; peak {peak:.0f} MB",
        },
        {
            "name": "audit_rates", "ours": 1e3 * mine, "peer": 1e3 * peer, "ratio": peer / mine, "unit": "ms CPU",
            "peer_name": "fairlearn MetricFrame",
            "note": f"{PEER_ROWS:,} rows, 48 groups, 3 rates, no bootstrap; values equal to {worst:.0e}",
        },
    ]  # fmt: skip
