"""TOML into dataclasses: what is wrong is named, with the key and the closest known one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from seerctl.errors import UsageError
from seerctl.typed import build, plain, read_toml


@dataclass(frozen=True, kw_only=True)
class Inner:
    weight_decay: float = 0.0
    kind: Literal["a", "b", 3] = "a"


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)
    pair: tuple[float, float] = (0.0, 1.0)
    many: tuple[Inner, ...] = ()
    workers: int | Literal["auto"] = "auto"
    flag: bool = False
    maybe: str | None = None
    table: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name == "bad":
            raise ValueError("name must not be bad")


def test_values_take_their_types() -> None:
    table = {
        "name": "x",
        "inner": {"weight_decay": 1},
        "pair": [1, 2],
        "many": [{"kind": "b"}, {}],
        "workers": 3,
        "table": {"a": 1},
    }
    made = build(Outer, table, "file")
    assert made == Outer(
        name="x",
        inner=Inner(weight_decay=1.0),
        pair=(1.0, 2.0),
        many=(Inner(kind="b"), Inner()),
        workers=3,
        table={"a": 1},
    )
    assert isinstance(made.inner.weight_decay, float)
    assert build(Outer, plain(made), "again") == made
    assert "maybe" not in plain(made)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, "'name' is missing"),
        (
            {"name": "x", "inner": {"weigth_decay": 1.0}},
            "unknown key 'inner.weigth_decay'. Did you mean 'weight_decay'?",
        ),
        ({"name": 3}, "'name' is 3. It must be str"),
        ({"name": "x", "flag": 1}, "'flag' is 1. It must be bool"),
        ({"name": "x", "workers": True}, "'workers' is"),
        ({"name": "x", "workers": "atuo"}, "Did you mean 'auto'?"),
        ({"name": "x", "inner": 3}, "'inner' is 3. It must be a table"),
        ({"name": "x", "inner": {"kind": "c"}}, "'inner.kind' is 'c'"),
        ({"name": "x", "inner": {"kind": True}}, "'inner.kind' is True"),
        ({"name": "x", "pair": [1.0]}, "'pair' needs 2 values, not 1"),
        ({"name": "x", "pair": "ab"}, "It must be a list"),
        ({"name": "x", "many": [{"kind": "a"}, {"knid": "a"}]}, "'many[1].knid'"),
        ({"name": "x", "table": {"a": "b"}}, "'table.a' is 'b'"),
        ({"name": "bad"}, "name must not be bad"),
    ],
)
def test_faults_are_named(table: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        build(Outer, table, "file.toml")
    assert str(caught.value).startswith("file.toml: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"a = ", b"a = 1\na = 2\n", b"\xff\xfe", b"[" * 5000])
def test_what_is_not_toml_is_a_usage_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="not valid TOML"):
        read_toml(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_toml(tmp_path / "none.toml")
    with pytest.raises(UsageError, match="no such file"):
        read_toml(tmp_path)
