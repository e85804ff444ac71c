"""Tags of pictures: read from a column, normalised, told apart by language, embedded by their pictures' features."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from seerctl.columns import Column
from seerctl.errors import InputError
from seerctl.files import blame, read_json
from seerctl.probes.whitening import Features, unit
from seerctl.tables import check_suffix, open_table

_SEPARATORS = re.compile(r"[\s,;|]+")
Codes = NDArray[np.int64]


@dataclass(frozen=True, slots=True, order=True)
class Tag:
    """A tag, normalised, and its language ("" where that is not known)."""

    text: str
    language: str = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.language})" if self.language else self.text


@dataclass(frozen=True, slots=True, eq=False)
class Tagged:
    """T tags in the order of how often they come, and a (T, N) matrix that is 1 where a picture has a tag."""

    tags: tuple[Tag, ...]
    pictures: sparse.csr_matrix

    @property
    def counts(self) -> Codes:
        """(T,) the pictures of each tag."""
        return np.asarray(np.diff(self.pictures.indptr), dtype=np.int64)

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages there are, by name; those not known are none."""
        return tuple(sorted({tag.language for tag in self.tags} - {""}))

    def embed(self, features: Features, rows: NDArray[np.bool_] | None = None) -> Features:
        """(T, D) the mean of the features (N, D), each of length 1, of a tag's pictures (of those in `rows` (N,))."""
        chosen = self.pictures if rows is None else self.pictures.multiply(rows[None]).tocsr()
        sizes = np.maximum(np.asarray(chosen.sum(1)), 1.0)
        return np.asarray((chosen @ unit(features)) / sizes, dtype=np.float32)


def normal(text: str) -> str:
    """A tag without "#" and case, in Unicode's form NFKC: "#Cafe" with any accent and width is one tag."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).strip().lstrip("#").casefold()).strip()


def split_tags(text: str, separator: str | None = None) -> list[str]:
    """The tags that a column's value holds: a JSON list, or text cut at `separator` (default: spaces and , ; |)."""
    if text.startswith("["):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, list):
            return _unique(str(one) for one in found if isinstance(one, (str, int, float)))
    return _unique(text.split(separator) if separator else _SEPARATORS.split(text.replace("#", " #")))


def _unique(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(tag for text in texts if (tag := normal(text))))


def read_tags(
    tags: Column, language: Sequence[str] | Callable[[str], str], least: int, separator: str | None = None
) -> Tagged:
    """The tags that at least `least` pictures have.

    language: that of each picture, or a function from a tag to its own.
    """
    column, names = tags.coded(), [split_tags(text, separator) for text in tags.coded().categories or ()]
    place: dict[Tag, int] = {}
    rows, found = [], []
    for row, value in enumerate(column.values.tolist()):
        for text in names[value] if value >= 0 else ():
            spoken = language(text) if callable(language) else language[row]
            found.append(place.setdefault(Tag(text, spoken), len(place)))
            rows.append(row)
    counts = np.bincount(found, minlength=len(place)) if place else np.empty(0, dtype=np.int64)
    every = list(place)
    order = sorted(range(len(every)), key=lambda code: (-counts[code], every[code]))
    kept = [code for code in order if counts[code] >= least]
    shape = (len(every), len(column.values))
    whole = sparse.csr_matrix((np.ones(len(rows), dtype=np.float32), (found, rows)), shape=shape)
    return Tagged(tuple(every[code] for code in kept), whole[kept])


def read_pairs(path: Path, names: tuple[str, str]) -> list[tuple[str, str]]:
    """Pairs of texts from JSON `{one: other}` (or lists of others), or from the columns `names` of a table.

    Raises:
        InputError: no such file, not that, or empty. UsageError: an unknown suffix.
    """
    if path.suffix == ".json":
        value = read_json(path)
        pairs = _pairs(value) if isinstance(value, dict) else []
    else:
        check_suffix(path)
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        with blame(path):
            header, blocks = open_table(path)
            if missing := [name for name in names if name not in header]:
                raise InputError(f"{path}: no column '{missing[0]}'", f"It has to have {','.join(names)}")
            pairs = [
                (str(one), str(two)) for block in blocks(names)
                for one, two in zip(block[names[0]], block[names[1]], strict=True) if one and two
            ]  # fmt: skip
    if not pairs:
        raise InputError(f"{path}: no pairs", f"Write a table {','.join(names)}, or JSON {{one: other}}")
    return [(normal(one), two) for one, two in pairs]


def _pairs(value: Mapping[str, object]) -> list[tuple[str, str]]:
    return [
        (one, str(two)) for one, others in value.items() for two in (others if isinstance(others, list) else [others])
    ]  # fmt: skip
