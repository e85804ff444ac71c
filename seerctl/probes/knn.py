"""k nearest neighbours, votes weighted by exp(similarity / T): no training, no choice made on the test set.

Source: Z. Wu et al., CVPR 2018 (arXiv 1805.01978), section 3.4; the rule that DINO and SwAV report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seerctl.errors import UsageError
from seerctl.probes.classification import METRIC_NAMES, hit_metrics, make_result, rank
from seerctl.probes.report import ProbeResult
from seerctl.probes.task import Task, log

Similarity = Literal["cosine", "dot"]

KS = (10, 20, 100, 200)
HEADLINE_K = 20
TEMPERATURE = 0.07
QUERY_ROWS = 1024
BANK_ROWS = 65536


def metric_names(ks: Sequence[int]) -> list[str]:
    """The metrics that a kNN report can hold: those of the headline k and those of every k."""
    return [*METRIC_NAMES, *(f"top{r}_k{k}" for k in ks for r in (1, 5))]


def headline(ks: Sequence[int]) -> int:
    """The k whose scores are plainly called `top1`: 20 when it is among `ks`, else the first; never the best."""
    return HEADLINE_K if HEADLINE_K in ks else ks[0]


def knn(
    task: Task,
    ks: Sequence[int] = KS,
    *,
    temperature: float = TEMPERATURE,
    similarity: Similarity = "cosine",
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
    full: bool = False,
) -> ProbeResult:
    """Classify every test row by its nearest training rows, for each k of `ks`.

    The report has `top1_k<k>` (and `top5_k<k>` with more than five classes) for each k, and the scores of
    `headline(ks)` as `top1`, `top5`, `mean_per_class`. A prediction's score is its share of the votes. similarity:
    "cosine" scales features to length 1, as DINOv2 does (its rule is this one at these defaults); "dot" takes them as
    they are, which with k 200 and temperature 0.1 is VISSL's.
    full: keep the shares of every class at the headline k.

    Raises:
        UsageError: no k, or one that is not positive, or all beyond the number of training rows.
    """
    usable = _usable(ks, len(task.train))
    prepare = unit if similarity == "cosine" else plain
    bank = prepare(task.train.features, device)
    ranked: dict[int, list[tuple[NDArray[np.int32], NDArray[np.float64]]]] = {k: [] for k in usable}
    shares: list[NDArray[np.float32]] = []
    for start in range(0, len(task.test), QUERY_ROWS):
        queries = prepare(task.test.features[start : start + QUERY_ROWS], device)
        closeness, index = neighbours(queries, bank, max(usable))
        votes = vote(closeness, task.train.labels[index], len(task.classes), usable, temperature)
        for k, scores in votes.items():
            ranked[k].append(rank(scores))
        if full:
            shares.append(votes[headline(usable)].astype(np.float32))
        if progress is not None:
            progress(len(queries))
    whole = {k: (np.concatenate([t for t, _ in r]), np.concatenate([s for _, s in r])) for k, r in ranked.items()}
    more: dict[str, object] = {}
    for k in usable:
        more |= hit_metrics(task.test.labels, whole[k][0], len(task.classes), f"_k{k}")
    settings = {
        "k": list(usable), "headline_k": headline(usable), "temperature": temperature, "similarity": similarity,
        "weights": "exp(similarity/temperature)", "device": device,
    }  # fmt: skip
    return make_result(
        task, "knn", settings, whole[headline(usable)], more, np.concatenate(shares) if full else None
    )  # fmt: skip


def _usable(ks: Sequence[int], rows: int) -> list[int]:
    unique = list(dict.fromkeys(ks))
    if not unique or min(unique) < 1:
        raise UsageError("knn: k has to be 1 or more", "Write --k 20")
    usable = [k for k in unique if k <= rows]
    if not usable:
        raise UsageError(f"knn: only {rows} training rows for k {min(unique)}", f"Write --k {max(1, rows // 2)}")
    for k in unique:
        if k > rows:
            log.warning("knn: k %d is left out, there are only %d training rows", k, rows)
    return usable


def unit(features: NDArray[np.float32], device: str = "cpu") -> Tensor:
    """Rows scaled to length 1, float32 on `device`; a zero row stays zero."""
    return torch.nn.functional.normalize(plain(features, device), dim=1)


def plain(features: NDArray[np.float32], device: str = "cpu") -> Tensor:
    """Rows as they are, float32 on `device`."""
    return torch.from_numpy(np.ascontiguousarray(features)).to(device)


def neighbours(queries: Tensor, bank: Tensor, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The `k` rows of `bank` (N, D) most similar to each of `queries` (Q, D), by dot product: (Q, k), best first.

    Exact. Equal similarities are ordered by row, also where the k-th is one of several: the answer does not depend on
    how the work is cut or on which of the equals a top-k happens to return.
    """
    best: Tensor | None = None
    where = torch.empty(0, dtype=torch.int64)
    for start in range(0, len(bank), BANK_ROWS):
        similarity = queries @ bank[start : start + BANK_ROWS].T
        values, index = _top(similarity, min(k, similarity.shape[1]))
        index = index + start
        if best is not None:
            values, index = torch.cat([best, values], 1), torch.cat([where, index], 1)
        best, where = _ordered(values, index, k)
    assert best is not None
    return best.cpu().numpy(), where.cpu().numpy()


def _top(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and columns of the k largest of each row; among equals at the border the first columns win."""
    if k == similarity.shape[1]:
        return similarity, torch.arange(k, device=similarity.device).expand(len(similarity), k)
    values, index = similarity.topk(k + 1, dim=1)
    border = values[:, k - 1]
    tied = torch.nonzero(border == values[:, k]).flatten()
    values, index = values[:, :k].contiguous(), index[:, :k].contiguous()
    for row in tied.tolist():
        above = torch.nonzero(similarity[row] > border[row]).flatten()
        equal = torch.nonzero(similarity[row] == border[row]).flatten()
        index[row] = torch.cat([above, equal[: k - len(above)]])
        values[row] = similarity[row, index[row]]
    return values, index


def _ordered(values: Tensor, index: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best of each row, largest first, equals by index."""
    index, order = index.sort(dim=1)
    values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    return values[:, :k], index.gather(1, order)[:, :k]


def vote(
    similarity: NDArray[np.float32], labels: NDArray[np.int64], classes: int, ks: Sequence[int], temperature: float
) -> dict[int, NDArray[np.float64]]:
    """Shares of the votes (Q, C) for each k: neighbour j of label c gives c the weight exp(similarity_j / T).

    similarity, labels: (Q, max k), nearest first. Weights are taken relative to the nearest neighbour's, so that no
    temperature overflows.
    """
    weight = torch.from_numpy(np.exp((similarity - similarity[:, :1]).astype(np.float64) / temperature))
    label = torch.from_numpy(labels)
    total = torch.zeros(len(similarity), classes, dtype=torch.float64)
    found, done = {}, 0
    for k in sorted(ks):
        total.scatter_add_(1, label[:, done:k], weight[:, done:k])
        found[k], done = (total / total.sum(1, keepdim=True)).numpy(), k
    return {k: found[k] for k in ks}
