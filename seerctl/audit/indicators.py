"""What is measured in each group: rates as events over trials, taken from counts alone.

With more than two classes, each class is "positive" in turn (one against the rest):

| metric         | events                    | trials             |
|----------------|---------------------------|--------------------|
| accuracy       | label = prediction        | rows               |
| tpr            | label = prediction = c    | rows labelled c    |
| fnr            | label = c, prediction not | rows labelled c    |
| fpr            | prediction = c, label not | rows not labelled c|
| precision      | label = prediction = c    | rows predicted c   |
| npv            | neither is c              | rows not predicted c|
| selection_rate | prediction = c            | rows               |

accuracy is over all classes at once. All but the selection rate can be averaged over the classes (`average = "macro"`:
the unweighted mean over the classes that have trials on both sides of a comparison; macro tpr is balanced accuracy).
The selection rates of all classes sum to 1 in every group, so their mean says nothing and is refused. Equal precision
in all groups is predictive parity, equal tpr is equal opportunity, equal tpr and fpr are equalised odds, equal
selection rates demographic parity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from seerctl.audit.counts import Counts, GroupCounts

MetricName = Literal["accuracy", "tpr", "fnr", "fpr", "precision", "npv", "selection_rate"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A rate: `rates` gives events and trials, (G, 1) where it is over all classes, else (G, C).

    conditional: its trials are a part of the group's rows, so that a large group can still have too few.
    averages: whether the mean over classes has a meaning. higher_is_better: None where neither is.
    """

    title: str
    rates: Callable[[GroupCounts], tuple[Counts, Counts]]
    by_class: bool
    conditional: bool
    averages: bool
    higher_is_better: bool | None


def _rows(counts: GroupCounts) -> Counts:
    return np.repeat(counts.n[:, None], counts.labelled.shape[1], axis=1)


METRICS: dict[str, Metric] = {
    "accuracy": Metric("accuracy", lambda c: (c.correct.sum(1)[:, None], c.n[:, None]), False, False, False, True),
    "tpr": Metric("true positive rate", lambda c: (c.correct, c.labelled), True, True, True, True),
    "fnr": Metric("false negative rate", lambda c: (c.labelled - c.correct, c.labelled), True, True, True, False),
    "fpr": Metric(
        "false positive rate", lambda c: (c.predicted - c.correct, _rows(c) - c.labelled), True, True, True, False
    ),
    "precision": Metric("precision", lambda c: (c.correct, c.predicted), True, True, True, True),
    "npv": Metric(
        "negative predictive value",
        lambda c: (_rows(c) - c.labelled - c.predicted + c.correct, _rows(c) - c.predicted),
        True,
        True,
        True,
        True,
    ),
    "selection_rate": Metric("selection rate", lambda c: (c.predicted, _rows(c)), True, False, False, None),
}

# Names that people give to the class that counts as "positive", when there are two.
POSITIVE = ("1", "true", "yes", "positive")


def default_positive(classes: Sequence[str]) -> str | None:
    """The positive one of two classes by its usual name ("1", "true", "yes", "positive"), else None."""
    if len(classes) != 2:
        return None
    named = [name for name in classes if name.lower() in POSITIVE]
    return named[0] if len(named) == 1 else None
