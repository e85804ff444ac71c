"""The table on disk against a dictionary, through many growths, with removals."""

from __future__ import annotations

import hashlib
import os
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seerctl import fingers
from seerctl.errors import EnvironmentFault
from seerctl.fingers import FINGER, FingerTable


def finger(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()[:FINGER]


def test_first_values_stay_as_in_a_dictionary() -> None:
    generator, known = random.Random(0), dict[int, bytes]()
    with FingerTable() as table:
        for turn in range(40_000):
            number, value = generator.randrange(20_000), turn.to_bytes(4, "little")
            assert table.setdefault(finger(number), value) == known.get(number)
            known.setdefault(number, value)
        assert len(table) == len(known)
        assert table._bits > 14


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 2)), max_size=200))
def test_entries_are_taken_as_often_as_they_were_added(steps: list[tuple[bool, int, int]]) -> None:
    known: Counter[tuple[int, int]] = Counter()
    with FingerTable() as table:
        for add, number, size in steps:
            value = bytes((size, 0, 0, 0))
            if add:
                if sum(known[number, other] for other in range(3)) < 64:
                    known[number, size] += 1
                table.add(finger(number), value)
            else:
                there = known[number, size] > 0
                assert table.take(finger(number), value) == there
                known[number, size] -= there


def test_one_finger_many_times_does_not_make_it_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    with FingerTable() as table:
        for _ in range(10_000):
            table.add(finger(1), bytes(4))
        assert len(table) == 64
        assert all(table.take(finger(1)) for _ in range(64))
        assert not table.take(finger(1))


def test_neighbours_at_the_end_wrap_around() -> None:
    last = [b"\xff" * 8 + bytes((number, 0, 0, 0)) for number in range(50)]
    with FingerTable() as table:
        for number, one in enumerate(last):
            assert table.setdefault(one, bytes((number, 0, 0, 0))) is None
        assert [table.setdefault(one, bytes(4)) for one in last] == [bytes((n, 0, 0, 0)) for n in range(50)]


def test_a_full_disk_is_said_and_no_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(EnvironmentFault, match="the disk is full"):
        FingerTable()


def test_it_leaves_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fingers.tempfile, "tempdir", str(tmp_path))
    with FingerTable() as table:
        for number in range(10_000):
            table.setdefault(finger(number), bytes(4))
        assert list(tmp_path.iterdir()) == []
