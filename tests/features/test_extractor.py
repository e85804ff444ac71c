"""Extraction of generated pictures by a tiny random trunk: the numbers, the order, kills, ranks, and bad input."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result

from seerctl.augment.corruptions import Corruption
from seerctl.errors import EnvironmentFault, InputError, Saved, UsageError
from seerctl.features import batches
from seerctl.features.batches import Batches, by_processes, by_threads
from seerctl.features.encoder import make_encoder
from seerctl.features.extractor import Extracted, Options, encoded_on_device, extract
from seerctl.features.layers import Layer
from seerctl.features.layout import Header
from seerctl.features.models import load_frozen
from seerctl.features.pixels import View
from seerctl.features.plan import Target, make_job
from seerctl.features.ranks import Ranks
from seerctl.features.store import FeatureFile
from seerctl.features.writer import FeatureWriter, finish, part_of, sidecar
from seerctl.model.load import load_model
from seerctl.model.trunk import build_trunk
from seerctl.model.weights import save_weights
from seerctl.shards.index import ShardSet
from seerctl.train.signals import STOP_FILE
from tests.extraction import BATCH, COUNT, TINY, run
from tests.feature_files import meta_of, picture_shards, shards_of, stream_of


def rows(path: Path) -> np.ndarray:
    with FeatureFile.open(path) as file:
        return file.features()


def test_numbers_and_order(data: Path, weights: Path, reference: Path) -> None:
    trunk, shards = load_model(str(weights)).trunk, ShardSet.open(data)
    with FeatureFile.open(reference) as file:
        assert file.shape == (COUNT, 32)
        assert [key.decode() for key in file.keys] == [sample.key for sample in shards]
        assert file.columns["label"].texts() == [sample.meta["columns"]["label"] for sample in shards]
        assert file.columns["rare"].texts() == [sample.meta["columns"].get("rare", "") for sample in shards]
        assert file.header.index_sha256 == shards.sha256
        assert "centre crop 32" in file.header.preprocess  # the size it was trained at
        features = file.features()
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    for position in (0, 119, 120, 299):
        pixels = torch.tensor(View.of(32)(shards.read(position).image))
        with torch.no_grad():
            alone = trunk(((pixels / 255 - mean) / deviation).permute(2, 0, 1)[None])[0]
        np.testing.assert_allclose(features[position], alone.numpy(), rtol=1e-4, atol=1e-5)


def test_layers(data: Path, weights: Path, reference: Path, tmp_path: Path) -> None:
    layers = ("res2", "res4", "res5", "avgpool", "head")
    run(data, weights, tmp_path / "out", layers=layers)
    found = {name: rows(tmp_path / "out" / f"{name}.h5") for name in layers}
    assert {name: array.shape[1] for name, array in found.items()} == {
        "res2": 8, "res4": 24, "res5": 32, "avgpool": 32, "head": 12,
    }  # fmt: skip
    np.testing.assert_array_equal(found["avgpool"], rows(reference))
    np.testing.assert_allclose(found["res5"], found["avgpool"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found["head"], axis=1), 1.0, rtol=1e-5)
    assert np.ptp(found["head"], axis=0).max() > 0
    # a layer that is done is kept when a run of several is repeated after a kill
    (tmp_path / "out" / "res4.h5").unlink()
    before = (tmp_path / "out" / "res2.h5").stat().st_mtime_ns
    run(data, weights, tmp_path / "out", layers=layers)
    np.testing.assert_array_equal(rows(tmp_path / "out" / "res4.h5"), found["res4"])
    assert (tmp_path / "out" / "res2.h5").stat().st_mtime_ns == before


def test_poolings(data: Path, weights: Path, tmp_path: Path) -> None:
    layers = ("res4:regions3", "res4:rmac", "res5:2x1", "res4:gem4", "res5", "res5:max")
    done = run(data, weights, tmp_path / "out", layers=layers)
    assert done is not None
    assert {name: path.name for name, path in done.files.items()} == {
        "res4:regions3": "res4-regions3.h5", "res4:rmac3": "res4-rmac3.h5", "res5:2x1": "res5-2x1.h5",
        "res4:gem4": "res4-gem4.h5", "res5": "res5.h5", "res5:max": "res5-max.h5",
    }  # fmt: skip
    with FeatureFile.open(done.files["res4:regions3"]) as file:
        assert (file.header.layer, file.header.regions, file.shape) == ("res4:regions3", 14, (COUNT, 14 * 24))
        regions = file.features().reshape(COUNT, 14, 24)
    np.testing.assert_allclose(np.linalg.norm(regions, axis=2), 1, rtol=1e-5)
    summed = regions.sum(1)
    found = {name: rows(path) for name, path in done.files.items()}
    np.testing.assert_allclose(
        found["res4:rmac3"], summed / np.linalg.norm(summed, axis=1, keepdims=True), rtol=1e-4, atol=1e-6
    )
    # of the single place that res5 has here, mean, maximum and the middle of both halves are all the same
    np.testing.assert_allclose(found["res5:2x1"].reshape(COUNT, 32, 2)[:, :, 0], found["res5"], rtol=1e-5)
    np.testing.assert_array_equal(found["res5:max"], found["res5"])
    assert found["res4:gem4"].shape == (COUNT, 24)
    with pytest.raises(UsageError, match="head is a vector, there is nothing to pool"):
        run(data, weights, tmp_path / "f.h5", layers=("head:max",))


def test_half_precision_is_close(data: Path, weights: Path, reference: Path, tmp_path: Path) -> None:
    run(data, weights, tmp_path / "b.h5", precision="bfloat16", dtype="float16")
    with FeatureFile.open(tmp_path / "b.h5") as file:
        assert file.dtype == "float16"
        one, other = file.features(), rows(reference)
    assert not np.array_equal(one, other)
    cosine = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert cosine.min() > 0.995


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(workers: int, data: Path, weights: Path, reference: Path, tmp_path: Path) -> None:
    run(data, weights, tmp_path / "w.h5", workers=workers)
    assert (tmp_path / "w.h5").read_bytes() == reference.read_bytes()


class Killed(Exception):
    """Stands for a kill in the middle of an extraction."""


def test_interrupted_and_resumed(data: Path, weights: Path, reference: Path, tmp_path: Path) -> None:
    def stop(amount: int) -> None:
        stop.seen += amount  # type: ignore[attr-defined]
        if stop.seen >= 280:  # type: ignore[attr-defined]
            raise Killed

    stop.seen = 0  # type: ignore[attr-defined]
    options = Options(device="cpu", batch=BATCH, workers=2)
    with pytest.raises(Killed):
        extract(str(weights), str(data), tmp_path / "f.h5", options, stop)
    assert not (tmp_path / "f.h5").exists()
    assert run(data, weights, tmp_path / "f.h5") == Extracted({"avgpool": tmp_path / "f.h5"}, COUNT, 256)
    assert (tmp_path / "f.h5").read_bytes() == reference.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["f.h5"]


SLOW = """
import sys, time
from seerctl.features import pixels
view = pixels.View.__call__
pixels.View.__call__ = lambda self, data: (time.sleep(0.02), view(self, data))[1]
from seerctl.cli import main
main()
"""


def test_killed_by_sigkill(data: Path, weights: Path, reference: Path, tmp_path: Path) -> None:
    output = tmp_path / "f.h5"
    arguments = ["extract", "--model", weights, "--data", data, "-o", output, "--device", "cpu", "--batch", BATCH]
    words = [*map(str, arguments), "--workers", "1"]
    process = subprocess.Popen([sys.executable, "-c", SLOW, *words], stderr=subprocess.PIPE)
    side = sidecar(part_of(output))
    while process.poll() is None and not (side.exists() and side.stat().st_size):
        time.sleep(0.01)
    time.sleep(0.3)  # the rows follow their lines; the rest of them takes three times as long
    assert process.poll() is None, "it ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not output.exists()
    again = subprocess.run([sys.executable, "-m", "seerctl", *words], check=True, capture_output=True, text=True)
    assert "256 from before" in again.stderr
    assert output.read_bytes() == reference.read_bytes()


@pytest.mark.distributed
def test_two_processes(
    seerctl: Callable[..., Result], data: Path, weights: Path, reference: Path, tmp_path: Path
) -> None:
    output = tmp_path / "f.h5"
    done = seerctl("extract", "--model", weights, "--data", data, "--device", "cpu", "--batch", BATCH, "--workers", 1,
                   "-o", output, "--gpus-per-node", 2)  # fmt: skip
    assert done.exit_code == 0, done.output
    np.testing.assert_array_equal(rows(output), rows(reference))
    with FeatureFile.open(output) as one, FeatureFile.open(reference) as other:
        assert one.columns["label"].texts() == other.columns["label"].texts()
        np.testing.assert_array_equal(one.keys, other.keys)
    assert [path.name for path in tmp_path.iterdir()] == ["f.h5"]


def test_asked_to_stop_and_resumed(
    data: Path, weights: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = tmp_path / "stop"
    monkeypatch.setenv(STOP_FILE, str(request))

    def ask(_: int) -> None:
        request.write_text("SIGUSR2")

    options = Options(device="cpu", batch=256, workers=1)
    with pytest.raises(Saved, match="stopped by SIGUSR2"):
        extract(str(weights), str(data), tmp_path / "f.h5", options, ask)
    request.unlink()
    done = run(data, weights, tmp_path / "f.h5", batch=256)
    assert done is not None
    assert done.resumed == 256
    np.testing.assert_allclose(rows(tmp_path / "f.h5"), rows(reference), rtol=1e-4, atol=1e-6)


def test_parts_of_other_extractions_are_not_joined(tmp_path: Path) -> None:
    path, header = tmp_path / "f.h5", Header("m", "a" * 64, "c" * 64, "avgpool", "p")
    parts = [part_of(path, rank, 2) for rank in range(2)]
    for part, weights in zip(parts, ("a" * 64, "b" * 64), strict=True):
        writer = FeatureWriter(part, replace(header, weights_sha256=weights), rows=3, dim=2)
        writer.append(np.zeros((3, 2), np.float32), ["key"] * 3, [{}] * 3)
        writer.close()
    with pytest.raises(InputError, match=r"r00001-of-00002.part: of another extraction \(its weights_sha256"):
        finish(path, parts, header, 6)
    assert not path.exists()


def test_a_rank_with_other_weights_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(found: list[object], mine: object) -> None:
        found[:] = [mine, mine, ("node-b", {"weights": "0" * 64, "index": "1" * 64})]

    monkeypatch.setattr("seerctl.features.ranks.dist.all_gather_object", gather)
    with pytest.raises(EnvironmentFault, match=r"rank 2 on node-b has weights 0000000000000000, rank 0 on .* ffffffff"):
        Ranks(0, 3).agree({"weights": "f" * 64, "index": "1" * 64})
    Ranks(0, 1).agree({"weights": ""})


def test_shares_of_ranks_cover_the_batches_once() -> None:
    for world in (1, 2, 3, 7):
        for total in (1, 2, 6, 100):
            shares = [Ranks(rank, world).share(total) for rank in range(world)]
            assert [batch for share in shares for batch in share] == list(range(total))


def test_rank_from_a_broken_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(EnvironmentFault, match="whole numbers"):
        Ranks.from_environment()


# --------------------------------------------------------------------------------------------------- corrupted pictures


def test_corrupted_views(data: Path, weights: Path, reference: Path, tmp_path: Path) -> None:
    run(data, weights, tmp_path / "one.h5", corrupt=("shot_noise:3",))
    done = run(data, weights, tmp_path / "out", corrupt=("noise:3", "fog:1"), layers=("res4", "avgpool"), workers=1)
    assert done is not None
    assert sorted(done.files) == sorted(
        f"{view}/{layer}"
        for view in ("gaussian_noise-3", "shot_noise-3", "impulse_noise-3", "speckle_noise-3", "fog-1")
        for layer in ("res4", "avgpool")
    )
    trunk, shards = load_model(str(weights)).trunk, ShardSet.open(data)
    with FeatureFile.open(tmp_path / "one.h5") as file, FeatureFile.open(reference) as clean:
        assert file.header.corruption == "shot_noise:3"
        assert "; corruption shot_noise:3 (corruptions-1, seed 0); ImageNet" in file.header.preprocess
        assert file.header.clean_preprocess == clean.header.preprocess
        assert set(file.columns["corruption"].texts()) == {"shot_noise:3"}
        assert file.columns["label"].texts() == clean.columns["label"].texts()
        np.testing.assert_array_equal(file.keys, clean.keys)
        features = file.features()
    assert not np.isclose(features, rows(reference), rtol=1e-3).all(axis=1).any()
    np.testing.assert_array_equal(features, rows(done.files["shot_noise-3/avgpool"]))  # one worker, several views
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    for position in (0, 250):
        one = shards.read(position)
        pixels = torch.tensor(Corruption("shot_noise", 3)(View.of(32)(one.image), one.key))
        with torch.no_grad():
            alone = trunk(((pixels / 255 - mean) / deviation).permute(2, 0, 1)[None])[0]
        np.testing.assert_allclose(features[position], alone.numpy(), rtol=1e-4, atol=1e-5)


def test_corruptions_resume_and_differ_by_seed(data: Path, weights: Path, tmp_path: Path) -> None:
    corrupt = ("impulse_noise:2", "contrast:2")
    whole = run(data, weights, tmp_path / "out", corrupt=corrupt)
    assert whole == Extracted(
        {f"{n}-2": tmp_path / "out" / f"{n}-2.h5" for n in ("impulse_noise", "contrast")}, COUNT, 0
    )
    before = rows(tmp_path / "out" / "contrast-2.h5")
    (tmp_path / "out" / "contrast-2.h5").unlink()
    again = run(data, weights, tmp_path / "out", corrupt=corrupt)
    assert again is not None
    assert again.resumed == COUNT
    np.testing.assert_array_equal(rows(tmp_path / "out" / "contrast-2.h5"), before)
    with pytest.raises(UsageError, match="exists already"):
        run(data, weights, tmp_path / "out", corrupt=corrupt)
    run(data, weights, tmp_path / "other", corrupt=corrupt, corrupt_seed=9)
    np.testing.assert_array_equal(rows(tmp_path / "other" / "contrast-2.h5"), before)
    assert not np.array_equal(
        rows(tmp_path / "other" / "impulse_noise-2.h5"), rows(tmp_path / "out" / "impulse_noise-2.h5")
    )


def test_worker_processes_corrupt_alike(data: Path) -> None:
    clean, made = (
        Batches(ShardSet.open(data), View.of(32), 64, views) for views in ((None,), (None, Corruption("frost", 2)))
    )
    for batch, number in zip(by_processes(made, range(2), 2, pin=False), range(2), strict=True):
        for groups, here in zip(batch.views, made(number).views, strict=True):
            assert torch.equal(groups[0].pixels, here[0].pixels)
        assert torch.equal(batch.views[0][0].pixels, clean(number).pixels)
        assert not torch.equal(batch.views[0][0].pixels, batch.views[1][0].pixels)
        assert batch.columns == made(number).columns


def test_unknown_corruption(data: Path, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'frost'"):
        run(data, weights, tmp_path / "f.h5", corrupt=("forst:2",))
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------------------------------------------- reading batches


@pytest.mark.parametrize("shared", [True, False])
def test_processes_give_the_same_batches(data: Path, shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_shared_memory_holds", lambda _: shared)
    made = Batches(ShardSet.open(data), View.of(32), 64)
    assert len(made) == 5
    for batch, number in zip(by_processes(made, range(1, 5), 2, pin=False), range(1, 5), strict=True):
        here = made(number)
        assert torch.equal(batch.pixels, here.pixels)
        assert batch.pixels.is_contiguous(memory_format=torch.channels_last)
        assert (batch.keys, batch.columns) == (here.keys, here.columns)


def test_threads_keep_the_order_and_give_threads_back() -> None:
    before = torch.get_num_threads()
    assert list(by_threads(lambda n: (time.sleep(0.01 * (n % 3)), n)[1], range(20), 3)) == list(range(20))
    assert torch.get_num_threads() == before


def test_the_way_of_a_gpu_gives_the_same_rows(data: Path, weights: Path, reference: Path) -> None:
    """Worker processes decode, the device encodes one batch ahead of the writer; here the device is the CPU."""
    options = Options(device="cpu", batch=BATCH)
    with ShardSet.open(data) as shards:
        cpu, target = torch.device("cpu"), Target("avgpool", reference.with_name("other.h5"), Layer("avgpool"), None)
        frozen = load_frozen(str(weights))
        encoder = make_encoder(frozen.network, frozen.view, [target.layer], "float32", cpu, str(weights))
        job = make_job(str(weights), frozen, encoder, shards, [target], options, cpu, Ranks())
        batches = by_processes(Batches(shards, encoder.view, BATCH), range(8), 1, pin=False)
        found = list(encoded_on_device(job, [[target]], batches))
    assert [len(batch.keys) for _, batch in found] == [40] * 7 + [20]
    features = torch.cat([features[target] for features, _ in found]).numpy()
    np.testing.assert_allclose(features, rows(reference), rtol=1e-4, atol=1e-5)


def broken_shards(where: Path) -> Path:
    fine = picture_shards(where / "fine", 4)
    samples = [(sample.image, sample.meta) for sample in ShardSet.open(fine)]
    samples.insert(2, (b"\xff\xd8\xff not a jpeg", meta_of(b"\xff\xd8\xff not a jpeg", "bad.jpg")))
    shards_of(where / "broken", stream_of(samples))
    return where / "broken"


def test_an_image_that_cannot_be_decoded(weights: Path, tmp_path: Path) -> None:
    shards = broken_shards(tmp_path)
    with pytest.raises(InputError, match=r"sample [0-9a-f-]{25}\.jpg cannot be decoded .* --check decode"):
        run(shards, weights, tmp_path / "f.h5")
    made = Batches(ShardSet.open(shards), View.of(32), 2)
    with pytest.raises(InputError, match="cannot be decoded") as caught:
        list(by_processes(made, range(3), 1, pin=False))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "f.h5").exists()


def test_a_damaged_shard(data: Path, weights: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(data, tmp_path / "shards"))
    tar = sorted(copy.glob("*.tar"))[0]
    tar.write_bytes(tar.read_bytes()[:-5000])
    with pytest.raises(InputError, match=tar.name):
        run(copy, weights, tmp_path / "f.h5")


# ------------------------------------------------------------------------------------------------------------ refusals


def test_existing_output(data: Path, weights: Path, reference: Path, tmp_path: Path) -> None:
    target = tmp_path / "f.h5"
    target.write_text("mine")
    with pytest.raises(UsageError, match=r"exists already.*--overwrite"):
        run(data, weights, target)
    assert target.read_text() == "mine"
    with pytest.raises(UsageError, match="a directory"):
        run(data, weights, tmp_path)
    run(data, weights, target, overwrite=True)
    assert target.read_bytes() == reference.read_bytes()


def test_a_part_of_another_size_is_refused_then_dropped(data: Path, weights: Path, tmp_path: Path) -> None:
    stopped = {"seen": 0}

    def stop(amount: int) -> None:
        stopped["seen"] += amount
        if stopped["seen"] >= 280:
            raise Killed

    with pytest.raises(Killed):
        extract(str(weights), str(data), tmp_path / "f.h5", Options(device="cpu", batch=BATCH, size=48), stop)
    with pytest.raises(UsageError, match=r"its preprocess is .*centre crop 48"):
        run(data, weights, tmp_path / "f.h5")
    done = run(data, weights, tmp_path / "f.h5", overwrite=True)
    assert done is not None
    assert done.resumed == 0


def test_unknown_layer_and_missing_head(data: Path, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no layer 'res6'"):
        run(data, weights, tmp_path / "f.h5", layers=("res6",))
    bare = tmp_path / "weights.safetensors"
    save_weights(bare, {f"trunk.{name}": t for name, t in build_trunk(TINY).state_dict().items()}, {})
    for spec in (bare, Path("torchvision:regnet_y_400mf")):
        with pytest.raises(UsageError, match="no layer 'head'"):
            run(data, spec, tmp_path / "f.h5", layers=("head",))


def test_non_finite_features(data: Path, tmp_path: Path) -> None:
    state = {f"trunk.{name}": tensor for name, tensor in build_trunk(TINY).state_dict().items()}
    state["trunk.stem.0.weight"] = torch.full_like(state["trunk.stem.0.weight"], float("nan"))
    save_weights(tmp_path / "weights.safetensors", state, {})
    with pytest.raises(InputError, match="non-finite features of avgpool, first for sample"):
        run(data, tmp_path / "weights.safetensors", tmp_path / "f.h5", size=32)


def test_no_such_things(data: Path, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such"):
        run(tmp_path / "nowhere", weights, tmp_path / "f.h5")
    with pytest.raises(InputError, match="no such"):
        run(data, tmp_path / "none.safetensors", tmp_path / "f.h5")
    with pytest.raises(UsageError, match="no such device"):
        run(data, weights, tmp_path / "f.h5", device="gpu7")
    assert not list(tmp_path.iterdir())
