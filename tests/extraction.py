"""Extraction as tests run it: a set of COUNT pictures, a model of size TINY, small batches on the CPU."""

from __future__ import annotations

from pathlib import Path

from seerctl.features.extractor import Extracted, Options, extract
from seerctl.model.sizes import RegNetSize

COUNT, BATCH = 300, 40
TINY = RegNetSize(depths=(1, 1, 1, 1), widths=(8, 16, 24, 32), group_widths=(8, 8, 8, 8), stem_width=8)


def run(data: Path, weights: Path, output: Path, **options: object) -> Extracted | None:
    settings = {"device": "cpu", "batch": BATCH, "workers": 2, **options}
    return extract(str(weights), str(data), output, Options(**settings))  # type: ignore[arg-type]
