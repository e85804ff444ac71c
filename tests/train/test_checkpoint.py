"""Checkpoints are whole or absent, and only what was written is loaded."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from seerctl.errors import EnvironmentFault, InputError
from seerctl.train import checkpoint
from seerctl.train.checkpoint import checkpoints, load, newest, save, tensors_of
from seerctl.train.world import World

ALONE = World()


def _tensors(value: float) -> dict[str, Tensor]:
    return {"model.a": torch.full((300, 40), value), "optim.a.step": torch.tensor(value)}


def _save(folder: Path, step: int, keep: int = 9) -> Path:
    return save(folder, step, _tensors(step), {"schema": "test"}, keep, ALONE)


def test_round_trip_with_facts(tmp_path: Path) -> None:
    path = _save(tmp_path, 12)
    assert sorted(entry.name for entry in path.iterdir()) == [".metadata", "__0_0.distcp", "state.json", "sums.json"]
    found = newest(tmp_path, ALONE)
    assert found is not None
    assert found[1] == {"schema": "test", "step": 12}
    tensors = _tensors(0)
    load(found[0], tensors, ALONE)
    assert torch.equal(tensors["model.a"], torch.full((300, 40), 12.0))
    assert tensors["optim.a.step"] == 12


def test_the_newest_that_verifies_is_taken(tmp_path: Path, heard: Callable[[], list[str]]) -> None:
    for step in (1, 2, 3, 4, 5):
        _save(tmp_path, step)
    flipped = bytearray((tmp_path / "step-00000005" / "__0_0.distcp").read_bytes())
    flipped[len(flipped) // 2] ^= 1  # DCP itself loads this without a word
    (tmp_path / "step-00000005" / "__0_0.distcp").write_bytes(flipped)
    (tmp_path / "step-00000004" / "sums.json").unlink()
    (tmp_path / "step-00000003" / ".metadata").unlink()
    (tmp_path / "step-00000009.tmp").mkdir()
    (tmp_path / "step-of-mine").mkdir()
    found = newest(tmp_path, ALONE)
    assert found is not None
    assert found[0].name == "step-00000002"
    said = heard()
    assert [line.split(":")[0][-1] for line in said] == ["5", "4", "3"]
    assert "__0_0.distcp is not what was written" in said[0]
    assert ".metadata is missing" in said[2]


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    assert newest(tmp_path / "absent", ALONE) is None
    (tmp_path / "step-00000001").mkdir()
    assert newest(tmp_path, ALONE) is None


def test_only_the_newest_stay(tmp_path: Path) -> None:
    (tmp_path / "step-00000001.tmp").mkdir()
    for step in (100_000_000, 7, 8, 9):
        _save(tmp_path, step, keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000009", "step-100000000"]
    assert not list(tmp_path.glob("*.tmp"))


def test_those_of_every_so_many_steps_stay_too(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8, 10, 12):
        save(tmp_path, step, _tensors(step), {}, 1, ALONE, keep_every=4)
    assert [path.name[-2:] for path in checkpoints(tmp_path)] == ["04", "08", "12"]


def test_a_full_disk_leaves_the_last_good_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _save(tmp_path, 1)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("torch.distributed.checkpoint.filesystem._write_item", full)
    with pytest.raises(EnvironmentFault, match="step-00000002: the disk is full"):
        _save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_dying_before_the_end_leaves_nothing_under_a_final_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "commit", die)
    with pytest.raises(KeyboardInterrupt):
        _save(tmp_path, 3)
    assert checkpoints(tmp_path) == []
    monkeypatch.undo()
    _save(tmp_path, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]


def test_another_model_does_not_load(tmp_path: Path) -> None:
    path = _save(tmp_path, 1)
    with pytest.raises(InputError, match="does not fit this model"):
        load(path, {"model.a": torch.zeros(300, 41)}, ALONE)
    with pytest.raises(InputError, match=r"does not fit this model .*model.b"):
        load(path, {"model.b": torch.zeros(300, 40)}, ALONE)


def test_names_cover_parameters_buffers_and_optimiser_state() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 2)).sum().backward()
    optimizer.step()
    names = set(tensors_of(model, optimizer))
    assert {"model.0.weight", "model.1.running_var", "optim.0.weight.exp_avg", "optim.1.bias.step"} <= names
    assert len(names) == 7 + 4 * 3
