"""`--filter module:function`: a user's own say in what is kept. It runs in the workers.

    def large_and_licensed(candidate):
        if candidate.width < 512:
            return "small"          # a reason: left out as `filtered`
        return candidate.columns.get("license") == "CC0"

None and True keep a picture; False and a text leave it out.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seerctl.errors import UsageError
from seerctl.sources.reasons import Reason, RejectedError

if TYPE_CHECKING:
    from PIL import Image

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_MAX_REASON = 200


@dataclass(frozen=True)
class Candidate:
    """What a filter is given: the original bytes, facts about the picture, and the columns that came with it.

    width, height: pixels as stored, before `orientation` (EXIF, 1 to 8).
    """

    source: str
    columns: Mapping[str, Any]
    data: bytes
    width: int
    height: int
    format: str
    mode: str
    orientation: int

    @functools.cached_property
    def image(self) -> Image.Image:
        """The picture as every stage sees it: RGB, upright, alpha over white; decoded when first asked for."""
        from PIL import Image  # noqa: PLC0415  (only filters that look need it)

        from seerctl.augment.decode import DecodeError, to_rgb  # noqa: PLC0415

        try:
            return Image.fromarray(to_rgb(self.data))
        except DecodeError as error:
            raise RejectedError(Reason.DAMAGED, str(error)) from None


Filter = Callable[[Candidate], None]  # raises RejectedError


def require_filter(name: str) -> None:
    """Notice, before anything is written, a filter whose module is not there.

    Raises:
        UsageError: not of the form `module:function`, or no such module.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"--filter {name}: not module:function", "For example --filter myfilters:large")
    with_working_directory()
    module = name.partition(":")[0]
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    if found is None:
        raise UsageError(f"--filter {name}: no module '{module}'", "It must be installed, or lie in this directory")


def load_filter(name: str) -> Filter:
    """The user's function `name`, as one that raises `RejectedError` for what it leaves out.

    Raises:
        UsageError: it cannot be imported, or is no function.
    """
    with_working_directory()
    module, _, path = name.partition(":")
    try:
        function = functools.reduce(getattr, path.split("."), importlib.import_module(module))
    except Exception as error:
        raise UsageError(f"--filter {name}: {_told(error)}", "Import it in Python to see why") from None
    if not callable(function):
        raise UsageError(f"--filter {name}: is no function", "Name one that takes a candidate")
    return functools.partial(_apply, name, function)


def with_working_directory() -> None:
    """Let modules be found that lie in the working directory, as `python -m` does."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)


def _apply(name: str, function: Callable[[Candidate], object], candidate: Candidate) -> None:
    try:
        answer = function(candidate)
    except (RejectedError, MemoryError):
        raise
    except Exception as error:
        raise UsageError(
            f"--filter {name}: {_told(error)}, on '{candidate.source}'", "A filter must answer for every picture"
        ) from None
    if isinstance(answer, str):
        raise RejectedError(Reason.FILTERED, " ".join(f"{name}: {answer}".split())[:_MAX_REASON])
    if answer is None or (type(answer).__name__ in ("bool", "bool_") and answer):
        return
    if type(answer).__name__ not in ("bool", "bool_"):
        raise UsageError(
            f"--filter {name}: returned {type(answer).__name__}, on '{candidate.source}'",
            "Return True or None to keep it, False or a reason to leave it out",
        )
    raise RejectedError(Reason.FILTERED, name)


def _told(error: Exception) -> str:
    """An error and where the user's code raised it, on one line."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return " ".join(f"{type(error).__name__}: {error}".split()) + where
