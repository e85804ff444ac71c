"""Several labels a row: one logistic regression for each class on standardised features, scored by average precision.

The penalty of each class is the one of the highest AP on held-out training rows. Rows of which a class is not known
neither train nor test it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seerctl.errors import UsageError
from seerctl.probes.axes import Scaler
from seerctl.probes.binary import fit_each
from seerctl.probes.classifier import PENALTIES, VALIDATION
from seerctl.probes.labelscores import ranking_result
from seerctl.probes.precision import Rule, class_precisions
from seerctl.probes.report import ProbeResult
from seerctl.probes.resample import DRAWS
from seerctl.probes.targets import Answers, LabelsTask


def multilabel(
    task: LabelsTask,
    penalties: Sequence[float] = PENALTIES,
    *,
    validation: float = VALIDATION,
    rule: Rule = "area",
    draws: int = DRAWS,
    seed: int = 0,
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
    full: bool = False,
) -> ProbeResult:
    """Fit on the training side, rank the test rows by each class; a score is the class's probability.

    penalties: values of l2 to choose from for each class; with one there is no choice. validation: the share of rows
    held out for it. draws: bootstrap draws of the interval. full: keep the scores of every class.

    Raises:
        UsageError: no penalty, or one that is not positive.
    """
    if not penalties or min(penalties) <= 0 or not all(map(math.isfinite, penalties)):
        raise UsageError("multilabel: an L2 penalty has to be above 0", "Write --l2 0.01")
    scaler = Scaler.fit(torch.from_numpy(task.train.features))
    train, test = (scaler(torch.from_numpy(side.features)).to(device) for side in (task.train, task.test))
    answers = task.train.labels
    ordered = sorted(penalties)
    chosen, table = np.full(len(task.classes), ordered[0]), None
    if len(ordered) > 1:
        chosen, table = _choose(train, answers, ordered, validation, seed)
        if progress is not None:
            progress(1)
    fits = fit_each(train, _on(answers, train), torch.from_numpy(chosen[None]), "logistic")
    if progress is not None:
        progress(1)
    scores = fits.scores(test)[0].double().sigmoid().cpu().numpy()
    settings = {
        "penalties": ordered, "validation": validation if table else None, "seed": seed, "standardised": True,
        "loss": "logistic, one class against the rest", "solver": "l-bfgs",
        "converged": bool(fits.converged.all()), "device": device,
    }  # fmt: skip
    return ranking_result(
        task, "multilabel", settings, scores, rule=rule, draws=draws, seed=seed,
        more={"choice": table} if table else None, chosen={"l2": chosen}, full=full,
    )  # fmt: skip


def _choose(
    features: Tensor, answers: Answers, penalties: Sequence[float], validation: float, seed: int
) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """(C,) the penalty of the highest AP of each class on held-out rows; of equals the largest.

    A class without a positive on both sides takes the penalty of the highest mean over the others.
    """
    held = np.zeros(len(answers), dtype=np.bool_)
    order = np.random.default_rng(seed).permutation(len(answers))
    held[order[: max(1, round(validation * len(answers)))]] = True
    inside = torch.from_numpy(~held).to(features.device)
    strongest_first = penalties[::-1]
    l2 = torch.tensor(strongest_first, dtype=torch.float64)[:, None].expand(-1, answers.shape[1])
    fits = fit_each(features[inside], _on(answers[~held], features), l2, "logistic")
    scores = fits.scores(features[~inside]).cpu().numpy()
    found = np.stack([class_precisions(scores[p], answers[held])[0] for p in range(len(penalties))], axis=1)
    found[(answers[~held] == 1).sum(0) == 0] = np.nan
    known = np.isfinite(found).all(axis=1)
    shared = int(np.argmax(found[known].mean(axis=0))) if known.any() else len(penalties) // 2
    best = np.where(known, np.argmax(np.where(known[:, None], found, 0.0), axis=1), shared)
    plain = [[float(ap) for ap in row] if there else None for row, there in zip(found, known, strict=True)]
    return np.asarray(strongest_first)[best], {"l2": list(strongest_first), "average_precision": plain}


def _on(answers: Answers, features: Tensor) -> Tensor:
    return torch.from_numpy(answers).to(features.device)
