"""What nodes have to agree on: each difference in one line that names the node."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from seerctl.errors import EnvironmentFault, InputError
from seerctl.train.preflight import CLOCK_SECONDS, Node, check_readable, check_room, check_shared, compare
from seerctl.train.world import World
from tests.streams import set_of

FIRST = Node("alpha", "1.0", "2.14.1", "ab" * 32, "[model]", 1000.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"torch": "2.13.0"}, "node beta has torch 2.13.0, alpha has 2.14.1"),
        ({"seerctl": "0.9"}, "node beta has seerctl 0.9, alpha has 1.0"),
        ({"index_sha256": "cd" * 32}, "node beta has a shard set with index cdcdcdcdcdcdcdcd"),
        ({"recipe": "[model]\nsize"}, "node beta has another recipe"),
        ({"clock": 1000.0 + 2 * CLOCK_SECONDS}, "the clock of node beta is 120 s ahead of that of alpha"),
        ({"clock": 1000.0 - 2 * CLOCK_SECONDS}, "the clock of node beta is 120 s behind that of alpha"),
    ],
)
def test_a_node_that_differs_is_named(change: dict[str, object], said: str) -> None:
    with pytest.raises(EnvironmentFault) as error:
        compare(FIRST, replace(FIRST, name="beta", **change))  # type: ignore[arg-type]
    assert said in error.value.message
    assert "\n" not in error.value.message
    assert error.value.hint


def test_equal_nodes_pass() -> None:
    compare(FIRST, replace(FIRST, name="beta", clock=1030.0))


class TwoNodes(World):
    """A world of two nodes of which this process is the second; what the first says is given."""

    def gather(self, value: object) -> list[object]:  # type: ignore[override]
        return [None, value]


def test_a_directory_that_is_not_shared(tmp_path: Path) -> None:
    world = TwoNodes(rank=1, size=2, local_rank=0, local_size=1)
    (tmp_path / "recipe.toml").touch()
    check_shared(world, tmp_path / "recipe.toml", patience=0)
    with pytest.raises(EnvironmentFault, match="does not see what the first node writes"):
        check_shared(world, tmp_path / "elsewhere" / "recipe.toml", patience=0)


def test_a_node_that_cannot_read_a_shard_is_named(tmp_path: Path) -> None:
    world, shards = TwoNodes(rank=1, size=2, local_rank=0, local_size=1), set_of(tmp_path, 20, maxcount=5)
    check_readable(world, shards)
    last = max(tmp_path.glob("*.tar"))
    last.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=rf"{last.name}: the shard is missing \(node [^)]+\)"):
        check_readable(world, shards)
    check_readable(World(), shards)  # of one node the first step says so


def test_a_fault_on_one_node_ends_all_of_them() -> None:
    def fail() -> None:
        raise InputError("shards/: no index.json", "Copy it")

    with pytest.raises(InputError, match=r"^shards/: no index.json \(node [^)]+\). Copy it$"):
        TwoNodes(rank=1, size=2, local_rank=0, local_size=1).on_all(fail)
    with pytest.raises(InputError, match=r"^shards/: no index.json. Copy it$"):
        World().on_all(fail)


def test_room_for_a_checkpoint(tmp_path: Path) -> None:
    check_room(World(), tmp_path, 1000)
    with pytest.raises(EnvironmentFault, match="a checkpoint takes 1000000000"):
        check_room(World(), tmp_path, 10**18)
