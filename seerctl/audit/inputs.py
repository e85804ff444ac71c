"""What fairness checks need of a predictions table, checked against its header before a row of it is read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from seerctl.audit import associations, geography, retrieval, scored
from seerctl.audit.policy import AnyCheck, Check, SuiteCheck
from seerctl.errors import UsageError
from seerctl.predictions import Predictions, read_predictions, table_header

_NEED_SCORE = ("calibration_error", "adaptive_calibration_error", "overconfidence")
_ONE_LABEL = ("balanced_accuracy", "brier")  # brier: without a class of its own


@dataclass(frozen=True, slots=True)
class Needs:
    """What a check reads of a table.

    ranks: top1..topK. rank_scores: whether score1..scoreK too. score: the column `score`. labels: whether rows need a
    label that predictions may name. one_label: whether it must not be a list.
    """

    ranks: int = 0
    rank_scores: bool = False
    score: bool = False
    labels: bool = True
    one_label: bool = False


def needs(check: AnyCheck) -> Needs | None:
    """What `check` reads of a table; None where it reads features only.

    Raises:
        UsageError: it has keys that its metric has no use for, or lacks one (a label set, a household column, ...).
    """
    if isinstance(check, Check):
        return Needs(one_label=True)
    if check.metric in retrieval.METRICS:
        retrieval.check_options(check)
        return None
    if check.metric in associations.METRICS:
        associations.check_options(check)
        associations.load_sets(check)
        return Needs(check.k or associations.TOP, rank_scores=True, labels=False)
    if check.metric in geography.METRICS:
        geography.check_options(check)
        return Needs(check.k or scored.HIT_K, labels=check.labels is None)
    scored.check_options(check)
    ranks = (check.k or scored.HIT_K) if check.metric == "hit_at_k" else 0
    one = check.metric in _ONE_LABEL and check.cls is None
    return Needs(ranks, score=check.metric in _NEED_SCORE and check.cls is None, one_label=one)


def read_table(
    path: Path, checks: Sequence[AnyCheck], columns: Iterable[str], *, scores: Path | None = None
) -> Predictions:
    """The table at `path` with what `checks` read of it, and metadata `columns`.

    scores: the file of full scores, which stands in for ranks that the table lacks.

    Raises:
        UsageError: the table lacks what a check needs.
        InputError: what `read_predictions` and `open_scores` refuse.
    """
    header = table_header(path)
    wanted = {check.id: found for check in checks if (found := needs(check)) is not None}
    for name, need in wanted.items():
        _check_header(path, name, need, header, scores is not None)
    table = read_predictions(
        path,
        columns,
        ranked=any(isinstance(check, SuiteCheck) for check in checks),
        lists=not any(need.one_label for need in wanted.values()),
        labels=any(need.labels for need in wanted.values()),
    )
    if scores is None:
        return table
    from seerctl.scores import open_scores  # noqa: PLC0415  # h5py, for those who have scores

    return replace(table, full=open_scores(scores, table.keys))


def _check_header(path: Path, check: str, need: Needs, header: Sequence[str], full: bool) -> None:
    if need.score and "score" not in header:
        raise UsageError(
            f"{path}: no column 'score', which check '{check}' needs", "Write the prediction's probability"
        )
    if full:
        return
    if need.ranks > 1 and "top1" not in header:
        raise UsageError(
            f"{path}: check '{check}' needs top1 to top{need.ranks}, it has no top1, top2, ...",
            "Write the ranks, or pass the file of full scores",
        )
    for rank in range(1, need.ranks + 1):
        if need.rank_scores and f"top{rank}" in header and f"score{rank}" not in header:
            raise UsageError(
                f"{path}: no column 'score{rank}', which check '{check}' needs", "Write it beside its rank"
            )
