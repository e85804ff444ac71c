"""Lineage: whatever is changed, lost or dropped along the way from sources to report is told from what holds."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from seerctl.audit.artefacts import read_safetensors_metadata
from seerctl.audit.lineage import BROKEN, METRICS, OK, UNKNOWN, Link, audit_lineage, trace
from seerctl.audit.policy import SuiteCheck
from seerctl.cli import run
from seerctl.errors import InputError, UsageError
from seerctl.features.writer import FeatureWriter, finish, part_of
from seerctl.files import sha256_file, write_json
from seerctl.shards.drop import Entry, drop_samples
from seerctl.shards.index import ShardSet
from tests.feature_files import header
from tests.pictures import draw
from tests.streams import meta_of, shards_of, stream_of


def seerctl(*words: object) -> int:
    return run([str(word) for word in words])


class World:
    """Every artefact from pictures to a probe's report, as the commands write them, without training a model."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.photos, self.stream, self.run = root / "photos", root / "stream.tar", root / "run"
        self.train, self.test = root / "set" / "train", root / "set" / "test"
        self.weights = self.run / "weights.safetensors"
        self.features = root / "train.h5", root / "test.h5"
        self.table, self.report = root / "predictions.csv", root / "knn.json"

    def build(self) -> World:
        samples = self.pictures(range(60))
        self.stream.write_bytes(stream_of(samples[:40]))
        shards_of(self.train, self.stream.read_bytes(), maxcount=15)
        shards_of(self.test, stream_of(samples[40:]), maxcount=15)
        self.make_run()
        for path, data in zip(self.features, (self.train, self.test), strict=True):
            self.extract(path, data)
        words = ["probe", "knn", "--train", self.features[0], "--test", self.features[1], "--target", "label", "--k", 3]
        assert seerctl(*words, "-o", self.report, "--predictions", self.table) == 0
        return self

    def pictures(self, numbers: range) -> list[tuple[bytes, dict[str, Any]]]:
        samples = []
        for number in numbers:
            file = io.BytesIO()
            draw(number, 24, 20).save(file, "JPEG")
            path = self.photos / f"{number}.jpg"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(file.getvalue())
            samples.append(
                (
                    file.getvalue(),
                    meta_of(file.getvalue(), path.name, {"label": "ab"[number % 2], "side": "lr"[number % 3 // 2]}),
                )
            )
        return samples

    def make_run(self) -> None:
        index = ShardSet.open(self.train).sha256
        self.run.mkdir()
        write_json(self.run / "run.json", {"schema": "seer-run-1", "data": str(self.train), "index_sha256": index})
        (self.run / "recipe.toml").write_text("[model]\n")
        step = self.run / "checkpoints" / "step-00000004"
        step.mkdir(parents=True)
        (step / "__0_0.distcp").write_bytes(b"tensors")
        write_json(step / "state.json", {"step": 4, "index_sha256": index})
        write_json(step / "sums.json", {name: sha256_file(step / name) for name in ("__0_0.distcp", "state.json")})
        self.save_weights({"index_sha256": index, "recipe": "[model]\n"})

    def save_weights(self, metadata: dict[str, str], path: Path | None = None, value: float = 0.0) -> None:
        save_file({"trunk.stem.0.weight": np.full(3, value, np.float32)}, path or self.weights, metadata=metadata)

    def extract(self, path: Path, data: Path) -> None:
        with ShardSet.open(data) as shards:
            made = header(
                weights_sha256=sha256_file(self.weights), index_sha256=shards.sha256,
                lineage={"sources": {"model": str(self.run), "data": str(data)}},
            )  # fmt: skip
            rows = np.random.default_rng(0).normal(size=(len(shards), 4)).astype(np.float32)
            writer = FeatureWriter(part_of(path), made, rows=len(shards), dim=4)
            writer.append(rows, [s.key for s in shards], [s.meta["columns"] for s in shards])
            writer.close()
            finish(path, [part_of(path)], made, len(shards))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path).build()


def links(*paths: Path) -> list[Link]:
    return trace(paths).links


def by_status(found: list[Link]) -> Counter[str]:
    return Counter(link.status for link in found)


def broken(*paths: Path) -> list[Link]:
    return [link for link in links(*paths) if link.status == BROKEN]


def check(metric: str, **fields: Any) -> SuiteCheck:
    return SuiteCheck(metric, "lineage", metric, op="<=", threshold=0.0, **fields)


def test_a_report_leads_back_to_the_shards(world: World) -> None:
    found = links(world.report)
    assert {(link.kind, link.claim.kind) for link in found if link.status == OK} == {
        ("report", "features"), ("features", "weights"), ("features", "set"), ("weights", "set"), ("weights", "run"),
        ("run", "set"), ("run", "checkpoint step-00000004"), ("set", "shards"), ("report", "predictions"),
        ("predictions", "features"), ("predictions", "self"),
    }  # fmt: skip
    unknown = [link for link in found if link.status == UNKNOWN]
    assert {link.claim.kind for link in unknown} == {"stream"}
    assert all("no stream with this hash" in link.why for link in unknown)


def test_streams_and_source_files_are_compared_where_they_are_named(world: World) -> None:
    found = links(world.report, world.table, world.stream, world.photos)
    assert by_status(found)[BROKEN] == 0
    assert [link.claim.role for link in found if link.status == UNKNOWN] == ["20 samples"]  # the test set's stream
    sources = [link for link in found if link.claim.kind == "sources"]
    assert {(link.status, link.claim.role) for link in sources} == {(OK, "40 of 40 files"), (OK, "20 of 20 files")}
    (world.photos / "3.jpg").write_bytes(b"another")
    (world.photos / "50.jpg").unlink()
    changed = {link.status: link.why for link in links(world.report, world.photos) if link.claim.kind == "sources"}
    assert changed == {BROKEN: "1 files differ, first 3.jpg", UNKNOWN: "1 of its files are not there"}


def test_predictions_name_their_features(world: World) -> None:
    found = links(world.table)
    assert ("predictions", "features") in {(link.kind, link.claim.kind) for link in found if link.status == OK}
    world.table.write_text(world.table.read_text().replace(",a,", ",b,", 1))
    (fault,) = broken(world.table)
    assert (fault.claim.kind, fault.why) == ("self", "its bytes are not those that were written")
    Path(f"{world.table}.lineage.json").unlink()
    (alone,) = links(world.table)
    assert (alone.status, alone.claim.kind) == (UNKNOWN, "features")


def test_an_audit_report_names_its_table(world: World) -> None:
    out = world.root / "audit"
    words = ["audit", "--fairness", "--predictions", world.table, "--groups", "side", "-o", out]
    assert seerctl(*words) in (0, 3, 6)
    found = links(out)
    assert ("report", str(world.table)) in {(link.kind, link.found) for link in found if link.status == OK}
    assert by_status(found)[BROKEN] == 0
    assert any(link.kind == "set" for link in found)
    world.table.write_text(world.table.read_text() + "\n")
    assert ("report", "any") in {(link.kind, link.claim.kind) for link in broken(out)}


BREAKS: dict[str, tuple[Callable[[World], object], str, str]] = {
    "features": (lambda w: w.features[1].write_bytes(w.features[1].read_bytes() + b"x"), "report", "features"),
    "weights": (lambda w: w.save_weights({"recipe": "[model]\n"}, value=1.0), "features", "weights"),
    "a shard": (lambda w: _flip(w.train / "shard-000001.tar"), "set", "shards"),
    "a shard's offsets": (lambda w: (w.train / "shard-000000.tar.idx").write_bytes(b"12345678"), "set", "shards"),
    "an index": (lambda w: _edit(w.train / "index.json", rejects={"damaged": 1}), "run", "set"),
    "the whole set": (lambda w: shards_of(w.train, stream_of(w.pictures(range(70, 80))), overwrite=True), "run", "set"),
    "a checkpoint": (lambda w: _flip(w.run / "checkpoints/step-00000004/__0_0.distcp"), "run", "checkpoint"),
    "a checkpoint's data": (lambda w: _other_data(w.run / "checkpoints/step-00000004"), "run", "checkpoint"),
    "the recipe": (lambda w: (w.run / "recipe.toml").write_text("[other]\n"), "weights", "run"),
    "the run's data": (lambda w: _edit(w.run / "run.json", index_sha256="0" * 64), "weights", "run"),
    "a damaged index": (lambda w: (w.train / "index.json").write_text("{"), "run", "set"),
}


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _edit(path: Path, **changes: Any) -> None:
    write_json(path, {**json.loads(path.read_text()), **changes})


def _other_data(step: Path) -> None:
    _edit(step / "state.json", index_sha256="0" * 64)
    _edit(step / "sums.json", **{"state.json": sha256_file(step / "state.json")})


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_link_is_named(world: World, name: str) -> None:
    change, kind, target = BREAKS[name]
    change(world)
    found = broken(world.report)
    assert (kind, target) in {(link.kind, link.claim.kind.partition(" ")[0]) for link in found}
    assert all(link.why for link in found)
    result = audit_lineage([world.report], [check("broken")])
    assert sum(finding.value == 1.0 for finding in result.findings) == len(found)
    assert all(finding.interval is None for finding in result.findings)


LOSSES: dict[str, tuple[Callable[[World], object], str, str]] = {
    "features": (lambda w: w.features[0].unlink(), "report", "features"),
    "the run": (lambda w: shutil.rmtree(w.run), "features", "weights"),
    "the set": (lambda w: shutil.rmtree(w.train), "run", "set"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_lost_artefact_is_not_checked_rather_than_broken(world: World, name: str) -> None:
    change, kind, target = LOSSES[name]
    change(world)
    found = links(world.report)
    assert by_status(found)[BROKEN] == 0
    assert (kind, target) in {(link.kind, link.claim.kind) for link in found if link.status == UNKNOWN}
    findings = audit_lineage([world.report], [check("broken")]).findings
    assert {finding.reason is None for finding in findings} == {True, False}


def test_what_was_moved_is_found_by_its_hash(world: World) -> None:
    elsewhere = world.root / "archive"
    shutil.move(world.root / "set", elsewhere)
    shutil.move(world.run, world.root / "finished")
    assert by_status(links(world.report))[BROKEN] == 0
    found = links(world.report, world.root / "finished", elsewhere)
    assert {link.claim.kind for link in found if link.status != OK} == {"stream"}


def test_what_is_found_later_settles_what_was_asked_before(world: World) -> None:
    """The run names a place where its set no longer is; a report read after it names the place where it is now."""
    moved = world.root / "moved"
    shutil.move(world.train, moved)
    report = world.root / "report.json"
    digest = ShardSet.open(moved).sha256
    told = {"schema": "seerctl.audit/1", "inputs": {}, "sections": {"leakage": {"inputs": {
        "train": {"path": str(moved), "index_sha256": digest}}}}}  # fmt: skip
    write_json(report, told)
    for order in ([world.run, report], [report, world.run]):
        found = links(*order)
        data = [link for link in found if link.claim.sha256 == digest and link.claim.kind == "set"]
        assert {(link.kind, link.found) for link in data} == {
            ("run", str(moved)), ("weights", str(moved)), ("report", str(moved)),
        }  # fmt: skip


def test_keys_of_features_have_to_be_those_of_the_set(world: World) -> None:
    with ShardSet.open(world.test) as shards:
        made = header(weights_sha256=sha256_file(world.weights), index_sha256=shards.sha256)
        path = world.root / "wrong.h5"
        writer = FeatureWriter(part_of(path), made, rows=20, dim=2)
        writer.append(np.ones((20, 2), np.float32), [s.key for s in shards][::-1], [{}] * 20)
        writer.close()
        finish(path, [part_of(path)], made, 20)
    (fault,) = broken(path, world.test)
    assert fault.why == "its keys are not those of the set"


# ----------------------------------------------------------------------------------------------------- dropped samples


def drop(data: Path, *numbers: int) -> None:
    drop_samples(data, [Entry("source", f"{number}.jpg") for number in numbers])


def test_a_model_of_dropped_samples_is_named(world: World) -> None:
    assert [f.value for f in audit_lineage([world.run], [check("dropped")]).findings] == [0.0, 0.0]
    drop(world.train, 3, 7)
    found = links(world.run)
    assert by_status(found)[BROKEN] == 0
    assert {link.why for link in found if link.claim.kind == "set"} == {
        "the set was changed since (1 drop): the index it had cannot be checked"
    }
    findings = audit_lineage([world.run], [check("dropped")]).findings
    assert {next(iter(f.group.values())): f.value for f in findings} == {
        f"run {world.run}": 2,
        f"weights {world.weights}": 2,
    }
    (one,) = findings[0].evidence["sets"]
    assert (one["count"], one["certain"], len(one["keys"])) == (2, True, 2)


def test_everything_made_from_such_a_model_is_named_too(world: World) -> None:
    drop(world.train, 3)
    told = audit_lineage([world.report], [check("dropped")]).data["dropped"]
    assert {Path(one["model"]).name for one in told} == {
        "run",
        "weights.safetensors",
        "train.h5",
        "test.h5",
        "knn.json",
        "predictions.csv",
    }
    assert all(one["count"] == 1 and one["certain"] for one in told)
    second = world.root / "tuned"
    second.mkdir()
    fresh = ShardSet.open(world.test).sha256
    write_json(second / "run.json", {"data": str(world.test), "index_sha256": fresh})
    world.save_weights(
        {"index_sha256": fresh, "init_sha256": sha256_file(world.weights)}, second / "weights.safetensors", 2.0
    )
    told = audit_lineage([second, world.run], [check("dropped")]).data["dropped"]
    assert str(second / "weights.safetensors") in {one["model"] for one in told}


def test_what_came_after_the_training_is_told_from_what_was_there(world: World) -> None:
    shards_of(world.train, stream_of(world.pictures(range(80, 90))), maxcount=15, append=True)
    drop(world.train, 85)
    drop(world.train, 3)
    (one, _) = audit_lineage([world.run], [check("dropped")]).findings
    assert one.value == 2  # at most: what was appended cannot be told from what was there
    assert one.evidence["sets"][0]["certain"] is False
    told = audit_lineage([world.features[0]], []).data["dropped"]
    assert {(Path(d["model"]).name, d["count"], d["certain"]) for d in told if d["kind"] == "features"} == {
        ("train.h5", 1, True)
    }


def test_a_model_whose_set_is_not_there_is_not_assessed(world: World) -> None:
    shutil.rmtree(world.train)
    findings = audit_lineage([world.run], [check("dropped")]).findings
    assert all(finding.reason == "the shard set that it learnt from was not found" for finding in findings)
    (nothing,) = audit_lineage([world.test], [check("dropped")]).findings
    assert nothing.reason is not None


# ----------------------------------------------------------------------------------------------------------- bad input


def test_what_is_no_artefact_is_refused(world: World) -> None:
    with pytest.raises(UsageError, match="nothing to trace"):
        audit_lineage([], [])
    with pytest.raises(InputError, match="no such file"):
        audit_lineage([world.root / "nowhere"], [])
    (world.root / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match="not an artefact"):
        audit_lineage([world.root / "notes.txt"], [])
    (world.root / "list.json").write_text("[1]")
    with pytest.raises(InputError, match="not a report"):
        audit_lineage([world.root / "list.json"], [])
    with pytest.raises(UsageError, match="no groups"):
        audit_lineage([world.run], [check("broken", groups=("label",))])


@pytest.mark.parametrize("cut", [0, 4, 8, 60, -1])
def test_cut_weights_are_refused(world: World, cut: int) -> None:
    data = world.weights.read_bytes()
    path = world.root / "cut.safetensors"
    path.write_bytes(data[:cut])
    with pytest.raises(InputError, match=r"cut\.safetensors"):
        audit_lineage([path], [])
    assert read_safetensors_metadata(world.weights)["index_sha256"]


@pytest.mark.parametrize("seed", range(10))
def test_hostile_files_end_in_one_line(world: World, seed: int) -> None:
    """Random damage to every kind of file: an error of ours or links, never a traceback."""
    generator = np.random.default_rng(seed)
    for path in (world.report, world.features[0], world.weights, world.run / "run.json", world.test / "index.json",
                 Path(f"{world.table}.lineage.json"), world.stream):  # fmt: skip
        data = bytearray(path.read_bytes())
        for place in generator.integers(0, len(data), 8):
            data[place] = generator.integers(0, 256)
        path.write_bytes(data)
    lines = []
    for path in (world.report, world.features[0], world.weights, world.run, world.test, world.table, world.stream):
        try:
            result = audit_lineage([path], [check(metric) for metric in METRICS])
        except (InputError, UsageError) as error:
            lines.append(str(error))
        else:
            json.dumps(result.data)
    assert all("\n" not in line for line in lines)


def test_hints_never_lead_to_code_or_endless_walks(world: World) -> None:
    told = json.loads(world.report.read_text())
    told["train"]["path"] = "../" * 30 + "dev/zero"
    told["test"]["path"] = "a\0b"
    told["predictions"]["path"] = "/proc/self/mem"
    world.report.write_text(json.dumps(told))
    found = links(world.report)
    assert {link.status for link in found if link.kind == "report"} <= {UNKNOWN, BROKEN}


def test_every_metric_can_be_asked_for(world: World) -> None:
    result = audit_lineage([world.report, world.stream], [check(metric) for metric in METRICS], data=[world.train])
    assert {finding.metric for finding in result.findings} == set(METRICS)
    (verified,) = [finding for finding in result.findings if finding.metric == "verified"]
    assert 0.8 < verified.value < 1.0
    assert hashlib.sha256(world.report.read_bytes()).hexdigest() == result.inputs["artefacts"][0]["sha256"]
    assert result.tables[0].rows


def test_sample_weights_are_a_link_too(world: World) -> None:
    weights = world.root / "weights.csv"
    weights.write_text("key,weight\n")
    told = {"source": str(weights), "sha256": sha256_file(weights)}
    _edit(world.run / "run.json", sample_weights=told)
    assert (OK, str(weights)) in {(link.status, link.found) for link in links(world.run)}
    weights.write_text("key,weight\nx,1\n")
    assert [link.claim.role for link in broken(world.run)] == ["sample weights"]
    _edit(world.run / "run.json", sample_weights={"source": "rarity", "sha256": "0" * 64})
    assert not broken(world.run)
