"""Linear probe: L2-regularised logistic regression on frozen features, its penalty chosen on training rows alone.

Features are standardised by the training set. A stratified part of the training rows is held out, every penalty is
fitted on the rest and scored on the part; the best (equal accuracy: the lower cross-entropy) is refitted on all rows.
The test set is looked at once, at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from seerctl.probes.classification import make_result, rank
from seerctl.probes.classifier import PENALTIES, VALIDATION, fit_classifier
from seerctl.probes.report import ProbeResult
from seerctl.probes.task import Task


def linear(
    task: Task,
    penalties: Sequence[float] = PENALTIES,
    *,
    validation: float = VALIDATION,
    seed: int = 0,
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
    full: bool = False,
) -> ProbeResult:
    """Fit on the training side, score on the test side; a prediction's score is its softmax probability.

    penalties: values of `l2` to choose from (see `logistic`; scikit-learn's C is 1/(rows l2)); with one value there is
    no choice and no validation. validation: the share of each class that is held out. full: keep the scores of every
    class.

    Raises:
        UsageError: no penalty, or one that is not positive.
        InputError: too few rows of any class to hold one out.
    """
    fitted = fit_classifier(
        task.train.features, task.train.labels, len(task.classes), penalties,
        validation=validation, seed=seed, device=device, progress=progress,
    )  # fmt: skip
    probabilities = fitted.probabilities(task.test.features)
    return make_result(task, "linear", fitted.settings, rank(probabilities), full=probabilities if full else None)
