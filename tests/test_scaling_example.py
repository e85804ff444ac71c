"""examples/scaling.sh as it stands, but for a few steps of training and two sizes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training import make_labelled

REPOSITORY = Path(__file__).resolve().parent.parent
QUICK = "schedule.steps=3 data.batch=8 data.workers=0"


@pytest.mark.slow
def test_scaling_of_two_models(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    train, test = make_labelled(tmp_path / "train", 32), make_labelled(tmp_path / "test", 40)
    environment = {**os.environ, "SIZES": "micro pico", "SEERCTL_PRETRAIN_SET": QUICK, "SEERCTL_PROBE_KNN_K": "5",
                   "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # fmt: skip
    command = ["bash", str(REPOSITORY / "examples/scaling.sh"), str(train), str(test), str(tmp_path / "out")]
    assert subprocess.run(command[:3], capture_output=True, check=False).returncode == 2
    done = subprocess.run([*command, "group"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out/compared/compare.json").read_text())
    assert [(one["parameters"], one["images_seen"]) for one in found["models"]] == [(26_094, 24), (552_176, 24)]
    assert {"scaling-top1.png", "gap-accuracy.svg"} <= {path.name for path in (tmp_path / "out/compared").iterdir()}
