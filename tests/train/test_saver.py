"""Checkpoints in the background: what was true when they were asked for, whatever happens meanwhile."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from seerctl.errors import EnvironmentFault, Saved, UsageError
from seerctl.recipe import CheckpointConfig
from seerctl.train import checkpoint
from seerctl.train.checkpoint import checkpoints, load, newest
from seerctl.train.metrics import Metrics
from seerctl.train.saver import Saver
from seerctl.train.start import train
from seerctl.train.world import World
from tests.distributed.ranks import StopAfter
from tests.training import make_shards, small_recipe

ALONE = World()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Nothing is written before it is opened."""
    opened, write = threading.Event(), checkpoint._write

    def slow(*arguments: Any) -> None:
        assert opened.wait(60)
        write(*arguments)

    monkeypatch.setattr(checkpoint, "_write", slow)
    return opened


def _full(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """No room for the checkpoints of `steps`."""
    write = checkpoint._write

    def limited(temporary: Path, *rest: Any) -> None:
        if int(temporary.stem.removeprefix("step-")) in steps:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(temporary, *rest)

    monkeypatch.setattr(checkpoint, "_write", limited)


def test_the_copy_is_of_the_moment(tmp_path: Path, gate: threading.Event) -> None:
    tensors = {"a": torch.ones(5, 3), "b": torch.tensor(7)}
    with Saver(tmp_path, CheckpointConfig(), ALONE) as saver:
        saver.save(1, tensors, {"schema": "test"})
        tensors["a"].fill_(2.0)
        assert checkpoints(tmp_path) == []  # not waited for
        gate.set()
        saver.save(2, tensors, {"schema": "test"})  # waits for the first, and uses its memory again
    assert [path.name[-1] for path in checkpoints(tmp_path)] == ["1", "2"]
    for path, value in zip(checkpoints(tmp_path), (1.0, 2.0), strict=True):
        found = {"a": torch.zeros(5, 3), "b": torch.tensor(0)}
        load(path, found, ALONE)
        assert torch.equal(found["a"], torch.full((5, 3), value))
        assert found["b"] == 7


def test_training_goes_on_meanwhile_and_resumes_bit_equal(shards: Path, tmp_path: Path, gate: threading.Event) -> None:
    whole = small_recipe("checkpoint.background=false", "checkpoint.every=100")
    train(whole, shards, tmp_path / "whole", progress=lambda _: gate.set())
    gate.clear()
    steps: list[int] = []

    def progress(_: int) -> None:
        steps.append(len(steps) + 1)
        if len(steps) == 6:  # the checkpoint of step 4 has waited while two more were taken
            assert checkpoints(tmp_path / "run" / "checkpoints") == []
            gate.set()
            StopAfter(1)(0)

    with pytest.raises(Saved):
        train(small_recipe("checkpoint.keep=9"), shards, tmp_path / "run", progress=progress)
    names = [path.name for path in checkpoints(tmp_path / "run" / "checkpoints")]
    assert names == ["step-00000004", "step-00000007"]
    (tmp_path / "run" / "checkpoints" / names[1] / "sums.json").unlink()
    assert train(small_recipe("checkpoint.keep=9"), shards, tmp_path / "run").start == 4
    ours, expected = (Metrics(tmp_path / name / "metrics.jsonl").rows() for name in ("run", "whole"))
    assert [row["loss"] for row in ours] == [row["loss"] for row in expected]


@pytest.mark.parametrize("background", ["true", "false"])
def test_a_full_disk_stops_the_run(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, background: str
) -> None:
    _full(monkeypatch, {4})
    with pytest.raises(EnvironmentFault, match="step-00000004: the disk is full"):
        train(small_recipe(f"checkpoint.background={background}", "checkpoint.every=2"), shards, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000002"]
    assert not (tmp_path / "run" / "weights.safetensors").exists()


def test_or_the_run_goes_on_without_that_checkpoint(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: Callable[[], list[str]]
) -> None:
    _full(monkeypatch, {2, 4, 8})
    recipe = small_recipe("checkpoint.on_full=continue", "checkpoint.every=2", "checkpoint.keep=9")
    train(recipe, shards, tmp_path / "run")
    assert [path.name[-1] for path in checkpoints(tmp_path / "run" / "checkpoints")] == ["6"]
    assert (tmp_path / "run" / "weights.safetensors").is_file()
    said = [line for line in heard() if "training goes on without this checkpoint" in line]
    assert [line.split(":")[0][-1] for line in said] == ["2", "4", "8"]


def test_a_signal_never_passes_over_a_full_disk(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _full(monkeypatch, {3})
    recipe = small_recipe("checkpoint.on_full=continue")
    with pytest.raises(EnvironmentFault, match="step-00000003: the disk is full"):
        train(recipe, shards, tmp_path / "run", progress=StopAfter(2))


def test_other_faults_stop_the_run_in_any_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    saver = Saver(tmp_path, CheckpointConfig(on_full="continue"), ALONE)
    monkeypatch.setattr(checkpoint, "_write", broken)
    saver.save(1, {"a": torch.ones(2)}, {})
    with pytest.raises(EnvironmentFault, match="input/output error"):
        saver.wait()
    assert newest(tmp_path, ALONE) is None
    assert saver.saved == -1


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(UsageError, match="keep_every must be a multiple of every, 4"):
        small_recipe("checkpoint.keep_every=6")
