"""Geographical diversity: does the classifier know the things of poor and distant households?

The metric `household_hit_rate`: an image is a hit when one of its true names is among its k (5) best labels; an image
with several labels (a JSON list, or several rows of the same picture) counts once; hits are averaged in each household,
and the households' means in each group (region, income bucket, region*income). The mean over images, which the
published script falls back to where its household id is an image id, is another number. `household` names the column,
it is never guessed; `columns = ["income"]` puts a column of incomes (dollars a month) into the buckets low, medium and
high: round(ln(income)/3), which is 1, 2 or 3 between 4.48 and 36,316 and is held there beyond. `labels` names a TOML
file of label sets where truths are concepts and not class names: a hit is then any label of the set of that name.
Concepts of which no label is ever among the ranks are no hits, and listed (`unnamed`); with the file of full scores,
which has all class names, they are an error.

Limits count households, not images: what is resampled is a household.

Source: P. Goyal et al., Fairness Indicators for Systematic Assessments of Visual Feature Extractors, FAccT 2022
(arXiv 2202.07603), section 3.2.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from seerctl.audit.associations import match, named, read_sets
from seerctl.audit.counts import Grouping, group_rows
from seerctl.audit.measured import Rows, Sample, column, findings, refuse_unused
from seerctl.audit.scored import HIT_K, best_classes, hits
from seerctl.audit.suite import Finding, MetricInfo, Table
from seerctl.columns import Column
from seerctl.errors import InputError, UsageError, did_you_mean
from seerctl.predictions import Predictions

if TYPE_CHECKING:
    from seerctl.audit.policy import SuiteCheck

METRICS: dict[str, MetricInfo] = {"household_hit_rate": MetricInfo("hit rate, mean of households", "share", True)}
BUCKETS = ("low", "medium", "high")
_KEY = re.compile(r"[0-9a-f]{16}-[0-9a-f]{8}")  # our keys: the first half names the picture

REFERENCE: tuple[Table, ...] = (
    Table(
        "Published: hit rate at 5 on Dollar Street, %",
        ("model", "income low", "medium", "high", "Africa", "Asia", "Americas", "Europe"),
        (
            ("SEER RG-10B", 59.7, 78.5, 86.6, 65.9, 76.3, 81.1, 85.6),
            ("DINOv2 ViT-g/14", 67.4, 83.3, 90.5, 74.0, 81.6, 86.2, 89.7),
        ),
        "arXiv 2304.07193, table 12: 16,073 images of 289 households in 54 countries, 94 classes of ImageNet-22k. SEER "
        "was fine-tuned, DINOv2 is a linear head. Other classes and other images do not compare with them.",
    ),
)


def measure(table: Predictions, check: SuiteCheck, grouping: Grouping) -> list[Finding]:
    """A finding for each group of `grouping`; its `n` counts households.

    A household whose rows lie in several groups is one in each of them.

    Raises:
        UsageError: no household column named, a column that the table does not have, fewer ranks than k, a key that the
            metric has no use for, or label sets that do not fit.
        InputError: labelled rows without a household, or an income that is not a positive number.
    """
    check_options(check)
    columns = dict(table.columns)
    for name in grouping:
        column(check, columns, name)
    for name in check.columns:
        columns[name] = bucketed(check, name, column(check, columns, name))
    homes = column(check, columns, str(check.household)).coded().values
    labelled = table.labelled
    absent = int((homes[labelled] < 0).sum())
    if absent:
        raise InputError(f"check '{check.id}': {absent} of {int(labelled.sum())} rows have no '{check.household}'")
    rows = group_rows(columns, grouping, len(table)).only(labelled)
    image = _images(table, homes)
    hit, unnamed = (hits(table, check), []) if check.labels is None else _concept_hits(table, check)

    def statistic(inside: Rows, _: Rows | None) -> Sample | str:
        made = mean_of_households(hit[inside], image[inside], homes[inside])
        return (
            made if isinstance(made, str) or not unnamed else replace(made, detail={**made.detail, "unnamed": unnamed})
        )

    return findings(check, rows, statistic, unit="households")


def check_options(check: SuiteCheck) -> None:
    """Refuse keys without a use, and a check without a household column.

    Raises:
        UsageError: there is one, or there is none.
    """
    refuse_unused(check, ("k", "labels", "household", "columns"))
    if check.household is None:
        raise UsageError(
            f"check '{check.id}': {check.metric} needs 'household', the column of households",
            "An image's own id in its place would give the mean over images",
        )


def mean_of_households(hit: NDArray[np.bool_], image: NDArray[np.intp], homes: NDArray[np.intp]) -> Sample | str:
    """The mean over households of the share of their images that are a hit; a picture on several rows counts once.

    hit, image, homes: (n,) of each row. The variance is that of the households' means; worth: the images.
    """
    if not len(hit):
        return "no rows"
    width = int(image.max()) + 1
    pairs, place = np.unique(homes.astype(np.int64) * width + image, return_inverse=True)
    once = np.zeros(len(pairs))
    np.maximum.at(once, place, hit)
    _, home = np.unique(pairs // width, return_inverse=True)
    share = np.bincount(home, weights=once) / np.bincount(home)
    value, count = float(share.mean()), len(share)
    scale = np.sqrt(count / (count - 1)) if count > 1 else 1.0
    detail = {"images": len(once), "mean_over_images": float(once.mean())}
    return Sample(value, (share - value) * scale, count, float(len(once)), count - 1.0, detail=detail)


def income_bucket(income: NDArray[np.float64]) -> NDArray[np.int64]:
    """1 low, 2 medium or 3 high of positive incomes: round(ln(income)/3), held between 1 and 3."""
    return np.clip(np.rint(np.log(income) / 3.0), 1, 3).astype(np.int64)


def bucketed(check: SuiteCheck, name: str, incomes: Column) -> Column:
    """A column of incomes as one of low, medium and high; missing stays missing.

    Raises:
        InputError: a value that is no positive number.
    """
    coded = incomes.coded()
    numbers = []
    for text in coded.categories or ():
        number = _number(text)
        if number is None:
            raise InputError(
                f"check '{check.id}': '{name}' has the value '{text}', not an income",
                "Leave 'columns' out where the column holds names already",
            )
        numbers.append(number)
    table = np.append(income_bucket(np.array(numbers)) - 1, -1).astype(np.int32)
    return Column(table[coded.values], BUCKETS)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0.0 < number < float("inf") else None


def _images(table: Predictions, homes: NDArray[np.int32]) -> NDArray[np.intp]:
    """(N,) which picture a row is of: by its bytes where keys are ours, else each row is one."""
    keys = [str(key) for key in table.keys]
    names = [key[:16] if _KEY.fullmatch(key) else key for key in keys]
    return np.asarray(np.unique(np.array(names, dtype=object).astype(str), return_inverse=True)[1], dtype=np.intp)


def _concept_hits(table: Predictions, check: SuiteCheck) -> tuple[NDArray[np.bool_], list[str]]:
    """(N,) whether a label of the set named like one of a row's truths is among its k best classes; and the truths of
    which no label is ever among them."""
    path = Path(str(check.labels))
    sets = read_sets(path)
    top, names = best_classes(table, check, HIT_K if check.k is None else check.k)
    place = {name: code for code, name in enumerate(names)}
    found, unnamed = np.zeros(len(table), dtype=np.bool_), []
    truths = np.unique(table.label[table.label >= 0] if table.truth is None else table.truth.codes)
    concepts = [table.classes[code] for code in truths]
    for code, concept in zip(truths, concepts, strict=True):
        if concept not in sets.sets:
            raise UsageError(f"{path}: no set for the label '{concept}'", did_you_mean(concept, sets.sets))
        matched = named(sets.labels(concept), names if table.full is None else table.full.classes)
        if not matched:
            unnamed.append(concept)
        wanted = [place[name] for name in matched if name in place]
        found |= table.is_a(int(code)) & np.isin(top, wanted).any(axis=1)
    if unnamed and (table.full is not None or len(unnamed) == len(concepts)):
        match(check, unnamed[0], sets.labels(unnamed[0]), names)  # says which classes are closest
    return found, unnamed
