"""Out of distribution: masks, class maps, lists of labels, paired drops, the line of other models, kept classifiers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seerctl.errors import InputError, UsageError
from seerctl.lines import logit
from seerctl.predictions import read_predictions
from seerctl.probes.classifier import load_fitted, save_fitted
from seerctl.probes.linear import linear
from seerctl.probes.ood import load_ood, ood, table_path
from seerctl.probes.registry import run_protocol
from seerctl.probes.task import load_task
from seerctl.stats import newcombe
from tests.feature_files import clouds, write_features

Files = dict[str, Path]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """A and A' of eight classes; `noisy`: A' with noise and its keys; `other`: new pictures of three of the classes."""
    found = {}
    for name, rows, seed, start in (("train", 500, 1, 0), ("test", 240, 2, 1000)):
        points, labels = clouds(rows, classes=8, seed=seed, spread=1.2)
        found[name] = write_features(tmp_path / f"{name}.h5", points, {"label": labels}, start=start)
    noise = np.random.default_rng(7).normal(size=points.shape).astype(np.float32)
    found["noisy"] = write_features(tmp_path / "noisy.h5", points + noise, {"label": labels}, start=1000)
    points, labels = clouds(400, classes=8, seed=3, spread=1.8)
    few = [row for row, label in enumerate(labels) if label in ("c1", "c4", "c6")]
    found["other"] = write_features(tmp_path / "other.h5", points[few], {"label": [labels[r] for r in few]}, start=5000)
    return found


def values(report: dict[str, Any]) -> dict[str, float]:
    return {name: entry["value"] for name, entry in report["metrics"].items()}


def test_the_clean_score_is_that_of_the_linear_probe(files: Files) -> None:
    result = ood(load_ood(files["test"], [files["noisy"]], "label", files["train"]))
    plain = linear(load_task(files["train"], files["test"], "label"))
    assert values(result.report)["top1"] == values(plain.report)["top1"]
    assert values(result.report)["top5"] == values(plain.report)["top5"]


def test_classes_that_a_set_lacks_are_masked(files: Files) -> None:
    task = load_ood(files["test"], [f"b={files['other']}"], "label", files["train"])
    masked, open_ = (ood(task, [1e-2], mask=mask) for mask in (True, False))
    assert values(masked.report)["top1_b"] > values(open_.report)["top1_b"]
    assert masked.fitted is not None
    logits = masked.fitted.classifier.logits(task.shifts[0].side.features)[:, [1, 4, 6]]
    by_hand = np.array([1, 4, 6])[logits.argmax(1)] == task.shifts[0].side.labels
    assert values(masked.report)["top1_b"] == pytest.approx(by_hand.mean())
    assert "top5_b" not in masked.report["metrics"]  # of three classes five are all
    row = masked.report["shifts"][0]
    assert (row["shift"], row["classes"], row["paired"]) == ("b", 3, False)
    # The drop compares with the rows of A' that have these classes, masked alike.
    rows = np.isin(task.test.side.labels, [1, 4, 6])
    clean = masked.fitted.classifier.logits(task.test.side.features[rows])[:, [1, 4, 6]]
    right = np.array([1, 4, 6])[clean.argmax(1)] == task.test.side.labels[rows]
    assert row["reference_rows"] == rows.sum()
    wanted = newcombe(right.sum(), len(right), by_hand.sum(), len(by_hand))
    drop = masked.report["metrics"]["drop_b"]
    assert (drop["value"], drop["low"], drop["high"]) == pytest.approx(
        (float(wanted.value), float(wanted.low), float(wanted.high))
    )
    assert set(np.unique(masked.tables["b"].prediction)) <= {1, 4, 6}


def test_the_same_keys_are_compared_row_by_row(files: Files) -> None:
    report = ood(load_ood(files["test"], [files["noisy"]], "label", files["train"]), [1e-2]).report
    found = report["metrics"]
    assert report["shifts"][0]["paired"] is True
    assert found["drop_noisy"]["value"] == pytest.approx(found["top1"]["value"] - found["top1_noisy"]["value"])
    unpaired = newcombe(
        round(found["top1"]["value"] * 240), 240, round(found["top1_noisy"]["value"] * 240), 240
    )  # fmt: skip
    assert found["drop_noisy"]["high"] - found["drop_noisy"]["low"] < unpaired.high - unpaired.low


def test_any_of_several_labels_counts(files: Files, tmp_path: Path) -> None:
    points, labels = clouds(120, classes=8, seed=9, spread=0.3)
    lists = [json.dumps([name, "unheard"] if row % 2 else ["c0", name]) for row, name in enumerate(labels)]
    lists[5] = "[]"
    real = write_features(tmp_path / "real.h5", points, {"label": lists}, start=7000)
    task = load_ood(files["test"], [real], "label", files["train"])
    result = ood(task, [1e-2])
    assert task.shifts[0].left_out == 1
    assert result.report["metrics"]["top1_real"]["n"] == 119
    assert values(result.report)["top1_real"] > 0.97
    table = result.tables["real"]
    assert (table.label == table.prediction).mean() == pytest.approx(values(result.report)["top1_real"])


@pytest.mark.parametrize("form", ["json", "csv"])
def test_class_maps(form: str, files: Files, tmp_path: Path) -> None:
    points, labels = clouds(200, classes=8, seed=4, spread=0.3)
    kinds = {"c0": "zero", "c1": "odd", "c3": "odd", "c5": "odd", "c7": "odd"}
    named = [kinds.get(label, "elsewhere") for label in labels]
    strange = write_features(tmp_path / "objects.h5", points, {"label": named}, start=8000)
    with pytest.raises(InputError, match=r"is one of the 8 classes, such as 'elsewhere'.*--map"):
        load_ood(files["test"], [strange], "label", files["train"])
    path = tmp_path / f"map.{form}"
    mapping = {"zero": "c0", "odd": ["c1", "c3", "c5", "c7"]}
    path.write_text(json.dumps(mapping) if form == "json" else "label,class\nzero,c0\nodd,c1\nodd,c3\nodd,c5\nodd,c7\n")
    task = load_ood(files["test"], [strange], "label", files["train"], maps=[f"objects={path}"])
    assert task.shifts[0].left_out == named.count("elsewhere")
    report = ood(task, [1e-2]).report
    assert values(report)["top1_objects"] > 0.97
    assert report["shifts"][0]["classes"] == 5
    with pytest.raises(UsageError, match="no set 'objcts'"):
        load_ood(files["test"], [strange], "label", files["train"], maps=[f"objcts={path}"])


def test_effective_robustness_is_the_height_above_the_line(files: Files, tmp_path: Path) -> None:
    models = tmp_path / "models.csv"
    clean = np.array([0.4, 0.5, 0.6, 0.7, 0.8])
    shifted = 1 / (1 + np.exp(-(0.5 + 0.5 * np.log(clean / (1 - clean)))))
    models.write_text(
        "clean,shifted,shift\n" + "".join(f"{a},{b},noisy\n" for a, b in zip(clean, shifted, strict=True))
    )
    shifts = [files["noisy"], files["other"]]
    result = ood(load_ood(files["test"], shifts, "label", files["train"], models=models), [1e-2])
    found = values(result.report)
    expected = 1 / (1 + math.exp(-(0.5 + 0.5 * logit(found["top1"]))))
    assert found["effective_noisy"] == pytest.approx(found["top1_noisy"] - expected)
    entry = result.report["metrics"]["effective_noisy"]
    assert entry["low"] < entry["value"] < entry["high"]
    assert "effective_other" not in found
    assert "other: no other models for it" in result.report["warnings"][-1]
    models.write_text("clean,shifted\n0.5,0.4\n0.6,0.5\n")
    with pytest.raises(UsageError, match=r"2 baseline models.*A line needs 5 or more"):
        load_ood(files["test"], shifts, "label", files["train"], models=models)


def test_a_kept_classifier_scores_the_same(files: Files, tmp_path: Path) -> None:
    first = ood(load_ood(files["test"], [files["noisy"]], "label", files["train"]), [1e-2])
    assert first.fitted is not None
    path = tmp_path / "fitted.safetensors"
    save_fitted(path, first.fitted)
    again = ood(load_ood(files["test"], [files["noisy"]], "label", probe=path))
    assert again.report["metrics"] == first.report["metrics"]
    assert again.report["settings"]["fitted_before"] is True
    other = write_features(tmp_path / "x.h5", np.ones((2, 16), np.float32), {"label": ["c0", "c1"]}, layer="res2")
    with pytest.raises(UsageError, match="its layer is 'avgpool'"):
        load_ood(other, [other], "label", probe=path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match="not a fitted probe"):
        load_fitted(path)
    (tmp_path / "noise").write_bytes(b"\x80\x04" * 50)
    with pytest.raises(InputError, match="not a fitted probe"):
        load_fitted(tmp_path / "noise")


def test_tables_are_what_the_robustness_audit_reads(files: Files, tmp_path: Path) -> None:
    result = ood(load_ood(files["test"], [f"fog:3={files['noisy']}"], "label", files["train"]), [1e-2])
    result.save_predictions(tmp_path / "p.csv")
    shifted = read_predictions(table_path(tmp_path / "p.csv", "fog:3"))
    assert table_path(tmp_path / "p.csv", "fog:3").name == "p-fog_3.csv"
    right = (shifted.label == shifted.prediction).mean()
    assert right == pytest.approx(values(result.report)["top1_fog_3"])
    assert (read_predictions(tmp_path / "p.csv").keys == shifted.keys).all()


def test_training_pictures_among_the_test_pictures_are_said(files: Files) -> None:
    task = load_ood(files["train"], [files["other"]], "label", files["train"])
    assert task.warnings[0].startswith("leak: 500 of 500 test pictures")


def test_bad_input(files: Files, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="either --train FILE or --probe"):
        load_ood(files["test"], [files["noisy"]], "label")
    with pytest.raises(UsageError, match="no shifted set"):
        run_protocol("ood", {"test": files["test"], "train": files["train"], "shift": []}, "label")
    with pytest.raises(UsageError, match="two sets are called 'noisy'"):
        load_ood(files["test"], [files["noisy"], files["noisy"]], "label", files["train"])
    odd = write_features(tmp_path / "odd.h5", np.ones((3, 16), np.float32), {"label": ["c0", "c1", "d"]}, start=9000)
    with pytest.raises(InputError, match="1 rows have a 'label' that is no class: 'd'"):
        load_ood(files["test"], [odd], "label", files["train"])
    lists = write_features(tmp_path / "l.h5", np.ones((2, 16), np.float32), {"label": ['["a"]', '["b"]']})
    with pytest.raises(UsageError, match="holds lists of labels"):
        load_ood(files["test"], [odd], "label", lists)
