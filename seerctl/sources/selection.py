"""What is let through before a picture is fetched or read: its part of an array job, what no set holds, by columns."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seerctl.errors import UsageError
from seerctl.sources.item import Item
from seerctl.sources.reasons import Reason
from seerctl.sources.where import Condition

if TYPE_CHECKING:
    from seerctl.sources.countries import CountryFilter
    from seerctl.sources.known import KnownSources


@dataclass(frozen=True, slots=True)
class Part:
    """One of `count` parts of the sources, the `number`th, dealt by the SHA-256 of their names."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """The part in "2/8".

        Raises:
            UsageError: no number between 1 and the count.
        """
        number, slash, count = text.partition("/")
        if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count) <= 1 << 20):
            raise UsageError(f"--part {text}: not I/N", "Write 1/8 for the first of eight parts")
        return cls(int(number), int(count))

    def takes(self, source: str) -> bool:
        """Whether `source` belongs to this part."""
        return int.from_bytes(hashlib.sha256(source.encode()).digest()[8:16], "big") % self.count == self.number - 1


@dataclass(frozen=True, slots=True)
class SelectionOptions:
    """What is let through: `where` are conditions on columns and `source`; `known` are sets and lists of rejects."""

    where: tuple[Condition, ...] = ()
    countries: CountryFilter | None = None
    part: Part | None = None
    known: tuple[str, ...] = ()

    def recorded(self) -> dict[str, Any]:
        """What of it changes a stream, for its start marker; what was not asked for is left out."""
        return {"exclude_country": self.countries.recorded()} if self.countries else {}


class Selection:
    """Lets items through; `skipped` counts those that a set holds already, `elsewhere` those of other parts."""

    def __init__(
        self,
        options: SelectionOptions,
        known: KnownSources | None = None,
        wanted: Callable[[str], bool] | None = None,
    ) -> None:
        self._options, self._known, self._wanted = options, known, wanted
        self.skipped = self.elsewhere = 0
        self._unseen = {one.name for one in options.where if not one.about_source}
        if options.countries is not None:
            self._unseen.add(options.countries.column)

    def apply(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items to go on with; those that a condition leaves out have that as their verdict."""
        part, known = self._options.part, self._known
        judged = bool(self._options.where or self._unseen or self._options.countries)
        for item in items:
            if self._wanted is not None and not self._wanted(item.source):
                continue
            if part is not None and not part.takes(item.source):
                self.elsewhere += 1
            elif known is not None and known.skip(item):
                self.skipped += 1
            else:
                if judged and item.verdict is None:
                    item.verdict = self._judge(item)
                yield item

    def _judge(self, item: Item) -> tuple[str, str] | None:
        self._unseen -= item.columns.keys()
        for condition in self._options.where:
            value = item.source if condition.about_source else item.columns.get(condition.name)
            if not condition.holds(value):
                return Reason.WHERE, condition.text
        countries = self._options.countries
        if countries is None:
            return None
        known, excluded = countries.verdict(item.columns)
        if excluded:
            return Reason.COUNTRY, excluded
        if known or countries.keep_unknown:
            return None
        return Reason.COUNTRY_UNKNOWN, f"{countries.column}: {item.columns.get(countries.column)!r:.80}"

    @property
    def passed_over(self) -> bool:
        """Whether there were items that somebody else looks at, or looked at."""
        return bool(self.skipped or self.elsewhere)

    @property
    def unseen(self) -> str | None:
        """A column that was asked for and that no item had: perhaps its name is wrong."""
        return min(self._unseen, default=None)
