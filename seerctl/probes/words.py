"""Words by what their pictures look like: one embedding a tag, the nearest tags within and across languages.

A tag's embedding is the mean of the features, each of length 1, of the pictures that have it; tags are compared by
cosine after the mean of all embeddings is taken off (what all pictures have in common says nothing of a word). Nobody
tells the model that two words mean the same: a tag whose nearest tag in another language is its translation was found
by sight.

Metrics: split_half, the share of tags whose nearest embedding in their language, when both are made of other halves of
the pictures, is their own: how far the embeddings can be relied on. With a dictionary: translation_r1 and
translation_r5, the share of its tags whose translation is the nearest, or among the five nearest, of that language.

Source: P. Goyal et al., arXiv 2202.08360, section 5 (hashtags of many languages).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from seerctl.errors import InputError, UsageError
from seerctl.features.store import FeatureFile
from seerctl.files import atomic_write, json_text
from seerctl.probes.report import ALPHA, WILSON, ProbeResult, make_report, metric
from seerctl.probes.tags import Codes, Tag, Tagged, normal, read_pairs, read_tags
from seerctl.probes.task import column_of, origin_of, say_all
from seerctl.probes.vectors import finite
from seerctl.probes.whitening import Features, unit
from seerctl.stats import wilson

LEAST = 5
NEAREST = 5
AGGLOMERATIVE = 4000  # tags: beyond it the table of all distances takes too much memory
SHOWN = 20  # tags that the report itself shows
METRICS = ("split_half", "translation_r1", "translation_r5")
_QUERY_ROWS = 512


@dataclass(frozen=True, slots=True, eq=False)
class WordsTask:
    """Features (N, D), the tags of their pictures, and pairs of tags that mean the same."""

    target: str
    features: Features
    tagged: Tagged
    dictionary: Sequence[tuple[str, str]]
    origin: Mapping[str, Any]
    settings: Mapping[str, Any]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class WordsResult(ProbeResult):
    """A finished probe. tags, vectors (T, D) of length 1, groups (T,); words: a row a tag, for the file of words."""

    tags: tuple[Tag, ...] = ()
    counts: Codes | None = None
    vectors: Features | None = None
    groups: Codes | None = None
    words: Sequence[Mapping[str, Any]] = ()

    def save_words(self, path: Path) -> None:
        """Write the words as JSON lines, whole or not at all."""
        with atomic_write(path, "w") as file:
            file.writelines(json_text(dict(word)) + "\n" for word in self.words)


def load_words(
    test: Path, target: str, *, language: str | None = None, languages: Path | str | None = None,
    separator: str | None = None, least: int = LEAST, dictionary: Path | str | None = None,
) -> WordsTask:  # fmt: skip
    """Pictures with tags in the column `target`: JSON lists, or text cut at `separator`.

    language: column with the language of a picture's tags; languages: a file `tag,language` instead. least: pictures
    that a tag needs. dictionary: a file `tag,other` of tags that mean the same.

    Raises:
        UsageError: no such column, both kinds of languages, or a dictionary without languages.
        InputError: damaged files, non-finite features, or fewer than three tags.
    """
    if language is not None and languages is not None:
        raise UsageError("words: a language column and a file of languages", "Name one of --language and --languages")
    known = {} if languages is None else dict(read_pairs(Path(languages), ("tag", "language")))
    pairs = [] if dictionary is None else read_pairs(Path(dictionary), ("tag", "other"))
    with FeatureFile.open(test) as file:
        spoken = column_of(file, language).texts() if language is not None else lambda tag: known.get(tag, "")
        tagged = read_tags(column_of(file, target), spoken, least, separator)
        if len(tagged.tags) < 3:
            raise InputError(
                f"{test}: {len(tagged.tags)} tags in '{target}' have {least} pictures or more",
                "Lower --least, or say what stands between tags (--separator)",
            )
        features, origin = finite(file), origin_of(file, len(file))
    warnings = _doubts(tagged, known, languages)
    say_all(warnings)
    settings = {"language": language, "languages": None if languages is None else str(languages), "least": least,
                "separator": separator}  # fmt: skip
    return WordsTask(target, features, tagged, pairs, origin, settings, tuple(warnings))


def _doubts(tagged: Tagged, known: Mapping[str, str], languages: Path | str | None) -> list[str]:
    if languages is None:
        return []
    strange = sum(not tag.language for tag in tagged.tags)
    return [f"{strange} of {len(tagged.tags)} tags have no language in {languages}"] if strange and known else []


def words(task: WordsTask, *, k: int | None = None, centre: bool = True, seed: int = 0) -> WordsResult:
    """Embed the tags, find their nearest ones and their clusters. k: clusters, by default the root of half the tags.

    centre: take the mean of all embeddings off before comparing.

    Raises:
        UsageError: a k that cannot be.
    """
    tagged, many = task.tagged, len(task.tagged.tags)
    count = max(2, round(math.sqrt(many / 2))) if k is None else k
    if not 2 <= count <= many:
        raise UsageError(f"words: {count} clusters of {many} tags", f"Write --k {max(2, many // 4)}")
    vectors = _directions(tagged.embed(task.features), centre)
    groups, method = _grouped(vectors, count, seed)
    codes = _language_codes(tagged.tags)
    several = len(tagged.languages) > 1
    within = nearest(vectors, codes, NEAREST, same=True)
    across = nearest(vectors, codes, NEAREST, same=False) if several else None
    rows = [_word(tagged, place, groups, within[place], None if across is None else across[place])
            for place in range(many)]  # fmt: skip
    report = make_report(
        "words", {**task.settings, "centre": centre, "clusters": count, "clustering": method, "seed": seed},
        {**split_half(task, centre, seed), **_translations(task, vectors)}, {"test": task.origin}, interval=WILSON,
        target=task.target, warnings=task.warnings,
        more={"tags": many, "tags_by_language": _by_language(tagged), "groups": _groups(tagged, groups, vectors),
              "most_frequent": rows[:SHOWN]},
    )  # fmt: skip
    return WordsResult(
        report, tags=tagged.tags, counts=tagged.counts, vectors=vectors, groups=groups, words=rows
    )  # fmt: skip


def _directions(embeddings: Features, centre: bool) -> Features:
    return unit(embeddings - embeddings.mean(0) if centre else embeddings)


def _language_codes(tags: Sequence[Tag]) -> Codes:
    known = {name: code for code, name in enumerate(sorted({tag.language for tag in tags}))}
    return np.array([known[tag.language] for tag in tags], dtype=np.int64)


def nearest(vectors: Features, languages: Codes, count: int, *, same: bool) -> list[list[tuple[int, float]]]:
    """Of each vector (T, D) the `count` most similar others of its own language (or of other ones), with cosines."""
    found = []
    for start in range(0, len(vectors), _QUERY_ROWS):
        near = vectors[start : start + _QUERY_ROWS] @ vectors.T
        lines = np.arange(len(near))
        near[lines, lines + start] = -np.inf
        equal = np.equal.outer(languages[start : start + _QUERY_ROWS], languages)
        near[~equal if same else equal] = -np.inf
        order = np.argsort(-near, axis=1, kind="stable")[:, :count]
        for line, best in enumerate(order):
            found.append([(int(row), float(near[line, row])) for row in best if np.isfinite(near[line, row])])
    return found


def _grouped(vectors: Features, count: int, seed: int) -> tuple[Codes, str]:
    """Clusters by cosine, numbered by their first tag."""
    from sklearn.cluster import AgglomerativeClustering, KMeans  # noqa: PLC0415  # half a second

    if len(vectors) <= AGGLOMERATIVE:
        method = "agglomerative, average cosine"
        found = AgglomerativeClustering(count, metric="cosine", linkage="average").fit_predict(_nonzero(vectors))
    else:
        method = "k-means on directions"
        found = KMeans(count, n_init=4, random_state=seed).fit_predict(vectors)
    order = {code: place for place, code in enumerate(dict.fromkeys(found.tolist()))}
    return np.array([order[code] for code in found.tolist()], dtype=np.int64), method


def _nonzero(vectors: Features) -> Features:
    """A zero vector has no direction, and no cosine: it gets one of its own."""
    zero = np.abs(vectors).max(axis=1, keepdims=True) == 0.0
    return np.where(zero, np.float32(1e-6), vectors)


def split_half(task: WordsTask, centre: bool, seed: int) -> dict[str, Any]:
    """Whether a tag's embedding from one half of the pictures is nearest to its own from the other half.

    Only tags of its language are compared: a good translation is as near.
    """
    half = np.random.default_rng(seed).random(len(task.features)) < 0.5
    sides = [np.asarray(task.tagged.pictures @ rows.astype(np.float32)) > 0 for rows in (half, ~half)]
    both = np.flatnonzero(sides[0] & sides[1])
    if len(both) < 2:
        return {}
    one, two = (_directions(task.tagged.embed(task.features, rows)[both], centre) for rows in (half, ~half))
    languages, hits = _language_codes(task.tagged.tags)[both], 0
    for start in range(0, len(both), _QUERY_ROWS):
        near = one[start : start + _QUERY_ROWS] @ two.T
        near[np.not_equal.outer(languages[start : start + _QUERY_ROWS], languages)] = -np.inf
        hits += int((near.argmax(1) == np.arange(start, start + len(near))).sum())
    return {"split_half": metric(wilson(hits, len(both), ALPHA), len(both))}


def _translations(task: WordsTask, vectors: Features) -> dict[str, Any]:
    """How often a tag's translation is among the nearest tags of the translation's language."""
    if not task.dictionary:
        return {}
    tags, codes = task.tagged.tags, _language_codes(task.tagged.tags)
    by_text: dict[str, list[int]] = {}
    for place, tag in enumerate(tags):
        by_text.setdefault(tag.text, []).append(place)
    meanings: dict[tuple[int, int], set[int]] = {}  # (tag, language) -> its translations
    for one, other in task.dictionary:
        for place in by_text.get(one, []):
            for match in by_text.get(normal(other), []):
                if codes[place] != codes[match]:
                    meanings.setdefault((place, int(codes[match])), set()).add(match)
    if not meanings:
        raise InputError("words: no pair of the dictionary is among the tags of two languages", "Lower --least")
    first = fifth = 0
    for (place, language), right in meanings.items():
        there = np.flatnonzero(codes == language)
        best = there[np.argsort(-(vectors[there] @ vectors[place]), kind="stable")[:5]].tolist()
        first += best[0] in right
        fifth += bool(right & set(best))
    n = len(meanings)
    return {f"translation_r{k}": metric(wilson(hits, n, ALPHA), n) for k, hits in ((1, first), (5, fifth))}


def _word(
    tagged: Tagged, place: int, groups: Codes, within: Sequence[tuple[int, float]],
    across: Sequence[tuple[int, float]] | None,
) -> dict[str, Any]:  # fmt: skip
    def named(found: Sequence[tuple[int, float]]) -> list[dict[str, Any]]:
        return [
            {"tag": tagged.tags[row].text, "language": tagged.tags[row].language, "similarity": round(cosine, 4)}
            for row, cosine in found
        ]

    tag = tagged.tags[place]
    return {
        "tag": tag.text, "language": tag.language, "pictures": int(tagged.counts[place]), "group": int(groups[place]),
        "nearest": named(within), **({} if across is None else {"across": named(across)}),
    }  # fmt: skip


def _by_language(tagged: Tagged) -> dict[str, int]:
    found: dict[str, int] = {}
    for tag in tagged.tags:
        found[tag.language] = found.get(tag.language, 0) + 1
    return found


def _groups(tagged: Tagged, groups: Codes, vectors: Features) -> list[dict[str, Any]]:
    """One entry a cluster, largest first: its tags that are nearest to its middle."""
    found = []
    for code in range(int(groups.max()) + 1):
        rows = np.flatnonzero(groups == code)
        order = rows[np.argsort(-(vectors[rows] @ vectors[rows].mean(0)), kind="stable")]
        found.append({"group": code, "tags": len(rows), "middle": [str(tagged.tags[row]) for row in order[:8]]})
    return sorted(found, key=lambda entry: -entry["tags"])


def word_map(result: WordsResult, *, kind: Literal["tsne", "pca"] = "tsne", most: int = 120) -> list[dict[str, Any]]:
    """The `most` frequent tags as places in the plane: tag, language, group, pictures, x and y.

    kind: t-SNE (neighbours stay neighbours, distances between groups mean little) or two principal components.
    """
    from seerctl.probes.pictures import flat  # noqa: PLC0415  # scikit-learn and the drawing, for those who draw

    assert result.vectors is not None
    points, _ = flat(result.vectors[:most], kind)
    return [
        {**{name: word[name] for name in ("tag", "language", "group", "pictures")}, "x": float(x), "y": float(y)}
        for word, (x, y) in zip(result.words[:most], points, strict=True)
    ]
