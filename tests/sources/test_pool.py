"""Workers that crash, hang, eat memory or meet a bug: one named reject each, everything else as it was."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import time
from collections.abc import Callable

import pytest

from seerctl.errors import EnvironmentFault
from seerctl.sources import decoders, pool, worker
from seerctl.sources.check import CheckOptions
from seerctl.sources.item import Item
from seerctl.sources.magic import detect
from seerctl.sources.pool import Outcome, Pool
from seerctl.sources.reasons import Reason, RejectedError
from seerctl.sources.worker import Limits
from tests.processes import descendants

JPEG = b"\xff\xd8\xff\xe0"


def crash() -> None:
    faulthandler.disable()  # pytest's would print the crash that we want
    ctypes.string_at(0)


def spin() -> None:
    while True:
        pass


def sleep() -> None:
    time.sleep(60)


def devour() -> None:
    hoard = [bytearray(1 << 24) for _ in range(1000)]
    del hoard


def refuse() -> None:
    raise RejectedError(Reason.DAMAGED, "as planned")


def blunder() -> None:
    raise KeyError("a bug of ours")


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Outcome]]:
    """Run items whose bytes name a misdeed; the decoders are replaced by it."""

    def examine(data: bytes, _: CheckOptions) -> decoders.Picture:
        if misdeed := globals().get(data[4:].decode()):
            misdeed()
        found = detect(data)
        assert found
        return decoders.Picture(found, 1, 1, "RGB", 1)

    monkeypatch.setattr(decoders, "examine", examine)
    monkeypatch.setattr(pool, "_POLL_SECONDS", 0.05)

    def run(*deeds: str, jobs: int = 2, limits: Limits | None = None) -> list[Outcome]:
        items = [Item(f"{number}", data=JPEG + deed.encode(), size=4 + len(deed)) for number, deed in enumerate(deeds)]
        with Pool(jobs, CheckOptions(), limits or Limits(seconds=0.5, memory=1 << 26)) as workers:
            return list(workers.run(items))

    return run


def rejects(outcomes: list[Outcome]) -> dict[str, str]:
    return {item.source: reason for outcome in outcomes for item, reason, _ in outcome.rejects}


def samples(outcomes: list[Outcome]) -> int:
    return sum(len(outcome.digests) // 32 for outcome in outcomes)


def test_each_misdeed_is_one_named_reject(examined: Callable[..., list[Outcome]]) -> None:
    deeds = ["fine", "crash", "fine", "spin", "devour", "fine", "refuse", "crash", "fine"]
    outcomes = examined(*deeds)
    assert rejects(outcomes) == {
        "1": Reason.CRASHED, "3": Reason.TIMEOUT, "4": Reason.MEMORY, "6": Reason.DAMAGED, "7": Reason.CRASHED,
    }  # fmt: skip
    assert samples(outcomes) == 4


def test_waiting_too_long_is_noticed_too(
    examined: Callable[..., list[Outcome]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "PATIENCE", 2.0)
    outcomes = examined("fine", "sleep", "fine")
    assert rejects(outcomes) == {"1": Reason.TIMEOUT}
    assert samples(outcomes) == 2


def test_results_do_not_depend_on_jobs(examined: Callable[..., list[Outcome]]) -> None:
    deeds = [
        ("fine", "refuse", "fine", "crash")[number % 4 if number % 40 == 3 else number % 3] for number in range(300)
    ]
    first = examined(*deeds, jobs=1)
    for jobs in (2, 5):
        other = examined(*deeds, jobs=jobs)
        assert [bytes(outcome.raw) for outcome in other] == [bytes(outcome.raw) for outcome in first]
        assert rejects(other) == rejects(first)
    assert Reason.CRASHED in rejects(first).values()


def test_a_bug_of_ours_is_told_as_one(examined: Callable[..., list[Outcome]]) -> None:
    with pytest.raises(RuntimeError, match="a bug of ours"):
        examined("fine", "blunder", "fine")


def test_workers_that_cannot_begin_are_the_environment(
    examined: Callable[..., list[Outcome]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "serve", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(EnvironmentFault, match="die before they begin"):
        examined("fine")


def test_a_nursery_that_dies_is_the_environment(examined: Callable[..., list[Outcome]]) -> None:
    items = (Item(str(number), data=JPEG + b"crash", size=9) for number in range(9))
    with Pool(2, CheckOptions()) as workers:
        os.kill(workers._nursery._pid, signal.SIGKILL)
        with pytest.raises(EnvironmentFault, match="the process that starts workers died"):
            list(workers.run(items))


def test_decoders_that_cannot_load_say_why(
    examined: Callable[..., list[Outcome]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise ImportError("no decoder here")

    monkeypatch.setattr(decoders, "prepare", fail)
    with pytest.raises(RuntimeError, match="no decoder here"):
        examined("fine")


def test_no_process_stays_behind(examined: Callable[..., list[Outcome]]) -> None:
    before = descendants(os.getpid())
    examined("fine", "crash", "spin", "fine")
    assert descendants(os.getpid()) == before
    with pytest.raises(RuntimeError):
        examined("blunder")
    assert descendants(os.getpid()) == before
    with Pool(2, CheckOptions()) as workers:
        next(iter(workers.run(Item(str(n), data=JPEG, size=4) for n in range(1000))))
        assert len(descendants(os.getpid()) - before) == 3
    assert descendants(os.getpid()) == before


def test_memory_in_flight_is_bounded(examined: Callable[..., list[Outcome]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow consumer stops the reading of sources, it does not pile up results."""
    taken = 0

    def items() -> object:
        nonlocal taken
        for number in range(2000):
            taken += 1
            yield Item(str(number), data=JPEG + bytes(1000), size=1004)

    monkeypatch.setattr(pool, "BATCH_ITEMS", 4)
    monkeypatch.setattr(pool, "WINDOW_BYTES", 40_000)
    with Pool(2, CheckOptions()) as workers:
        outcomes = workers.run(items())  # type: ignore[arg-type]
        done = 0
        for outcome in outcomes:
            done += outcome.items
            assert taken - done <= 40 + 2 * 4 + 4
    assert done == 2000
