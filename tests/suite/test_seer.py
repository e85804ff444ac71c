"""The shipped suite: every entry is sound, knows what it lacks, and runs on a miniature of its declared layout."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from seerctl.model.init import init_weights
from seerctl.model.sizes import SIZES
from seerctl.model.trunk import build_trunk
from seerctl.model.weights import save_weights
from seerctl.suite.needs import find_model, missing
from seerctl.suite.runner import Plan, run_suite
from seerctl.suite.spec import Entry, load_suite
from seerctl.suite.table import markdown, summary
from tests.suite.miniature import make

SEER = load_suite("seer")
RUN = [entry for entry in SEER.entry if entry.protocol]
# Of the benchmarks that the model documentation of SEER lists, and those of its configurations.
NAMED = [
    "imagenet-1k", "voc07", "openimages",
    "places205", "inaturalist-2018", "flowers", "sun397", "food-101", "caltech-101", "pets", "cars",
    "cifar-10", "cifar-100", "aircraft", "stl-10", "dtd", "ucf-101", "kinetics-700", "kitti-distance", "clevr-count",
    "clevr-distance", "dsprites-orientation", "dsprites-location", "snorb-elevation", "eurosat", "resisc45",
    "hateful-memes", "mnist", "svhn", "gtsrb", "pcam", "copydays", "imagenet-a", "imagenet-v2", "imagenet-r",
    "imagenet-sketch", "imagenet-real", "objectnet", "casual-conversations", "openimages-miap", "dollar-street",
    "iwildcam", "snorb-azimuth", "im2gps", "im2gps3k", "roxford5k", "rparis6k", "voc07-12-detection",
    "coco-detection",
]  # fmt: skip
# One entry a protocol and layout; all of them run with tests/run.sh --all.
QUICK = (
    "pets",
    "clevr-count",
    "imagenet-1k-knn",
    "copydays",
    "roxford5k",
    "im2gps",
    "imagenet-real",
    "voc07",
    "openimages",
    "imagenet-1k-low-shot",
    "clevr-count-number",
)
# What a dozen pictures and features of 64 values cannot have.
SMALLER = {
    "knn": {"k": (5,)}, "geo": {"least": 2, "most": 20, "l2": (0.1,)}, "linear": {"l2": (0.1,)}, "ood": {"l2": (0.1,)},
    "retrieval": {"components": 4}, "copies": {"components": 4}, "svm": {"costs": (1.0,), "draws": 20, "k": (2,)},
    "sgd": {"epochs": 2, "lr": (0.1,)}, "lowshot": {"k": (5,), "samples": 2, "l2": (0.1,)},
    "regression": {"l2": (0.1,), "draws": 20},
    "multilabel": {"l2": (0.1,), "draws": 20},
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of 26 k parameters: random ones, which see colours."""
    trunk = build_trunk(SIZES["micro"])
    init_weights(trunk, seed=0)
    path = tmp_path_factory.mktemp("model") / "weights.safetensors"
    save_weights(path, {f"trunk.{key}": value for key, value in trunk.state_dict().items()}, {"size": "micro"})
    return path


def smaller(entry: Entry) -> Entry:
    """The entry for a miniature: small pictures and smaller options, in the same protocol, layout and layer."""
    options = {key: value for key, value in SMALLER.get(entry.protocol, {}).items() if entry.options[key]}
    if entry.name == "voc07-low-shot":
        entry = replace(entry, metric="map_k2")
    return replace(
        entry,
        size=32 if entry.size else 0,
        resize="long=48" if entry.resize else "",
        options={**entry.options, **options},
    )


def test_every_benchmark_has_an_entry() -> None:
    names = [entry.name for entry in SEER.entry]
    assert set(NAMED) <= set(names)
    assert len(names) >= 50
    assert all(entry.protocol or entry.elsewhere for entry in SEER.entry)
    assert all(entry.data_sets() for entry in RUN)
    sizes = Counter(entry.size for entry in RUN)
    assert set(sizes) == {224, 0}  # retrieval shows whole pictures, 1,024 pixels long


def test_published_values_are_those_of_the_specification() -> None:
    """A sample, by hand from the sources; none of them is shown beside a score of another protocol."""
    found = {entry.name: {(one.model, one.metric): one.value for one in entry.published} for entry in SEER.entry}
    assert found["imagenet-1k"]["SEER RegNetY-10B", "top1"] == 79.8
    assert found["imagenet-1k"]["SwAV-IN1K RegNetY-128GF", "top1"] == 78.36
    assert found["copydays"]["SEER RegNetY-256GF", "map"] == 87.8
    assert found["inaturalist-2018-finetune"]["SEER RegNetY-64GF", "top1"] == 80.0
    assert found["dollar-street"]["DINOv2 ViT-g/14", "hit rate, Africa"] == 74.0
    assert found["im2gps"]["SEER RegNetY-256GF", "acc_25km"] == 43.9
    shown = {entry.name for entry in SEER.entry if entry.comparable()}
    assert shown == {"imagenet-1k", "copydays"}
    assert all(one.source for entry in SEER.entry for one in entry.published)


def test_every_entry_says_what_it_lacks(tmp_path: Path) -> None:
    said = {one.entry for one in missing(Plan(SEER.entry, [], tmp_path, tmp_path / "out"))}
    assert said == {entry.name for entry in RUN}


@pytest.mark.parametrize("entry", [entry for entry in RUN if entry.name in QUICK], ids=lambda entry: entry.name)
def test_an_entry_of_each_protocol_runs(entry: Entry, model: Path, tmp_path: Path) -> None:
    run(entry, model, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("entry", RUN, ids=lambda entry: entry.name)
def test_every_entry_runs(entry: Entry, model: Path, tmp_path: Path) -> None:
    run(entry, model, tmp_path)


def run(entry: Entry, model: Path, where: Path) -> None:
    make(entry, where / "data")
    plan = Plan([smaller(entry)], [find_model(str(model), entry.layers)], where / "data", where / "out",
                settings={"device": "cpu", "workers": 1}, suite="seer")  # fmt: skip
    assert missing(plan) == []
    (outcome,) = run_suite(plan)
    assert outcome.error is None
    assert outcome.report is not None
    score = outcome.report["metrics"][outcome.entry.metric]
    assert 0 <= score["value"] <= (1 if "unit" not in score else 10)
    (row,) = summary(plan, "", [outcome])["entries"]
    assert row["ours"][0]["value"] == score["value"]
    assert entry.name in markdown(summary(plan, "", [outcome]))
