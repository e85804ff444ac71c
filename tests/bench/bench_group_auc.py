"""AUC and average precision of 48 groups of 200,000 rows, with limits: against scikit-learn's values alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from seerctl.audit.policy import SuiteCheck
from seerctl.audit.scored import measure
from seerctl.columns import Column
from seerctl.predictions import Predictions
from tests.bench.measure import in_turn

ROWS, LEVELS = 200_000, {"skin": 6, "gender": 2, "age": 4}
REFERENCES = {"auc": roc_auc_score, "average_precision": average_precision_score}


def table() -> Predictions:
    generator = np.random.default_rng(0)
    label = generator.integers(0, 2, ROWS).astype(np.int32)
    p = 1 / (1 + np.exp(-(generator.normal(size=ROWS) + label)))
    said = (p >= 0.5).astype(np.int32)
    columns = {
        name: Column(generator.integers(0, count, ROWS).astype(np.int32), tuple(map(str, range(count))))
        for name, count in LEVELS.items()
    }
    none = np.empty((ROWS, 0))
    return Predictions(
        np.arange(ROWS).astype(str).astype(object), ("0", "1"), label, said, np.maximum(p, 1 - p),
        none.astype(np.int32), none, columns,
    )  # fmt: skip


def run() -> list[dict[str, Any]]:
    rows = table()
    score = np.where(rows.prediction == 1, rows.score, 1 - rows.score)
    group = np.ravel_multi_index(tuple(rows.columns[n].values for n in LEVELS), tuple(LEVELS.values()))
    results = []
    for metric, reference in REFERENCES.items():
        check = SuiteCheck("bench", "fairness", metric, against="threshold", threshold=0.5, op=">=")

        def ours(check: SuiteCheck = check) -> list[float]:
            return [finding.value for finding in measure(rows, check, tuple(LEVELS))]

        def peer(reference: Any = reference) -> list[float]:
            return [reference(rows.label[group == g], score[group == g]) for g in range(48)]

        np.testing.assert_allclose(ours(), peer(), rtol=1e-10)
        mine, other = in_turn(ours, peer, repeats=5, cpu=True)
        results.append({
            "name": f"group_{metric}", "ours": mine, "peer": other, "ratio": other / mine, "unit": "s",
            "peer_name": "scikit-learn", "note": f"{ROWS:,} rows, 48 groups, CPU time; ours with variances",
        })  # fmt: skip
    return results
