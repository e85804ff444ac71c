"""Extraction against its two parts alone: decoding and the model, on the same cores, in one process, in turn.

extract        a small RegNetY on 64-pixel crops: images/s against 1 / (1 / model + 1 / decode)
extract_3.2gf  RegNetY-3.2GF on 224-pixel crops: images/s against the bare model on tensors that are in memory
extract_memory peak memory above that of the loaded program at N rows and at 4 N rows, each in a process of its own

Ours is the whole call: loading the weights, trying the model out, writing and closing the file are in it. The note has
the same ratio in processor time, which tells on a machine that others use too. BENCH_SHARE=0.1 takes a tenth of the
pictures (starting up then counts ten times as much).
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from seerctl.features.batches import Batches, default_workers
from seerctl.features.encoder import Encoder, make_encoder
from seerctl.features.extractor import Options, extract
from seerctl.features.layers import Layer
from seerctl.features.models import load_frozen
from seerctl.model.init import init_weights
from seerctl.model.sizes import SIZES
from seerctl.model.trunk import build_trunk
from seerctl.model.weights import save_weights
from seerctl.shards.index import ShardSet
from tests.bench.measure import Spent, all_in_turn
from tests.streams import meta_of, shards_of, stream_of

SLOW = True
SHARE = float(os.environ.get("BENCH_SHARE", "1"))
SMALL = ("400mf", 64, round(3072 * SHARE), 64)  # size, crop, pictures, batch
LARGE = ("3.2gf", 224, round(128 * SHARE), 8)
ROWS = round(2048 * SHARE)
REPEATS = 3
LAYERS = [Layer("avgpool")]
_MEMORY = """
import sys
from pathlib import Path
from seerctl.features.extractor import Options, extract
from seerctl.features.models import load_frozen
def kilobytes(name):
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(name))
load_frozen(sys.argv[1])
Path("/proc/self/clear_refs").write_text("5")  # the peak from here on; getrusage's begins with the parent's
before = kilobytes("VmRSS:")
options = Options(device="cpu", size=64, layers=("res4", "res5:2x1", "avgpool"))
extract(sys.argv[1], sys.argv[2], Path(sys.argv[3]), options)
print(kilobytes("VmHWM:") - before)
"""


def pictures(where: Path, count: int) -> Path:
    """A shard set of photographs 500 x 375, quality 90, cut from scikit-learn's two; repeated with other sources."""
    generator, files = np.random.default_rng(0), []
    for number in range(64):
        source = Image.fromarray(load_sample_images().images[number % 2])
        left, top = generator.integers(0, 140), generator.integers(0, 52)
        file = io.BytesIO()
        source.crop((left, top, left + 500, top + 375)).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    samples = ((data, meta_of(data, f"{number}.jpg", {"label": str(number % 10)}))
               for number, data in ((number, files[number % 64]) for number in range(count)))  # fmt: skip
    shards_of(where, stream_of(samples))
    return where


def weights(where: Path, name: str) -> Path:
    """A file of random weights of the size `name`."""
    trunk = build_trunk(SIZES[name])
    init_weights(trunk, seed=0)
    save_weights(
        where / f"{name}.safetensors", {f"trunk.{key}": value for key, value in trunk.state_dict().items()}, {}
    )
    return where / f"{name}.safetensors"


def each_on_a_core(function: Any, numbers: range) -> None:
    """All of `numbers`, by as many threads as extraction uses, one core each."""
    before = torch.get_num_threads()
    with ThreadPoolExecutor(
        default_workers("cpu"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:  # as the extractor does
        list(pool.map(function, numbers))
    torch.set_num_threads(before)


def encoder_of(model: Path, size: int) -> Encoder:
    """The encoder that `extract` makes of `model` at `size`."""
    frozen = load_frozen(str(model))
    view = frozen.view.of(size)
    return make_encoder(frozen.network, view, LAYERS, "float32", torch.device("cpu"), str(model))


@dataclass(frozen=True, slots=True)
class Times:
    """What each of the three took for `count` pictures."""

    count: int
    ours: Spent
    model: Spent
    decode: Spent

    def ratio(self, of: Callable[[Spent], float], *, decoding: bool) -> float:
        """The bare parts' seconds over those of `extract`."""
        return (of(self.model) + (of(self.decode) if decoding else 0.0)) / of(self.ours)


def measure(where: Path, name: str, size: int, count: int, batch: int) -> Times:
    """`extract`, the bare model and decoding alone, in turn."""
    model, data = weights(where, name), pictures(where / f"shards-{name}", count)
    encoder, shards = encoder_of(model, size), ShardSet.open(data)
    batches = Batches(shards, encoder.view, batch)
    ready = [batches(number).pixels for number in range(len(batches))]

    def bare(number: int) -> None:
        with torch.inference_mode():
            encoder(ready[number], LAYERS)

    def ours() -> None:
        options = Options(device="cpu", size=size, batch=batch, overwrite=True)
        extract(str(model), str(data), where / "f.h5", options)

    every = range(len(batches))
    functions = (ours, lambda: each_on_a_core(bare, every), lambda: each_on_a_core(batches, every))
    return Times(count, *all_in_turn(functions, REPEATS))


def result(name: str, times: Times, peer_name: str, note: str, *, decoding: bool) -> dict[str, Any]:
    """One row of the table; `decoding`: the peer has to decode too."""
    bound = times.count / (times.model.wall + (times.decode.wall if decoding else 0.0))
    model, decode = times.count / times.model.wall, times.count / times.decode.wall
    return {
        "name": name, "ours": times.count / times.ours.wall, "peer": bound,
        "ratio": times.ratio(attrgetter("wall"), decoding=decoding), "unit": "images/s", "peer_name": peer_name,
        "note": f"{note}, {default_workers('cpu')} cores: model {model:.0f}, decode {decode:.0f}; in processor time "
        f"{times.ratio(attrgetter('cpu'), decoding=decoding):.2f}",
    }  # fmt: skip


def peak(model: Path, data: Path, output: Path) -> float:
    """MB above the loaded program's at the peak of an extraction of `data`."""
    words = [sys.executable, "-c", _MEMORY, str(model), str(data), str(output)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(words, check=True, capture_output=True, text=True, env=environment)
    return int(done.stdout) / 1024


def run() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as directory:
        where = Path(directory)
        small, large = measure(where, *SMALL), measure(where, *LARGE)
        small_set, large_set = pictures(where / "n", ROWS), pictures(where / "4n", 4 * ROWS)
        tiny = weights(where, "micro")
        one, four = peak(tiny, small_set, where / "n-out"), peak(tiny, large_set, where / "4n-out")
    return [
        result("extract", small, "1/(1/model + 1/decode)", f"RegNetY-{SMALL[0]} at {SMALL[1]} px", decoding=True),
        result("extract_3.2gf", large, "bare model", f"RegNetY-{LARGE[0].upper()} at {LARGE[1]} px", decoding=False),
        {
            "name": "extract_memory", "ours": four, "peer": one, "ratio": four / one, "unit": "MB above start",
            "peer_name": f"{ROWS:,} rows", "note": f"{4 * ROWS:,} rows, three layers; 1.0 is flat",
        },
    ]  # fmt: skip
