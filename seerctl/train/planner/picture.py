"""Memory over the step as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from seerctl.errors import EnvironmentFault, UsageError
from seerctl.files import atomic_write
from seerctl.train.hardware import GIB
from seerctl.train.planner.cost import MARGIN
from seerctl.train.planner.ledger import CATEGORIES
from seerctl.train.planner.plan import Planned

_SMALL = 0.01  # share of the peak below which a category is drawn with the rest


def picture_form(path: Path) -> Literal["svg", "png"]:
    """The kind of picture that `path` names.

    Raises:
        UsageError: neither SVG nor PNG.
    """
    suffix = path.suffix.lower()
    if suffix == ".svg":
        return "svg"
    if suffix == ".png":
        return "png"
    raise UsageError(f"{path}: pictures are .svg or .png", f"Name it {path.with_suffix('.svg').name}")


def draw_memory(planned: Planned, path: Path) -> None:
    """Write what holds the memory over the step, and the line of what is usable, to `path` (SVG or PNG).

    Raises:
        UsageError: neither SVG nor PNG. EnvironmentFault: matplotlib is not installed.
    """
    form = picture_form(path)
    try:
        from seerctl.figures import Series, stacked  # noqa: PLC0415  # matplotlib, an extra
    except ModuleNotFoundError as error:
        raise EnvironmentFault(f"{path}: {error.name} is not installed", "pip install 'seerctl[report]'") from None

    moments = planned.traced.timeline
    progress = [100 * moment.progress for moment in moments]
    peak = planned.traced.peak.total
    named = [kind for kind in CATEGORIES if max(m.by_category.get(kind, 0) for m in moments) >= _SMALL * peak]
    series = [Series(kind, progress, [moment.by_category.get(kind, 0) / GIB for moment in moments]) for kind in named]
    rest = [sum(size for kind, size in m.by_category.items() if kind not in named) / GIB for m in moments]
    if any(rest):
        series.append(Series("other", progress, rest))
    usable = MARGIN * planned.cluster.gpu.memory / GIB
    line = usable if usable < 3 * peak / GIB else None
    data = stacked(series, line=line, axis="GiB", below="% of the step's operations", form=form)
    with atomic_write(path) as file:
        file.write(data)
