"""Malformed tables and policies: a documented exit code and one line, never a traceback, never a pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seerctl.audit.fairness import audit_fairness
from seerctl.audit.policy import load_policy
from seerctl.errors import ExitCode, SeerctlError

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
GOOD = "key,label,prediction,score,group\n" + "".join(f"k{i},{i % 2},{i % 3 % 2},0.5,g{i % 2}\n" for i in range(80))

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.floats(-2, 2), st.text("abgroup*=\n\0", max_size=6)
)
keys = st.sampled_from(
    [
        "id",
        "metric",
        "groups",
        "positive",
        "average",
        "against",
        "op",
        "tolerance",
        "threshold",
        "min_n",
        "severity",
        "x",
    ]
)
words = st.sampled_from(
    ["accuracy", "tpr", "fpr", "group", "1", "macro", "rest", "threshold", ">=", "within", "warn", ""]
)


def outcome(work: Callable[[], Any]) -> ExitCode:
    """How `seerctl` would end; anything but an expected error propagates as the bug it is."""
    try:
        return ExitCode(work()["exit_code"])
    except SeerctlError as error:
        return error.exit_code if str(error).isprintable() else ExitCode.BUG


@QUICK
@given(st.binary(max_size=200) | st.text('key,label,prediction"\n\r\t;1\0', max_size=200).map(str.encode))
def test_tables_of_noise(tmp_path: Path, content: bytes) -> None:
    for suffix in ("csv", "jsonl"):
        path = tmp_path / f"p.{suffix}"
        path.write_bytes(content)
        assert outcome(lambda path=path: audit_fairness(path, load_policy(), ["group"])) in (2, 4)


@QUICK
@given(st.integers(0, len(GOOD) - 1), st.sampled_from([b"", b"\n", b",", b'"', b"\0", b"\xff", b"nan", b"-1e999"]))
def test_a_table_spoilt_in_one_place(tmp_path: Path, place: int, bad: bytes) -> None:
    data = GOOD.encode()
    (tmp_path / "p.csv").write_bytes(data[:place] + bad + data[place + 1 :])
    assert outcome(lambda: audit_fairness(tmp_path / "p.csv", load_policy(), ["group"])) in (2, 3, 4, 6)


def toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(c if c.isalnum() or c in "*<>=" else f"\\u{ord(c):04x}" for c in value) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return "[]" if value is None else repr(value)


@QUICK
@given(st.dictionaries(keys, scalars | words | st.lists(scalars | words, max_size=2), max_size=8), st.booleans())
def test_policies_of_any_values(tmp_path: Path, check: dict[str, object], named: bool) -> None:
    check = {"id": "a", "metric": "accuracy", **check} if named else check
    (tmp_path / "p.csv").write_text(GOOD)
    (tmp_path / "audit.toml").write_text(
        "[[check]]\n" + "".join(f"{name} = {toml(value)}\n" for name, value in check.items()), encoding="utf-8"
    )
    path = tmp_path / "audit.toml"
    assert outcome(lambda: audit_fairness(tmp_path / "p.csv", load_policy(path), ["group"])) in (0, 2, 3, 6)


@pytest.mark.parametrize("rows", [1, 2, 29])
def test_a_table_that_is_too_small_never_passes(rows: int, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("".join(GOOD.splitlines(keepends=True)[: rows + 1]))
    assert outcome(lambda: audit_fairness(tmp_path / "p.csv", load_policy(), ["group"])) == ExitCode.INCONCLUSIVE
