"""Whole runs of one process: what they write, how they stop, go on, and refuse."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seerctl.errors import Diverged, EnvironmentFault, GateFailed, InputError, Saved, UsageError
from seerctl.files import sha256_file
from seerctl.model.load import load_model
from seerctl.model.weights import load_weights
from seerctl.recipe import load_recipe
from seerctl.shards.index import ShardSet
from seerctl.shards.lock import write_lock
from seerctl.train import estimate
from seerctl.train.metrics import Metrics
from seerctl.train.parallel import prepare_model
from seerctl.train.run import RunDirectory, fresh_place
from seerctl.train.signals import STOP_FILE, StopSignals
from seerctl.train.start import images_to_go, train
from seerctl.train.steps import check_batch, total_steps
from seerctl.train.trainer import Trainer
from seerctl.train.world import World
from tests.distributed.ranks import StopAfter
from tests.training import make_shards, small_recipe

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def finished(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    train(small_recipe(), shards, run)
    return run


def _losses(run: Path) -> list[float]:
    rows = Metrics(run / "metrics.jsonl").rows()
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["loss"] for row in rows]


def test_a_run_holds_what_it_promises(finished: Path, shards: Path) -> None:
    assert sorted(path.name for path in finished.iterdir() if path.name[0] != ".") == [
        "checkpoints",
        "metrics.jsonl",
        "recipe.toml",
        "run.json",
        "weights.safetensors",
    ]
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == ["step-00000004", "step-00000008"]
    assert load_recipe(finished / "recipe.toml") == small_recipe()
    index = ShardSet.open(shards).sha256
    assert json.loads((finished / "run.json").read_text())["index_sha256"] == index
    loaded = load_model(str(finished))
    assert loaded.widths == (16, 24, 32, 64)
    assert {key: loaded.metadata[key] for key in ("size", "step", "index_sha256", "crop_size")} == {
        "size": "micro",
        "step": "8",
        "index_sha256": index,
        "crop_size": "32",
    }
    assert "prototypes.weight" in load_weights(finished / "weights.safetensors").head


def test_metrics_say_what_the_contract_says(finished: Path) -> None:
    rows = Metrics(finished / "metrics.jsonl").rows()
    assert set(rows[0]) == {
        "step", "epoch", "loss", "loss_over_ln_k", "prototype_entropy", "feature_std", "gradient_norm", "lr",
        "images_per_second", "images_per_second_per_device", "data_wait", "data_wait_max", "data_wait_rank",
        "step_seconds", "step_seconds_max", "step_seconds_rank", "damaged",
    }  # fmt: skip
    assert [row["epoch"] for row in rows] == [
        0,
        0,
        0,
        1,
        1,
        2,
        2,
        2,
    ]  # of each step's first image: 40 images, 16 a step
    assert all(row["data_wait_max"] == row["data_wait"] and row["data_wait_rank"] == 0 for row in rows)
    assert all(row["step_seconds_max"] > 0 and row["step_seconds_rank"] == 0 for row in rows)
    assert all(0 <= row["data_wait"] <= 1 and row["images_per_second"] > 0 for row in rows)
    assert all(row["loss_over_ln_k"] == pytest.approx(row["loss"] / 3.1780538, rel=1e-6) for row in rows)


def test_stopping_and_going_on_is_bit_equal(finished: Path, shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Saved, match=r"stopped by SIGTERM after step 3, a checkpoint is saved. Start the same command"):
        train(small_recipe(), shards, run, progress=StopAfter(2))
    assert len(_losses(run)) == 3
    assert images_to_go(small_recipe(), shards, run) == 5 * 16
    assert not (run / "weights.safetensors").exists()
    summary = train(small_recipe(), shards, run)
    assert (summary.start, summary.steps) == (3, 8)
    assert _losses(run) == _losses(finished)
    ours, theirs = (load_weights(place / "weights.safetensors") for place in (run, finished))
    assert all(torch.equal(ours.trunk[name], theirs.trunk[name]) for name in theirs.trunk)


def test_a_queue_goes_on_where_it_was(shards: Path, tmp_path: Path) -> None:
    recipe = small_recipe("loss.queue=32", "loss.queue_start=1")
    train(recipe, shards, tmp_path / "whole")
    with pytest.raises(Saved):
        train(recipe, shards, tmp_path / "run", progress=StopAfter(4))
    train(recipe, shards, tmp_path / "run")
    assert _losses(tmp_path / "run") == _losses(tmp_path / "whole")


@pytest.mark.parametrize("codes", ["micro", "batch"])
def test_micro_batches_are_said_to_be_another_objective(
    finished: Path, shards: Path, tmp_path: Path, heard: Callable[[], list[str]], codes: str
) -> None:
    recipe = small_recipe("parallel.accumulate=2", f"parallel.accumulated_codes={codes}", "schedule.steps=2")
    train(recipe, shards, tmp_path / "run")
    row = Metrics(tmp_path / "run" / "metrics.jsonl").rows()[0]
    assert (row["micro_batches"], row["codes"]) == (2, codes)
    assert row["loss"] == pytest.approx(_losses(finished)[0], rel=0.1)
    assert row["loss"] != _losses(finished)[0]
    assert any("2 micro-batches a step are another objective" in line for line in heard())


def test_clipping_bounds_the_step(shards: Path, tmp_path: Path) -> None:
    lengths = {}
    for clip in (0.0, 1e-6):
        recipe = small_recipe("optim.larc=false", "optim.momentum=0.0", "optim.weight_decay=0.0", "schedule.steps=1")
        recipe = dataclasses.replace(recipe, optim=dataclasses.replace(recipe.optim, clip_norm=clip))
        train(recipe, shards, tmp_path / str(clip))
        lengths[clip] = Metrics(tmp_path / str(clip) / "metrics.jsonl").rows()[0]["gradient_norm"]
    before, after = (load_weights(tmp_path / name / "weights.safetensors").trunk for name in ("0.0", "1e-06"))
    start = prepare_model(small_recipe(), World()).trunk.state_dict()
    learnt = [key for key in start if key.endswith(("weight", "bias"))]
    moved = [sum(float((w[key] - start[key]).norm() ** 2) for key in learnt) for w in (before, after)]
    assert lengths[0.0] == lengths[1e-6] > 1e-3  # the norm before clipping
    assert moved[1] < 1e-6 * moved[0]


def test_a_killed_run_goes_on_bit_equal_with_any_number_of_workers(
    finished: Path, shards: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    script = (
        "import signal, sys\nfrom pathlib import Path\nfrom seerctl.train.start import train\n"
        "from tests.distributed.ranks import StopAfter\nfrom tests.training import small_recipe\n"
        "train(small_recipe('data.workers=2'), sys.argv[1], Path(sys.argv[2]), progress=StopAfter(6, signal.SIGKILL))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", script, shards, run], env=environment, check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert _losses(run)[:5] == _losses(finished)[:5]  # two loader processes, or none: the same numbers
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    summary = train(small_recipe("data.workers=2"), shards, run)
    assert summary.start in (0, 4)  # the checkpoint of step 4 may just be on its way
    assert _losses(run) == _losses(finished)


@pytest.mark.parametrize(
    "overrides",
    [
        ("parallel.activation_checkpointing=block",),
        ("parallel.activation_checkpointing=block", "parallel.checkpoint_wrapper=torch"),
        ("parallel.precision=bf16",),
        ("parallel.precision=bf16", "parallel.activation_checkpointing=block"),
        ("optim.name=adamw", "optim.larc=false", "optim.lr=1e-3", "optim.no_decay=['bias', 'norm']"),
        ("schedule.shape=constant", "optim.larc=false", "model.head_batchnorm=true"),
        ("loss.small_crops=pad", "parallel.activation_checkpointing=block"),
        ("loss.hard=1", "loss.power_law=1.0", "optim.clip_norm=0.5"),
        ("augment.mode=device", "data.workers=2"),
    ],
)
def test_options_of_the_recipe_train(finished: Path, shards: Path, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    train(small_recipe(*overrides, "schedule.steps=2"), shards, tmp_path / "run")
    losses = _losses(tmp_path / "run")
    assert load_model(str(tmp_path / "run")).metadata["step"] == "2"
    if overrides[0].startswith("parallel"):  # of these only bf16 changes a number, and that only a little
        assert losses[0] == pytest.approx(_losses(finished)[0], rel=1e-2 if "bf16" in overrides[0] else 1e-6)


def test_a_finished_run_stays_as_it_is(finished: Path, shards: Path) -> None:
    before = _losses(finished)
    summary = train(small_recipe(), shards, finished)
    assert (summary.start, summary.steps, summary.images) == (8, 8, 0)
    assert _losses(finished) == before


def test_another_recipe_or_other_data_is_refused(finished: Path, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"another recipe \(loss.epsilon: 0.05 -> 0.03; run.seed: 0 -> 1\).*--fresh"):
        train(small_recipe("run.seed=1", "loss.epsilon=0.03"), shards, finished)
    other = make_shards(tmp_path, pictures=20)
    with pytest.raises(UsageError, match="holds a run on other data"):
        train(small_recipe(), other, finished)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(UsageError, match="exists already and is not a run"):
        train(small_recipe(), shards, tmp_path / "mine")
    with pytest.raises(UsageError, match="exists already and is not a run"):
        train(small_recipe(), shards, tmp_path / "mine" / "thesis.txt")
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["thesis.txt"]


def test_a_run_goes_on_with_other_values_of_what_no_weight_depends_on(
    finished: Path, shards: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    other = small_recipe("data.workers=3", "checkpoint.keep=5", "run.log_every=2", "watch.knn_k=3")
    assert train(other, shards, run).start == 8
    assert load_recipe(run / "recipe.toml") == other
    with pytest.raises(UsageError, match=r"another recipe \(optim.lr: 0.2 -> 0.3\)"):
        train(small_recipe("data.workers=1", "optim.lr=0.3"), shards, run)
    assert load_recipe(run / "recipe.toml") == other


def test_fresh_places(finished: Path, tmp_path: Path) -> None:
    assert fresh_place(tmp_path / "run") == tmp_path / "run"
    assert fresh_place(finished) == finished.with_name("run-2")
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run-2").touch()
    assert fresh_place(tmp_path / "run") == tmp_path / "run-3"


def test_one_writer_at_a_time(finished: Path, shards: Path) -> None:
    with write_lock(finished), pytest.raises(EnvironmentFault, match="another seerctl is writing here"):
        train(small_recipe(), shards, finished)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_shard_is_named(shards: Path, tmp_path: Path, workers: int) -> None:
    damaged = Path(shutil.copytree(shards, tmp_path / "shards"))
    for shard in damaged.glob("*.tar"):
        shard.write_bytes(shard.read_bytes()[:-4096] + b"\xff" * 4096)
    with pytest.raises(InputError, match=r"\.tar") as caught:
        train(small_recipe(f"data.workers={workers}"), damaged, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_a_sample_that_cannot_be_decoded_is_named(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seerctl.augment.decode import DecodeError

    def fail(_: bytes) -> None:
        raise DecodeError("not an image")

    monkeypatch.setattr("seerctl.train.data.to_rgb", fail)
    with pytest.raises(InputError, match=r"sample [0-9a-f]{16}-[0-9a-f]{8} cannot be decoded \(not an image\)"):
        train(small_recipe(), shards, tmp_path / "run")


@pytest.fixture
def spoilt(shards: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[bytes]]:
    """Let the first N samples of the set be undecodable; the list holds each one that was met."""
    from seerctl.augment import decode

    def spoil(count: int) -> list[bytes]:
        with ShardSet.open(shards) as opened:
            bad = {sample.image for sample in itertools.islice(opened, count)}
        met: list[bytes] = []

        def to_rgb(image: bytes) -> object:
            if image in bad:
                met.append(image)
                raise decode.DecodeError("spoilt")
            return decode.to_rgb(image)

        monkeypatch.setattr("seerctl.train.data.to_rgb", to_rgb)
        return met

    return spoil


def test_damaged_samples_are_replaced_and_counted(
    finished: Path, shards: Path, tmp_path: Path, spoilt: Callable[[int], list[bytes]], heard: Callable[[], list[str]]
) -> None:
    met = spoilt(2)
    train(small_recipe("data.max_damaged=0.5"), shards, tmp_path / "run")
    rows = Metrics(tmp_path / "run" / "metrics.jsonl").rows()
    assert sum(row["damaged"] for row in rows) == len(met) > 4  # two, in three epochs, and one on the other's place
    assert _losses(tmp_path / "run") != _losses(finished)
    told = [line for line in heard() if "cannot be decoded (spoilt): the next one of the set took its place" in line]
    assert len(told) == 5


@pytest.mark.parametrize(("count", "most"), [(1, 0.0), (10, 0.001), (20, 0.2)])
def test_too_many_damaged_samples_stop_the_run(
    shards: Path, tmp_path: Path, spoilt: Callable[[int], list[bytes]], count: int, most: float
) -> None:
    spoilt(count)
    with pytest.raises(InputError, match=r"more images cannot be decoded than data\.max_damaged .* \(spoilt\)|nor can"):
        train(small_recipe(f"data.max_damaged={most}", "data.batch=8"), shards, tmp_path / "run")
    assert not (tmp_path / "run" / "weights.safetensors").exists()


def test_initial_weights_from_a_run(finished: Path, shards: Path, tmp_path: Path) -> None:
    world, data = World(), ShardSet.open(shards)
    trainer = Trainer(small_recipe(), data, RunDirectory(tmp_path / "a"), world, init=finished)
    ours = load_weights(finished / "weights.safetensors")
    assert all(torch.equal(value, ours.trunk[name]) for name, value in trainer.model.trunk.state_dict().items())
    assert all(torch.equal(value, ours.head[name]) for name, value in trainer.model.head.state_dict().items())


def test_initial_weights_with_another_head(
    finished: Path, shards: Path, tmp_path: Path, heard: Callable[[], list[str]]
) -> None:
    recipe = small_recipe("model.prototypes=30")
    trainer = Trainer(recipe, ShardSet.open(shards), RunDirectory(tmp_path / "a"), World(), init=finished)
    ours = load_weights(finished / "weights.safetensors")
    assert torch.equal(trainer.model.trunk.stem[0].weight, ours.trunk["stem.0.weight"])
    assert heard() == [f"{finished}: only the trunk was taken, its head is not this recipe's"]


def test_the_weights_that_a_run_starts_from_are_noted(finished: Path, shards: Path, tmp_path: Path) -> None:
    train(small_recipe(), shards, tmp_path / "run", init=finished)
    wanted = sha256_file(finished / "weights.safetensors")
    start = json.loads((tmp_path / "run" / "run.json").read_text())["init"]
    assert start == {"path": str(finished / "weights.safetensors"), "sha256": wanted}
    assert load_weights(tmp_path / "run" / "weights.safetensors").metadata["init_sha256"] == wanted
    assert "init_sha256" not in load_weights(finished / "weights.safetensors").metadata


def test_initial_weights_of_another_size(finished: Path, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds a RegNet 'micro' \(.*\), but 'nano' \(.*\) is wanted"):
        train(small_recipe("model.size=nano"), shards, tmp_path / "run", init=finished)


def test_divergence_names_step_and_samples(shards: Path, tmp_path: Path) -> None:
    wild = small_recipe("optim.larc=false", "optim.lr=1e30", "schedule.start=1.0", "checkpoint.every=100")
    with pytest.raises(Diverged, match=r"the loss of step \d is not finite; the update was not made"):
        train(wild, shards, tmp_path / "run")
    report = json.loads((tmp_path / "run" / "diverged.json").read_text())
    assert len(set(report["keys"])) == 16
    assert report["step"] == len(_losses(tmp_path / "run")) + 1
    assert not (tmp_path / "run" / "weights.safetensors").exists()


def test_collapse_is_said_once_and_not_at_the_first_sign(
    shards: Path, tmp_path: Path, heard: Callable[[], list[str]]
) -> None:
    trainer = Trainer(small_recipe(), ShardSet.open(shards), RunDirectory(tmp_path / "run"), World())
    row = {"step": 5, "loss_over_ln_k": 1.0, "feature_std": 0.5, "prototype_entropy": 0.5}
    trainer.step = 1
    for _ in range(20):
        trainer._warn_of_collapse(row)  # too early to judge
    trainer.step = 5
    for _ in range(4):
        trainer._warn_of_collapse(row)
    assert heard() == []
    for _ in range(20):
        trainer._warn_of_collapse(row)
    assert len(heard()) == 1
    assert "alike, so nothing is learnt" in heard()[0]


def test_what_cannot_fit_is_refused_before_it_is_built(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "available_bytes", lambda *_: 50 << 30)
    with pytest.raises(GateFailed, match=r"'10b' \(9.63 billion parameters\) needs 1\d\d\.\d\d GiB.* and 50.00 GiB"):
        train(load_recipe("10b"), shards, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_estimates() -> None:
    alone = estimate.estimate(load_recipe("10b"), 1, 1)
    assert alone.trunk + alone.head == 9_628_923_288
    assert alone.gradients == alone.optimizer == 4 * 9_628_923_288
    assert alone.crops == 7936 * 3 * (2 * 160**2 + 4 * 96**2) * 4
    spread = estimate.estimate(load_recipe("10b"), 62, 8)
    assert 0.072 < spread.gradients / 2**30 < 0.080  # 0.075 GiB traced under FSDP2, padding included
    inside = estimate.estimate(load_recipe("10b", ["parallel.shard=node"]), 62, 8)
    assert inside.gradients == pytest.approx(4 * 9_628_923_288 / 8, rel=0.01)
    adam = estimate.estimate(small_recipe("optim.name=adamw", "optim.larc=false"), 1, 1)
    assert adam.optimizer == 2 * adam.gradients
    assert 0 < estimate.available_bytes(torch.device("cpu"), 2) < 1 << 50


def test_steps_and_batches() -> None:
    recipe = small_recipe("schedule.epochs=2", "schedule.steps=0")
    assert total_steps(recipe, 100) == 12
    assert total_steps(recipe, 5) == 1
    assert total_steps(small_recipe("schedule.steps=7"), 100) == 7
    check_batch(256, 4)
    with pytest.raises(UsageError, match=r"256 does not divide over 3 ranks. Use 2 or 4 ranks, or .*data.batch=255"):
        check_batch(256, 3)
    with pytest.raises(UsageError, match="Use 4 or 4 ranks"):
        check_batch(4, 9)


@pytest.fixture
def handlers() -> Callable[[], list[object]]:
    names = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
    return lambda: [signal.getsignal(name) for name in names]


def test_signals_become_reasons(handlers: Callable[[], list[object]]) -> None:
    before = handlers()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        with StopSignals() as signals:
            assert signals.reason is None
            os.kill(os.getpid(), number)
            assert signals.reason == number.name
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert handlers() == before


def test_a_stop_file_becomes_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STOP_FILE, str(tmp_path / "stop"))
    with StopSignals() as signals:
        assert signals.reason is None
        (tmp_path / "stop").write_text("SIGTERM")
        assert signals.reason == "SIGTERM"


def test_a_run_that_was_killed_before_it_had_its_recipe_can_begin(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    (run / "recipe.toml.tmp").write_text("descr")
    assert train(small_recipe("schedule.steps=1"), shards, run).steps == 1
    assert (run / "recipe.toml").is_file()
