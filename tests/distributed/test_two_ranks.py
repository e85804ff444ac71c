"""Two real processes against one with the joined batch: loss, gradients, BatchNorm, LARC, codes, resume, divergence."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from seerctl.errors import Saved
from seerctl.model.convert import convert
from seerctl.predictions import read_predictions
from seerctl.train.metrics import Metrics
from seerctl.train.start import train
from seerctl.train.world import World
from tests.distributed import ranks
from tests.training import make_labelled, make_shards, small_recipe

pytestmark = pytest.mark.distributed
REPOSITORY = Path(__file__).resolve().parents[2]
EXACT = ["none", "fairscale", "torch", "node", "resnet", "head_norm", "pad", "queue", "sgd", "supervised"]


def named(*names: str) -> pytest.MarkDecorator:
    """Parametrises over cases, some of which are slow."""
    marks = {True: [pytest.mark.slow], False: []}
    return pytest.mark.parametrize("name", [pytest.param(name, marks=marks[name in ranks.SLOW]) for name in names])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, an uninterrupted run of one process, one stopped after 3 steps, and what two ranks made of it all."""
    root = tmp_path_factory.mktemp("two-ranks")
    shards = make_shards(root)
    labelled = make_labelled(root / "labelled", 36, 4)
    train(
        ranks.LABELLED, labelled, root / "labelled-one", predict=labelled, predictions=root / "one.csv", knn=[labelled]
    )
    train(small_recipe(), shards, root / "one")
    with pytest.raises(Saved):
        train(small_recipe(), shards, root / "one-then-two", progress=ranks.StopAfter(2))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    done = subprocess.run(
        [*command, str(Path(ranks.__file__)), str(root)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return root


@pytest.fixture(scope="module")
def answers(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / "answers.pt", weights_only=True)
    return found


@functools.cache
def _reference(name: str) -> dict[str, Any]:
    return ranks.steps(small_recipe(*ranks.CASES[name]), World())


def _distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Relative difference of all tensors taken as one vector."""
    assert found.keys() == expected.keys()
    a, b = (torch.cat([side[name].double().flatten() for name in expected]) for side in (found, expected))
    return float((a - b).norm() / b.norm())


@named(*EXACT)
def test_one_step_equals_one_process_with_the_joined_batch(answers: dict[str, Any], name: str) -> None:
    expected, found = _reference(name), answers[name]
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    assert found["measured"] == pytest.approx(expected["measured"], abs=1e-6)
    assert _distance(found["gradients"], expected["gradients"]) < 2e-5
    assert torch.allclose(found["norms"], expected["norms"], rtol=1e-3, atol=1e-7)
    statistics = {key: value for key, value in expected["buffers"].items() if "running" in key}
    assert _distance({key: found["buffers"][key] for key in statistics}, statistics) < 1e-5
    tracked = {key: value.item() for key, value in found["buffers"].items() if "tracked" in key}
    # One batch of each kind of crop, counted once under any checkpointing.
    assert set(tracked.values()) == {1 if name == "pad" else 2}
    assert len(tracked) >= 17


@named("chunks_fairscale", "chunks_torch")
def test_chunks_of_sharded_blocks_change_nothing(answers: dict[str, Any], name: str) -> None:
    found, plain = answers[name], answers["nano"]
    assert found["loss"] == plain["loss"]
    assert _distance(found["gradients"], plain["gradients"]) < 1e-6
    assert all(torch.allclose(found["buffers"][key], value, atol=1e-7) for key, value in plain["buffers"].items())
    assert _distance(found["parameters"], plain["parameters"]) < 1e-6


@named(*EXACT)
def test_steps_of_the_optimiser_equal_unsharded_ones(answers: dict[str, Any], name: str) -> None:
    assert _distance(answers[name]["parameters"], _reference(name)["parameters"]) < 1e-5


@pytest.mark.slow
def test_adamw_steps_equal_unsharded_ones(answers: dict[str, Any]) -> None:
    # AdamW turns rounding in gradients near zero into whole steps of the learning rate, here 3 x 1e-4.
    assert _distance(answers["adamw"]["parameters"], _reference("adamw")["parameters"]) < 1e-3


@named("bf16", "bf16_groups", "fp16")
def test_half_precisions_point_where_float32_does(answers: dict[str, Any], name: str) -> None:
    expected = _reference("none")
    found, exact = (
        torch.cat([g.double().flatten() for g in side["gradients"].values()]) for side in (answers[name], expected)
    )
    assert torch.nn.functional.cosine_similarity(found, exact, dim=0) > 0.9
    assert answers[name]["loss"] == pytest.approx(expected["loss"], rel=1e-2)
    assert not torch.equal(found, exact)
    assert all(value.dtype == torch.float32 for value in answers[name]["buffers"].values() if value.is_floating_point())


def test_codes_of_two_halves_are_those_of_the_whole(answers: dict[str, Any]) -> None:
    assert torch.allclose(answers["codes"], ranks.codes(World()), atol=1e-6)


def _losses(run: Path) -> list[float]:
    rows = Metrics(run / "metrics.jsonl").rows()
    assert [row["step"] for row in rows] == list(range(1, 9))
    return [row["loss"] for row in rows]


def test_one_rank_goes_on_where_two_stopped(folder: Path, tmp_path: Path) -> None:
    run = shutil.copytree(folder / "two-then-one", tmp_path / "run")
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000003"]
    assert not (run / "weights.safetensors").exists()
    summary = train(small_recipe(), folder / "shards", run)
    assert (summary.start, summary.steps, summary.images) == (3, 8, 5 * 16)
    assert _losses(run) == pytest.approx(_losses(folder / "one"), abs=1e-4)
    assert (run / "weights.safetensors").is_file()


def test_two_ranks_go_on_where_one_stopped(folder: Path) -> None:
    reports = json.loads((folder / "reports.json").read_text())
    assert [report["resumed"] for report in reports] == ["3", "3"]
    facts = json.loads((folder / "one-then-two" / "run.json").read_text())
    assert facts["checkpointing"]["mode"] == "none"  # what there was no need for on the machine of this test
    assert _losses(folder / "one-then-two") == pytest.approx(_losses(folder / "one"), abs=1e-4)


def test_a_checkpoint_of_two_ranks_becomes_one_file(folder: Path, tmp_path: Path) -> None:
    run = folder / "one-then-two"
    done = convert(run / "checkpoints" / "step-00000008", tmp_path / "out.safetensors")
    assert len(list((run / "checkpoints" / "step-00000008").glob("__*_0.distcp"))) == 2
    ours, theirs = load_file(tmp_path / "out.safetensors"), load_file(run / "weights.safetensors")
    assert (done.layout, ours.keys()) == ("seerctl checkpoint", theirs.keys())
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())


def test_two_ranks_learn_and_predict_what_one_does(folder: Path) -> None:
    one, two = (Metrics(folder / f"labelled-{name}" / "metrics.jsonl").rows() for name in ("one", "two"))
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], abs=1e-5)
    assert [row["top1"] for row in two] == pytest.approx([row["top1"] for row in one])
    assert [row.get("knn_top1") for row in two] == [row.get("knn_top1") for row in one]
    assert (one[-1]["knn_top1"] >= 0, one[-1]["knn_queries"]) == (True, 7)
    single, joined = (read_predictions(folder / f"{name}.csv", ranked=True) for name in ("one", "two"))
    assert joined.keys.tolist() == single.keys.tolist()  # 36 rows: 3 batches of 16, or 5 of 8
    assert (joined.label == single.label).all()
    assert joined.top_scores == pytest.approx(single.top_scores, abs=1e-4)


def test_online_knn_leaves_each_ranks_statistics(folder: Path) -> None:
    assert [report["kept_statistics"] for report in json.loads((folder / "reports.json").read_text())] == ["True"] * 2


def test_all_ranks_stop_together(folder: Path) -> None:
    reports = json.loads((folder / "reports.json").read_text())
    assert "stopped by SIGTERM after step 3, a checkpoint is saved" in reports[0]["saved"]
    assert "after step 3" in reports[1]["saved"]


def test_divergence_stops_every_rank_before_the_update(folder: Path) -> None:
    reports = json.loads((folder / "reports.json").read_text())
    assert len({report["diverged"] for report in reports}) == 1
    report = json.loads((folder / "wild" / "diverged.json").read_text())
    assert f"the loss of step {report['step']} is not finite" in reports[0]["diverged"]
    assert len(set(report["keys"])) == 16  # the keys of both ranks
    assert not (folder / "wild" / "weights.safetensors").exists()
