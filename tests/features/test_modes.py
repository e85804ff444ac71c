"""Whole pictures, mirror images, several views and layers at once, and other formats than HDF5."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet

from seerctl.augment.decode import to_rgb
from seerctl.errors import InputError, UsageError
from seerctl.features import encoder as encoder_module
from seerctl.features.batches import Batches, by_processes
from seerctl.features.export import convert_features, exported_attributes
from seerctl.features.extractor import Extracted, Options, extract
from seerctl.features.layers import Layer, rmac_regions
from seerctl.features.pixels import View, parse_resize
from seerctl.features.pooling import pool
from seerctl.features.store import FeatureFile
from seerctl.model.load import load_model
from seerctl.shards.index import ShardSet
from tests.extraction import BATCH, COUNT, run
from tests.feature_files import write_features


def rows(path: Path) -> NDArray[np.float32]:
    with FeatureFile.open(path) as file:
        return file.features()


def normalised(pixels: NDArray[np.uint8]) -> torch.Tensor:
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return ((torch.tensor(pixels) / 255 - mean) / deviation).permute(2, 0, 1)[None]


# ------------------------------------------------------------------------------------------------------- whole pictures


def test_whole_pictures_keep_their_aspect(data: Path) -> None:
    view = View(96, 0)
    for sample in list(ShardSet.open(data))[:15]:
        picture = Image.fromarray(to_rgb(sample.image))
        scale = 96 / max(picture.size)
        wanted = (round(picture.width * scale), round(picture.height * scale))
        reference = picture.resize(wanted, Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(view(sample.image), np.asarray(reference))
    assert view.steps() == "pixels rgb-1; long side 96 bicubic; ImageNet mean and deviation"


def test_a_sliver_of_a_picture_keeps_a_pixel(tmp_path: Path) -> None:
    Image.new("RGB", (2000, 3), "red").save(tmp_path / "sliver.png")
    assert View(128, 0)((tmp_path / "sliver.png").read_bytes()).shape == (1, 128, 3)


@pytest.mark.parametrize("text", ["1024", "long", "long=", "long=8", "short=256", "long=1e3", "long=999999"])
def test_no_such_resize(text: str) -> None:
    with pytest.raises(UsageError, match="--resize long=1024"):
        parse_resize(text)


def test_features_of_whole_pictures(data: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = ("res4:rmac", "res4:regions3", "avgpool")
    done = run(data, weights, tmp_path / "out", layers=layers, resize="long=96", batch=16)
    assert done is not None
    found = {name: rows(path) for name, path in done.files.items()}
    trunk, shards = load_model(str(weights)).trunk, ShardSet.open(data)
    for position in (0, 1, 7, 298):
        with torch.no_grad():
            maps = trunk.features(normalised(View(96, 0)(shards.read(position).image)), ("res4", "avgpool"))
        for name in ("res4:rmac3", "avgpool"):
            alone = pool(maps[name.split(":")[0]], Layer.parse(name), square=False)[0]
            np.testing.assert_allclose(found[name][position], alone.numpy(), rtol=1e-4, atol=1e-5)
        regions = found["res4:regions3"][position].reshape(50, -1)
        count = len(rmac_regions(*maps["res4"].shape[2:], 3))
        np.testing.assert_allclose(np.linalg.norm(regions, axis=1), [1] * count + [0] * (50 - count), atol=1e-5)
    with FeatureFile.open(done.files["res4:regions3"]) as file:
        assert file.header.regions == 50
        assert "long side 96" in file.header.preprocess
        assert [key.decode() for key in file.keys] == [sample.key for sample in shards]
    # fewer pictures in a pass, the same features
    monkeypatch.setattr(encoder_module, "PASS_PIXELS", 2 * 96 * 96)
    run(data, weights, tmp_path / "few.h5", resize="long=96", batch=16)
    np.testing.assert_allclose(rows(tmp_path / "few.h5"), found["avgpool"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("share", [True, False])
def test_worker_processes_hand_over_several_shapes(data: Path, share: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seerctl.features.batches._shared_memory_holds", lambda _: share)
    made = Batches(ShardSet.open(data), View(64, 0), 40)
    for batch, number in zip(by_processes(made, range(2), 2, pin=False), range(2), strict=True):
        here = made(number)
        assert len(here.views[0]) > 1
        assert sorted(row for group in batch.views[0] for row in group.rows) == list(range(40))
        for group, ours in zip(batch.views[0], here.views[0], strict=True):
            assert torch.equal(group.pixels, ours.pixels)
            assert group.rows == ours.rows


def test_resize_excludes_the_crop(data: Path, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--size and --crop"):
        run(data, weights, tmp_path / "f.h5", resize="long=64", size=64)


# -------------------------------------------------------------------------------------------------------- mirror images


def test_mirror_images(data: Path, weights: Path, tmp_path: Path) -> None:
    layers = ("res3:1x2", "avgpool")
    both = run(data, weights, tmp_path / "tta", layers=layers, tta=True)
    plain = run(data, weights, tmp_path / "plain", layers=layers)
    assert both is not None
    assert plain is not None
    with FeatureFile.open(both.files["avgpool"]) as file:
        assert "; mean with mirror image; ImageNet" in file.header.preprocess
    trunk, shards = load_model(str(weights)).trunk, ShardSet.open(data)
    for position in (0, 200):
        pixels = View.of(32)(shards.read(position).image)
        with torch.no_grad():
            straight, turned = (
                trunk.features(normalised(np.ascontiguousarray(image)), ("res3", "avgpool"))
                for image in (pixels, pixels[:, ::-1])
            )
        mean = (straight["avgpool"] + turned["avgpool"])[0] / 2
        np.testing.assert_allclose(rows(both.files["avgpool"])[position], mean.numpy(), rtol=1e-4, atol=1e-5)
        halves = (straight["res3"] + turned["res3"].flip(-1))[0].numpy() / 2
        expected = np.stack([halves[..., :2].mean((1, 2)), halves[..., 2:].mean((1, 2))], 1).reshape(-1)
        np.testing.assert_allclose(rows(both.files["res3:1x2"])[position], expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(rows(both.files["avgpool"]), rows(plain.files["avgpool"]))


# -------------------------------------------------------------------------------------------- kill and resume, together


class Killed(Exception):
    """Stands for a kill in the middle of an extraction."""


def test_everything_at_once_resumes_to_the_same_bytes(data: Path, weights: Path, tmp_path: Path) -> None:
    settings = {
        "layers": ("res4:regions2", "res5:2x1", "head"), "tta": True, "device": "cpu", "batch": BATCH, "workers": 2,
        "corrupt": ("fog:3", "pixelate:1", "shot_noise:2"),
    }  # fmt: skip

    def extraction(where: str, stop_at: int | None = None) -> Extracted | None:
        seen = {"rows": 0}

        def progress(amount: int) -> None:
            seen["rows"] += amount
            if stop_at is not None and seen["rows"] >= stop_at:
                raise Killed

        return extract(str(weights), str(data), tmp_path / where, Options(**settings), progress)  # type: ignore[arg-type]

    whole = extraction("whole")
    assert whole is not None
    assert len(whole.files) == 9
    with pytest.raises(Killed):
        extraction("cut", stop_at=3 * 280)
    # one view lost its rows: it starts over in a pass of its own, the others go on
    for left in (tmp_path / "cut" / "fog-3").glob("head.h5.part*"):
        left.unlink()
    done = extraction("cut")
    assert done is not None
    assert done.resumed == 2 * 256
    for name, path in whole.files.items():
        assert done.files[name].read_bytes() == path.read_bytes(), name
    assert not list((tmp_path / "cut").rglob("*.part*"))


def test_a_picture_is_decoded_once_for_all_corruptions(
    data: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []
    view = View.__call__
    monkeypatch.setattr(View, "__call__", lambda self, image: (decoded.append(image), view(self, image))[1])
    run(data, weights, tmp_path / "out", corrupt=("noise:1", "contrast:1"))
    assert len(decoded) == COUNT
    assert len(list((tmp_path / "out").iterdir())) == 5


# -------------------------------------------------------------------------------------------------------- other formats


def test_npz_and_parquet_hold_what_hdf5_holds(data: Path, weights: Path, reference: Path, tmp_path: Path) -> None:
    for name in ("f.npz", "f.parquet"):
        done = run(data, weights, tmp_path / name)
        assert done == Extracted({"avgpool": tmp_path / name}, COUNT, 0)
        assert [path.name for path in tmp_path.iterdir() if path.name != "f.npz"] in ([], ["f.parquet"])
    with FeatureFile.open(reference) as file:
        features, keys, columns, header = (
            file.features(),
            [key.decode() for key in file.keys],
            file.columns,
            file.header,
        )
    arrays = np.load(tmp_path / "f.npz", allow_pickle=False)
    np.testing.assert_array_equal(arrays["features"], features)
    assert [key.decode() for key in arrays["keys"]] == keys
    np.testing.assert_array_equal(arrays["columns/number"], columns["number"].values)
    names = [*arrays["categories/rare"].tolist(), ""]
    assert [names[code] for code in arrays["columns/rare"]] == columns["rare"].texts()
    frame = pandas.read_parquet(tmp_path / "f.parquet")
    np.testing.assert_array_equal(np.stack(frame["features"].to_list()), features)
    assert frame["key"].tolist() == keys
    assert frame["label"].tolist() == columns["label"].texts()
    assert frame["rare"].isna().sum() == columns["rare"].missing.sum() > 0
    assert frame["number"].tolist() == columns["number"].values.tolist()
    for path in (tmp_path / "f.npz", tmp_path / "f.parquet"):
        told = exported_attributes(path)
        assert (told["rows"], told["dtype"], told["layer"]) == (COUNT, "float32", "avgpool")
        assert json.loads(told["lineage"]) == header.lineage
        assert told["weights_sha256"] == header.weights_sha256
    assert parquet.read_schema(tmp_path / "f.parquet").field("features").type.list_size == 32


def test_exports_resume_are_kept_and_repeat_to_the_byte(data: Path, weights: Path, tmp_path: Path) -> None:
    layers = ("res4", "res5")
    options = {"layers": layers, "format": "npz"}
    done = run(data, weights, tmp_path / "out", **options)
    assert done is not None
    assert sorted(path.name for path in done.files.values()) == ["res4.npz", "res5.npz"]
    first, kept = done.files["res4"].read_bytes(), done.files["res5"].stat().st_mtime_ns
    done.files["res4"].unlink()
    again = run(data, weights, tmp_path / "out", **options)
    assert again is not None
    assert done.files["res4"].read_bytes() == first
    assert done.files["res5"].stat().st_mtime_ns == kept
    with pytest.raises(UsageError, match="exists already"):
        run(data, weights, tmp_path / "out", **options)
    done.files["res4"].write_bytes(first[:100])
    done.files["res5"].unlink()
    with pytest.raises(UsageError, match=r"res4.npz: exists already"):
        run(data, weights, tmp_path / "out", **options)


def test_existing_files_are_converted(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(700, 5)).astype(np.float16)
    texts = [["a", "", "ü/b"][row % 3] for row in range(700)]
    source = write_features(tmp_path / "f.h5", array, {"key": texts, "a/b": list(range(700))})
    told = convert_features(source, tmp_path / "f.parquet")
    assert (told["rows"], told["dim"], told["dtype"], told["format"]) == (700, 5, "float16", "parquet")
    frame = pandas.read_parquet(tmp_path / "f.parquet")
    assert frame["columns.key"].astype(object).fillna("").tolist() == texts  # beside the key of ours
    assert frame["a/b"].tolist() == list(range(700))
    np.testing.assert_array_equal(np.stack(frame["features"].to_list()).astype(np.float16), array)
    convert_features(source, tmp_path / "f.npz")
    arrays = np.load(tmp_path / "f.npz", allow_pickle=False)
    assert set(arrays) == {"features", "keys", "attributes", "columns/key", "categories/key", "columns/a%2Fb"}
    assert arrays["features"].dtype == np.float16
    np.testing.assert_array_equal(arrays["features"], array)
    with pytest.raises(UsageError, match="exists already"):
        convert_features(source, tmp_path / "f.npz")
    with pytest.raises(UsageError, match=r"written as \.npz or \.parquet"):
        convert_features(source, tmp_path / "f.csv")
    (tmp_path / "cut.h5").write_bytes(source.read_bytes()[:3000])
    with pytest.raises(InputError, match=r"cut\.h5: truncated"):
        convert_features(tmp_path / "cut.h5", tmp_path / "g.npz")
    assert not (tmp_path / "g.npz").exists()


def test_formats_that_contradict_each_other(data: Path, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="its name says npz, --format says parquet"):
        run(data, weights, tmp_path / "f.npz", format="parquet")
