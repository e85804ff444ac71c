"""Countries as people write them, and the lists of those to leave out.

SEER's only criterion for a picture was to leave out those of EU countries (arXiv 2202.08360).
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from seerctl.errors import InputError, UsageError, did_you_mean
from seerctl.files import blame

_MEMBERS = "AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK"
# Parts of member states where EU law holds and that have codes of their own: Aland, Guadeloupe, French Guiana,
# Martinique, Mayotte, Reunion, Saint Martin (Treaty on the Functioning of the EU, articles 349 and 355).
_REGIONS = "AX GF GP MF MQ RE YT"
LISTS: dict[str, tuple[str, frozenset[str]]] = {  # name -> (as of, codes); the last change was the UK's leaving
    "@eu": ("2020-02-01", frozenset(f"{_MEMBERS} {_REGIONS}".split())),
    "@eea": ("2020-02-01", frozenset(f"{_MEMBERS} {_REGIONS} IS LI NO".split())),
}
_MAX_FILE = 1 << 20


@dataclass(frozen=True, slots=True)
class CountryFilter:
    """Leaves out pictures of the countries `codes` (ISO 3166-1 alpha-2) by what stands in `column`.

    name: what the user called the list, with `as_of` where it is a shipped one. keep_unknown: whether a picture without
    a country, or with one that nobody knows, stays.
    """

    codes: frozenset[str]
    column: str
    keep_unknown: bool
    name: str
    as_of: str | None

    @classmethod
    def load(cls, name: str, column: str, *, keep_unknown: bool) -> CountryFilter:
        """The list called `@eu` or `@eea`, or the one in a file: a code or name a line, `#` begins a comment.

        Raises:
            UsageError: no list of that name, or a line that is no country.
            InputError: the file cannot be read.
        """
        if name.startswith("@"):
            if name not in LISTS:
                raise UsageError(f"--exclude-country {name}: no such list", did_you_mean(name, LISTS))
            as_of, codes = LISTS[name]
            return cls(codes, column, keep_unknown, name, as_of)
        return cls(_read_list(Path(name)), column, keep_unknown, Path(name).name, None)

    def verdict(self, columns: Mapping[str, Any]) -> tuple[bool, str]:
        """(whether the country is known, the code of an excluded one or ""), by the columns of a picture."""
        code = country_code(columns.get(self.column))
        return code is not None, code if code in self.codes else ""

    def recorded(self) -> dict[str, Any]:
        """What of it changes a stream, for its start marker."""
        dated = {"list": self.name, "as_of": self.as_of} if self.as_of else {}
        return {"codes": sorted(self.codes), "column": self.column, "keep_unknown": self.keep_unknown, **dated}


def country_code(value: Any) -> str | None:
    """The alpha-2 code of a country given by alpha-2, alpha-3 or name in any case, or None."""
    return _table().get(_folded(value)) if isinstance(value, str) else None


def _read_list(path: Path) -> frozenset[str]:
    with blame(path):
        try:
            if path.stat().st_size > _MAX_FILE:
                raise InputError(f"{path}: larger than {_MAX_FILE} bytes", "Write one country a line")
            text = path.read_text(encoding="utf-8-sig")
        except (FileNotFoundError, IsADirectoryError):
            raise InputError(f"{path}: no such file", "Write one country a line, or use @eu or @eea") from None
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    codes = set()
    for number, line in enumerate(text.splitlines(), start=1):
        if name := line.partition("#")[0].strip():
            code = country_code(name)
            if code is None:
                raise UsageError(f"{path}:{number}: no country '{name}'", "Write ISO 3166 codes or English names")
            codes.add(code)
    if not codes:
        raise InputError(f"{path}: names no country", "Write one country a line")
    return frozenset(codes)


def _folded(name: str) -> str:
    """A name without case, accents and punctuation: "Côte d'Ivoire" and "COTE D IVOIRE" are the same."""
    plain = unicodedata.normalize("NFKD", name).casefold()
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return " ".join(re.sub(r"[^\w]+", " ", plain.replace("&", " and ").replace(".", "")).split())


@functools.cache
def _table() -> dict[str, str]:
    """Every folded code and name to its alpha-2 code; codes come first, so that no name hides one."""
    text = files("seerctl.sources").joinpath("countries.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    found = {_folded(name): code for code, _, *names in rows for name in names}
    return found | {_folded(own): code for code, alpha3, *_ in rows for own in (code, alpha3)}
