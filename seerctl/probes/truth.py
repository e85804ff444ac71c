"""What each query of a retrieval should find: ground truth from a file, or from a column of both sides.

A ground truth file is one of
- JSON `{"queries": [{"query": NAME, "easy": [NAME...], "hard": [...], "junk": [...]}, ...]}` (or that list alone);
  a set of one difficulty has "relevant" instead of "easy" and "hard";
- the structure that the Oxford and Paris sets are published in, as JSON: `{"imlist": [NAME...], "qimlist": [NAME...],
  "gnd": [{"easy": [place in imlist...], "hard": [...], "junk": [...]}, ...]}`;
- a table (csv, jsonl, parquet) `query,image,grade` with a row a pair, its grade easy, hard, relevant or junk.

Easy, medium and hard follow the revisited rule: easy asks for the easy ones and leaves out hard ones and junk, medium
asks for both, hard asks for the hard ones and leaves out easy ones and junk.

Source: F. Radenovic et al., CVPR 2018 (arXiv 1803.11285).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seerctl.columns import Column
from seerctl.errors import InputError, UsageError
from seerctl.files import blame, read_json
from seerctl.probes.ranking import Rows, Wanted
from seerctl.tables import check_suffix, open_table

GRADES = ("easy", "hard", "relevant", "junk")
ALL = ""  # the setup of a ground truth without difficulties
_PUBLISHED = ("imlist", "qimlist", "gnd")
_SETUPS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # relevant, junk
    "easy": (("easy",), ("hard", "junk")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("easy", "junk")),
}


@dataclass(frozen=True, slots=True)
class Judged:
    """One query by name, and the names of the index pictures with each grade."""

    query: str
    grades: dict[str, list[str]] = field(default_factory=dict)


def read_truth(path: Path) -> list[Judged]:
    """The queries of a ground truth file.

    Raises:
        InputError: no such file, no ground truth, or two kinds of grades mixed.
        UsageError: a pickle, or an unknown suffix.
    """
    if path.suffix in (".pkl", ".pickle", ".p"):
        raise UsageError(
            f"{path}: pickles run code and are not read",
            'Convert it where you trust it: python -c "import json,pickle,sys; json.dump(pickle.load(open(sys.argv[1],'
            " 'rb')), open('gnd.json', 'w'), default=lambda a: a.tolist())\" FILE.pkl",
        )
    queries = _from_json(path) if path.suffix == ".json" else _from_table(path)
    if not queries:
        raise InputError(f"{path}: no queries")
    graded = any("easy" in one.grades or "hard" in one.grades for one in queries)
    if graded and any("relevant" in one.grades for one in queries):
        raise InputError(f"{path}: some queries have 'relevant', others 'easy' and 'hard'", "Use one of the two")
    return queries


def _from_json(path: Path) -> list[Judged]:
    found = read_json(path)
    if isinstance(found, dict) and all(name in found for name in _PUBLISHED):
        return _published(path, found)
    rows = found.get("queries") if isinstance(found, dict) else found
    if not isinstance(rows, list):
        raise InputError(f"{path}: no ground truth", 'Write {"queries": [{"query": "a", "easy": ["b"]}]}')
    queries = []
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not isinstance(row.get("query"), str):
            raise InputError(f"{path}: query {number} is not an object with a name in 'query'")
        unknown = set(row) - {"query", *GRADES}
        if unknown:
            raise InputError(f"{path}: query {number} has '{min(unknown)}'", f"Known: query, {', '.join(GRADES)}")
        grades = {grade: row[grade] for grade in GRADES if grade in row}
        for grade, names in grades.items():
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise InputError(f"{path}: '{grade}' of query {number} is not a list of names")
        queries.append(Judged(row["query"], grades))
    return queries


def _published(path: Path, found: Mapping[str, Any]) -> list[Judged]:
    images, names, judged = (found[name] for name in _PUBLISHED)
    if not all(isinstance(part, list) for part in (images, names, judged)) or len(names) != len(judged):
        raise InputError(f"{path}: 'imlist', 'qimlist' and 'gnd' are not lists that belong together")
    queries = []
    for name, entry in zip(names, judged, strict=True):
        try:
            grades = {g: [str(images[place]) for place in entry[g] if _place(place)] for g in GRADES if g in entry}
        except (TypeError, IndexError):
            raise InputError(
                f"{path}: query '{name}' names places that 'imlist' ({len(images)}) does not have"
            ) from None
        queries.append(Judged(str(name), grades))
    return queries


def _place(place: Any) -> bool:
    if isinstance(place, bool) or not isinstance(place, int) or place < 0:
        raise TypeError
    return True


def _from_table(path: Path) -> list[Judged]:
    check_suffix(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with blame(path):
        header, blocks = open_table(path)
        missing = [name for name in ("query", "image", "grade") if name not in header]
        if missing:
            raise InputError(f"{path}: no column '{missing[0]}'", "A ground truth has query,image,grade")
        queries: dict[str, Judged] = {}
        for block in blocks(("query", "image", "grade")):
            for query, image, grade in zip(*(map(str, block[n]) for n in ("query", "image", "grade")), strict=True):
                if grade not in GRADES:
                    raise InputError(f"{path}: the grade '{grade}' of query '{query}'", f"Known: {', '.join(GRADES)}")
                queries.setdefault(query, Judged(query)).grades.setdefault(grade, []).append(image)
    return list(queries.values())


def setups(queries: Sequence[Judged], row: Callable[[str], int], own: Sequence[int]) -> dict[str, list[Wanted]]:
    """What each query wants under each setup: easy, medium, hard, or one without a name.

    row: from a name to a row of the index. own: of each query the row that is the query itself (-1: none), junk unless
    it is listed as wanted.

    Raises:
        InputError: a name that `row` does not know.
    """
    rows = [{grade: np.unique([row(name) for name in names]).astype(np.intp) for grade, names in one.grades.items()}
            for one in queries]  # fmt: skip
    graded = any("easy" in one.grades or "hard" in one.grades for one in queries)
    wanted = _SETUPS if graded else {ALL: (("relevant",), ("junk",))}
    return {
        name: [_wanted(grades, relevant, junk, itself) for grades, itself in zip(rows, own, strict=True)]
        for name, (relevant, junk) in wanted.items()
    }


def _wanted(grades: Mapping[str, Rows], relevant: Sequence[str], junk: Sequence[str], itself: int) -> Wanted:
    def rows(names: Sequence[str]) -> Rows:
        return np.concatenate([np.empty(0, dtype=np.intp), *(grades[name] for name in names if name in grades)])

    asked = np.unique(rows(relevant))
    left = np.unique(np.append(rows(junk), itself) if itself >= 0 else rows(junk))
    return Wanted(asked, np.setdiff1d(left, asked))


def same_value(queries: Column, index: Column, own: NDArray[np.intp]) -> list[Wanted | None]:
    """What a query wants when all index rows with its value of a column are relevant; None where it has no value.

    own: (Q,) the index row that is the query itself, which is junk, or -1.
    """
    asked, bank = queries.coded(), index.coded()
    order = np.argsort(bank.values, kind="stable")
    starts = np.searchsorted(bank.values[order], np.arange(len(bank.categories or ()) + 1))
    place = {name: code for code, name in enumerate(bank.categories or ())}
    names = asked.categories or ()
    found: list[Wanted | None] = []
    for code, itself in zip(asked.values.tolist(), own.tolist(), strict=True):
        if code < 0:
            found.append(None)
            continue
        there = place.get(names[code], -1)
        rows = order[starts[there] : starts[there + 1]] if there >= 0 else order[:0]
        found.append(Wanted(rows[rows != itself], np.array([itself] if itself >= 0 else [], dtype=np.intp)))
    return found
