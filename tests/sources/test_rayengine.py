"""A real Ray cluster on 127.0.0.1: the same bytes as here, and the same limits for every picture."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seerctl.errors import UsageError
from seerctl.sources.check import CheckOptions, allowed_formats
from seerctl.sources.outpost import decode_plan, encode_plan
from seerctl.sources.transform import Resize, Treatment
from seerctl.sources.where import parse_conditions
from seerctl.sources.worker import Limits
from tests.sources.test_ingest import run

FILTERS = """
import ctypes
def crashes(candidate):
    if candidate.source == "a/003.jpg":
        ctypes.string_at(0)
    while candidate.source == "b/001.png":
        pass
def breaks(candidate):
    raise ValueError("mine")
"""


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    import os

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, object_store_memory=1 << 27,
        _node_ip_address="127.0.0.1", log_to_driver=False, logging_level="ERROR",
    )  # fmt: skip
    yield ray
    ray.shutdown()


@pytest.fixture(autouse=True)
def _filters(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(folder.parent)
    Path("rayfilters.py").write_text(FILTERS)
    before = list(sys.path)
    yield
    sys.path[:] = before


def test_a_plan_arrives_as_it_was() -> None:
    check = CheckOptions("strict", allowed_formats("PSD"), 5, 6, 7, 8.5)
    treatment = Treatment(parse_conditions(["width > 3"]), ("a:b",), Resize("long", 9, True, 80), True)
    plan = encode_plan(check, Limits(3.0, 1 << 27), treatment)
    assert decode_plan(plan) == (check, Limits(3.0, 1 << 27), treatment, str(Path.cwd()))


def test_without_ray_it_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'seerctl\[ray\]'"):
        run(folder, engine="ray")


@pytest.mark.slow  # starting a cluster takes 10 s and more
@pytest.mark.usefixtures("ray")
def test_the_same_bytes_and_the_same_limits(folder: Path) -> None:
    (folder / "a" / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    treatment = Treatment(parse_conditions(["bytes > 10"]), ("rayfilters:crashes",), Resize("short", 20), True)
    options: dict[str, Any] = {"treatment": treatment, "dedup": True, "limits": Limits(seconds=0.5)}
    here = run("pictures", jobs=2, **options)
    assert here[1].rejects == {"crashed": 1, "damaged": 1, "timeout": 1}
    for jobs in (0, 1):
        there = run("pictures", jobs=jobs, engine="ray", **options)
        assert there[0] == here[0]
        assert there[2] == here[2]


@pytest.mark.slow  # starting a cluster takes 10 s and more
@pytest.mark.usefixtures("ray")
def test_mistakes_in_filters_come_back(folder: Path) -> None:
    with pytest.raises(UsageError, match="rayfilters:breaks: ValueError: mine"):
        run("pictures", engine="ray", treatment=Treatment(filters=("rayfilters:breaks",)))
