"""examples/emoji_audit.py: the gate fails a model that is unfair to one skin tone, and only that one."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.feature_files import write_features

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("emoji_audit", REPOSITORY / "examples" / "emoji_audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["emoji_audit"] = module
    spec.loader.exec_module(module)
    return module


def drawn_features(path: Path, example: ModuleType, roles: int = 40, spread: float = 0.2) -> Path:
    """Features as of drawings: a part for the role, a part for the tone, a part for the gender, and noise."""
    generator = np.random.default_rng(0)
    parts = {name: generator.normal(size=(count, 24)) for name, count in (("r", roles), ("t", 5), ("g", 3))}
    features, columns = [], {"label": [], "base_name": [], "skin_tone": [], "gender": []}
    for role in range(roles):
        for g, gender in enumerate(example.FOLDS):
            for t, tone in enumerate(example.TONES):
                point = parts["r"][role] + 0.7 * parts["t"][t] + 0.3 * parts["g"][g]
                features.append(point + spread * generator.normal(size=24))
                row = (f"role {role}", f"{gender} {role}", tone, gender)
                for values, value in zip(columns.values(), row, strict=True):
                    values.append(value)
    return write_features(path, np.array(features, dtype=np.float32), columns)


def test_generated_features(example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn_features(tmp_path / "features-0.h5", example)
    assert example.main([str(tmp_path), "--out", str(tmp_path), "--repeats", "2"]) == 0
    said = capsys.readouterr().out
    assert "honest model failed the gate: 0 of 2" in said
    assert "unfair model passed the gate: 0 of 2" in said
    assert "0 unfair  exit 3" in said
    assert "failed: light (planted: light)" in said
    assert "Drawings are not people" in said
    report = json.loads((tmp_path / "audit-unfair" / "report.json").read_text())
    worst = report["checks"][0]["comparisons"][0]
    assert (worst["group"], worst["verdict"], worst["n"]) == ({"skin_tone": "medium-light"}, "FAIL", 120)


def test_a_gate_that_is_wrong_is_said(example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Features without a trace of the tone: shuffled labels harm no tone in particular, and the proof does not hold."""
    path = drawn_features(tmp_path / "f.h5", example, spread=5.0)
    path.rename(tmp_path / "features-0.h5")
    assert example.main([str(tmp_path), "--out", str(tmp_path), "--repeats", "1"]) == 3
    assert "the planted one alone failed: 1" in capsys.readouterr().out


def prove(example: ModuleType, emoji: Path, out: Path, *arguments: object) -> int:
    code: int = example.main([str(emoji), "--out", str(out), *map(str, arguments)])
    return code


@pytest.mark.data
def test_emoji(example: ModuleType, shared_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = prove(example, shared_data / "emoji", tmp_path / "out", "--repeats", 2, "--steps", 20, "--size", 32)
    said = capfd.readouterr().out
    assert code == 0, said
    assert "1140 drawings of 76 roles" in said
    assert "honest model failed the gate: 0 of 2" in said
    assert "unfair model passed the gate: 0 of 2" in said


@pytest.mark.data
@pytest.mark.slow
def test_emoji_many_splits(
    example: ModuleType, shared_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = prove(example, shared_data / "emoji", tmp_path / "out", "--models", 2, "--repeats", 15)
    said = capfd.readouterr().out
    assert code == 0, said
    assert "unfair model passed the gate: 0 of 30" in said
    assert "failed 30, held 0" in said
