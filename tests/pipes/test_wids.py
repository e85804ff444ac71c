"""The index read by `wids` itself, which needs a webdataset before 1.0: in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from tests.streams import set_of

READER = """
import hashlib, json, sys, wids
found = wids.ShardListDataset(sys.argv[1], transformations=[])
rows = map(found.__getitem__, range(len(found)))
print(json.dumps([[row["__key__"], hashlib.sha256(row[".jpg"].read()).hexdigest()] for row in rows]))
"""


@pytest.mark.slow
def test_wids_reads_every_sample(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "webdataset==0.2.111"]
    installed = subprocess.run(install, capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"webdataset 0.2.111 cannot be installed: {installed.stderr[-300:]}")
    # Its dependencies (numpy, torch, PyYAML) come from here; what the new environment has comes first.
    packages = next((tmp_path / "venv" / "lib").iterdir()) / "site-packages"
    (packages / "ours.pth").write_text(str(Path(numpy.__file__).parents[1]))
    with set_of(tmp_path / "set", 30, maxcount=7) as shards:
        wanted = [[sample.key, sample.meta["sha256"]] for sample in shards]
    done = subprocess.run(
        [python, "-c", READER, tmp_path / "set" / "index.json"],
        env={**os.environ, "WIDS_CACHE": str(tmp_path / "cache")}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == wanted
