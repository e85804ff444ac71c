"""Gates of a probe: `--min METRIC=VALUE` for scores, `--max METRIC=VALUE` for errors, checked before and after."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from seerctl.errors import GateFailed, UsageError, did_you_mean


@dataclass(frozen=True, slots=True)
class Gates:
    """The least and the largest values that metrics may have."""

    minima: Mapping[str, float]
    maxima: Mapping[str, float]

    @classmethod
    def parse(
        cls, minima: Iterable[str], maxima: Iterable[str], known: Sequence[str], numbers: Sequence[str] = ()
    ) -> Gates:
        """`METRIC=VALUE` texts as numbers, checked before the work starts.

        known: the metrics that the protocol can report, or patterns with * of them; those in `numbers` (patterns as
        well) are no fractions.

        Raises:
            UsageError: no such metric in this protocol, no number, or a fraction outside 0 to 1.
        """
        return cls(_bounds("--min", minima, known, numbers), _bounds("--max", maxima, known, numbers))

    def check(self, report: Mapping[str, Any]) -> None:
        """Compare point values with the demanded ones.

        Raises:
            GateFailed: a value is below its minimum, above its maximum, or undefined.
            UsageError: this run could not have the metric (top5 of five classes, a k beyond the training rows).
        """
        metrics = report["metrics"]
        for flag, bounds in (("--min", self.minima), ("--max", self.maxima)):
            absent = [name for name in bounds if name not in metrics]
            if absent:
                raise UsageError(
                    f"{flag} {absent[0]}: this run has no such metric", f"It has: {', '.join(metrics)}"
                )  # fmt: skip
        missed = [*_missed(metrics, self.minima, "<"), *_missed(metrics, self.maxima, ">")]
        if missed:
            raise GateFailed("probe: " + ", ".join(missed))


def _missed(metrics: Mapping[str, Any], bounds: Mapping[str, float], beyond: str) -> list[str]:
    missed = []
    for name, bound in bounds.items():
        value = metrics[name]["value"]
        if value is None:
            missed.append(f"{name} is undefined")
        elif (value < bound) if beyond == "<" else (value > bound):
            missed.append(f"{name} {value:.4f} {beyond} {bound:g}")
    return missed


def _bounds(flag: str, texts: Iterable[str], known: Sequence[str], numbers: Sequence[str]) -> dict[str, float]:
    bounds = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not _among(name, known):
            raise UsageError(f"{flag} {text}: no metric '{name}' in this probe", did_you_mean(name, known))
        try:
            bounds[name] = float(value)
        except ValueError:
            raise UsageError(f"{flag} {text}: '{value}' is not a number", f"Write {flag} {name}=0.5") from None
        if _among(name, numbers) and not math.isfinite(bounds[name]):
            raise UsageError(f"{flag} {text}: not a finite number")
        if not _among(name, numbers) and not (equals and 0.0 <= bounds[name] <= 1.0):
            raise UsageError(f"{flag} {text}: not a fraction between 0 and 1", "50 % is 0.5")
    return bounds


def _among(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
