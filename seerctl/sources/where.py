"""Conditions on columns and on facts about a picture: 'COLUMN OP VALUE', read as data, never run as code.

    label = cat            age >= 18             license in CC0, "CC BY 4.0"      caption contains dog
    width >= 256           format != GIF         caption missing                  "odd name" not in a, b

A number is one where it is not in quotes and looks like one. `=` and `!=` compare numbers with numbers and text with
text; `<` and its kin compare as numbers with a number (text that is written as one counts), else text by code points.
A missing value satisfies nothing but `missing`.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from seerctl.errors import UsageError

FACTS = ("width", "height", "format", "mode", "bytes", "orientation")  # of a picture, known when it was looked at
SOURCE = "source"
_FORM = "Write COLUMN OP VALUE, such as 'age >= 18', 'license in CC0, \"CC BY\"', 'caption not missing'"
_OPERATORS = r"not\s+in\b|in\b|not\s+missing\b|missing\b|contains\b|startswith\b|endswith\b|!=|==?|<=|>=|<|>"
# Compiled when there is a condition: that takes longer than anything else of starting up here.
_CONDITION = rf"""(?s)\s*(?:"([^"]+)"|([^\s"<>=!]+))\s*({_OPERATORS})(.*)"""
_LITERAL = r"""\s*(?:"([^"]*)"|'([^']*)'|([^,"']+?))\s*(,|$)"""
_NUMBER = r"[+-]?(?:[0-9]{1,300})(?:\.[0-9]{1,300})?(?:[eE][+-]?[0-9]{1,3})?"
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_TEXTS: dict[str, Callable[[str, str], bool]] = {
    "contains": operator.contains, "startswith": str.startswith, "endswith": str.endswith,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Literal:
    """A value as it was written: its text, and the number that it is."""

    text: str
    number: float | None = None


@dataclass(frozen=True, slots=True)
class Condition:
    """One `--where`: `text` as written; `fact` when it is about the picture and not about a column."""

    text: str
    name: str
    operator: str
    literals: tuple[Literal, ...]
    fact: bool

    @classmethod
    def parse(cls, text: str) -> Condition:
        """The condition in `text`. `columns.width` is a column of the table called like a fact.

        Raises:
            UsageError: it is none.
        """
        match = re.fullmatch(_CONDITION, text)
        if match is None:
            raise UsageError(f"--where {text!r}: not understood", _FORM)
        name, word = match[1] or match[2], " ".join(match[3].split())
        word = "=" if word == "==" else word
        literals = tuple(_literals(match[4].strip(), text))
        expected = (0, 0) if word.endswith("missing") else (1, None if word.endswith("in") else 1)
        if len(literals) < expected[0] or (expected[1] is not None and len(literals) > expected[1]):
            raise UsageError(f"--where {text!r}: '{word}' with {len(literals)} values", _FORM)
        plain = match[2] is not None and not name.startswith("columns.")
        return cls(text, name.removeprefix("columns."), word, literals, plain and name in FACTS)

    @property
    def about_source(self) -> bool:
        """Whether it is about where the picture came from."""
        return self.name == SOURCE and not self.text.lstrip().startswith(("columns.", '"'))

    def holds(self, value: Any) -> bool:
        """Whether `value`, of any JSON type, satisfies it."""
        absent = value is None or value == "" or (isinstance(value, float) and math.isnan(value))
        if self.operator.endswith("missing"):
            return absent == (self.operator == "missing")
        if absent:
            return False
        if self.operator in _ORDER:
            return _ordered(value, self.literals[0], _ORDER[self.operator])
        if self.operator in _TEXTS:
            return _text_holds(value, self.literals[0].text, self.operator)
        equal = any(_equal(value, literal) for literal in self.literals)
        return equal == (self.operator in ("=", "in"))


def parse_conditions(texts: Iterable[str]) -> tuple[Condition, ...]:
    """Every condition in `texts`.

    Raises:
        UsageError: one is none.
    """
    return tuple(Condition.parse(text) for text in texts)


def _literals(rest: str, text: str) -> Iterable[Literal]:
    at = 0
    while at < len(rest):
        match = re.compile(_LITERAL).match(rest, at)
        if match is None or (match[4] and match.end() == len(rest)):
            raise UsageError(f"--where {text!r}: the value {rest[at:]!r} is not understood", _FORM)
        quoted = next((part for part in match.group(1, 2) if part is not None), None)
        yield Literal(quoted) if quoted is not None else Literal(match[3], _number(match[3]))
        at = match.end()


def _number(text: str) -> float | None:
    if not re.fullmatch(_NUMBER, text):
        return None
    number = int(text) if text.lstrip("+-").isdigit() else float(text)
    return number if math.isfinite(number) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _equal(value: Any, literal: Literal) -> bool:
    if _is_number(value):
        return literal.number is not None and bool(value == literal.number)
    return _as_text(value) == literal.text


def _ordered(value: Any, literal: Literal, compare: Callable[[Any, Any], bool]) -> bool:
    if literal.number is not None:
        number = value if _is_number(value) else _number(value.strip()) if isinstance(value, str) else None
        return number is not None and compare(number, literal.number)
    return isinstance(value, str) and compare(value, literal.text)


def _text_holds(value: Any, wanted: str, word: str) -> bool:
    if isinstance(value, list) and word == "contains":
        return any(_as_text(item) == wanted for item in value)
    return _TEXTS[word](_as_text(value), wanted)
