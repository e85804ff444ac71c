"""The roll after a lost rank: survivors name who has not signed, and do not wait for a store that is gone."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch
from torch.distributed import HashStore, TCPStore  # type: ignore[attr-defined]

from seerctl.train import rollcall
from seerctl.train.clock import busy_clock
from seerctl.train.rollcall import RollCall


@pytest.fixture
def roll() -> list[RollCall]:
    store = HashStore()
    return [RollCall(store, rank, 8) for rank in range(8)]


def test_who_has_not_signed_is_named_with_its_node(roll: list[RollCall]) -> None:
    with ThreadPoolExecutor(8) as ranks:
        said = list(ranks.map(lambda one: one.missing(0.3), roll[:2] + roll[3:]))
    assert said == [f"rank 2 on {socket.gethostname()}"] * 7


def test_nobody_is_missing_where_all_have_noticed(roll: list[RollCall]) -> None:
    with ThreadPoolExecutor(8) as ranks:
        assert list(ranks.map(lambda one: one.missing(0.3), roll)) == [""] * 8


def test_only_the_first_few_are_listed(roll: list[RollCall]) -> None:
    node = socket.gethostname()
    listed = ", ".join(f"rank {rank} on {node}" for rank in range(1, 5))
    assert roll[0].missing(0.0) == f"{listed} and 3 more"


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    return "10.0.0.1:29500"


def test_a_store_that_has_gone_is_rank_0(place: str) -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=5))
    client = TCPStore("127.0.0.1", store.port, is_master=False, timeout=timedelta(seconds=5))
    roll = RollCall(client, 1, 2)
    del store
    assert roll.missing(0.1) == f"rank 0 or the way to it (its store at {place} is gone)"


class _Silent(HashStore):
    """A store whose host has stopped."""

    def set(self, key: str, value: str) -> None:
        if "lost" in key:
            time.sleep(2)
        super().set(key, value)


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(rollcall, "_ANSWER", 0.2)
    return 0.1


def test_a_store_that_does_not_answer_is_rank_0(place: str, patience: float) -> None:
    roll, began = RollCall(_Silent(), 1, 2), time.monotonic()
    assert roll.missing(patience) == f"rank 0 or the way to it (its store at {place} does not answer)"
    assert time.monotonic() - began < 1.9  # the store would take 2 s


def test_the_busy_clock_runs_while_the_thread_works_and_not_while_it_waits() -> None:
    clock, started = busy_clock(torch.device("cpu")), time.thread_time()
    began = clock()
    while time.thread_time() < started + 0.05:
        pass
    worked = clock() - began
    assert worked >= 0.04
    began = clock()
    time.sleep(0.3)
    assert clock() - began < 0.2
    assert busy_clock(torch.device("cuda")) is time.perf_counter
