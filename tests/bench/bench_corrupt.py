"""The 19 corruptions at 224 px, one core, against imagecorruptions-imaug, or against decode and resize without it.

The peer needs OpenCV, scikit-image and numba: it lives in an environment of its own, whose python SEERCTL_BENCH_PEER
names (`python -m venv peer; peer/bin/pip install imagecorruptions-imaug`).
"""

from __future__ import annotations

import io
import json
import os
import statistics
import subprocess
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

from seerctl.augment.corruptions import FAMILIES, NAMES, Corruption
from seerctl.features.pixels import View

SIDE, IMAGES, TURNS = 224, 4, 3
PEER = """
import sys, time, json, warnings
warnings.simplefilter("ignore")
import cv2, numpy as np
cv2.setNumThreads(1)
from imagecorruptions import corrupt
pictures = np.frombuffer(sys.stdin.buffer.read(int(sys.argv[1])), np.uint8).reshape(-1, {side}, {side}, 3)
for name in sys.argv[2:]:
    corrupt(pictures[0], corruption_name=name, severity=1)
for line in sys.stdin.buffer:
    name, started = line.decode().strip(), time.process_time()
    for severity in range(1, 6):
        for picture in pictures:
            corrupt(picture, corruption_name=name, severity=severity)
    print(json.dumps(time.process_time() - started), flush=True)
"""


def jpegs() -> list[bytes]:
    """500x375 pictures cut from scikit-learn's two photographs, quality 90."""
    generator, pictures = np.random.default_rng(0), []
    for number in range(IMAGES):
        source = Image.fromarray(load_sample_images().images[number % 2])
        left, top = generator.integers(0, 640 - 500), generator.integers(0, 427 - 375)
        buffer = io.BytesIO()
        source.crop((left, top, left + 500, top + 375)).save(buffer, "JPEG", quality=90)
        pictures.append(buffer.getvalue())
    return pictures


def ours(name: str, pictures: NDArray[np.uint8]) -> float:
    """Seconds of processor time for every picture at every severity."""
    started = time.process_time()
    for severity in range(1, 6):
        for number, picture in enumerate(pictures):
            Corruption(name, severity)(picture, str(number))
    return time.process_time() - started


class Peer:
    """The peer in a process of its own, asked in turn with ours."""

    def __init__(self, python: str, pictures: NDArray[np.uint8]) -> None:
        command = [python, "-c", PEER.format(side=SIDE), str(pictures.nbytes), *NAMES]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdin is not None
        self.process.stdin.write(pictures.tobytes())

    def __call__(self, name: str) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{name}\n".encode())
        self.process.stdin.flush()
        return float(json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        self.process.communicate()


def run() -> list[dict[str, Any]]:
    files = jpegs()
    view = View.of(SIDE)
    pictures = np.stack([view(data) for data in files])
    python = os.environ.get("SEERCTL_BENCH_PEER")
    if python is None:
        return _against_decoding(files, view, pictures)
    peer = Peer(python, pictures)
    seconds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in NAMES}
    for turn in range(TURNS + 1):
        for name in NAMES:
            pair = ours(name, pictures), peer(name)
            for side, value in zip(seconds[name], pair, strict=True):
                if turn:
                    side.append(value)
    peer.close()
    medians = {name: tuple(map(statistics.median, sides)) for name, sides in seconds.items()}
    groups = {"corrupt": NAMES, **{f"corrupt_{family}": names for family, names in FAMILIES.items()}}
    groups |= {f"corrupt_{name}": (name,) for name in NAMES}
    return [
        _result(name, names, *(sum(medians[one][side] for one in names) for side in (0, 1)), "imagecorruptions-imaug")
        for name, names in groups.items()
    ]


def _against_decoding(files: list[bytes], view: View, pictures: NDArray[np.uint8]) -> list[dict[str, Any]]:
    """Without the peer: what corrupting costs beside reading the same pictures."""

    def decode() -> float:
        started = time.process_time()
        for _ in range(5):
            for data in files:
                view(data)
        return time.process_time() - started

    results = []
    for family, names in FAMILIES.items():
        pairs = [(sum(ours(name, pictures) for name in names) / len(names), decode()) for _ in range(TURNS + 1)][1:]
        mine, other = (statistics.median(side) for side in zip(*pairs, strict=True))
        results.append(_result(f"corrupt_{family}", (family,), mine, other, "decode and resize"))
    return results


def _result(name: str, names: tuple[str, ...], mine: float, other: float, peer: str) -> dict[str, Any]:
    count = 5 * IMAGES * len(names)
    return {
        "name": name, "ours": count / mine, "peer": count / other, "ratio": other / mine, "unit": "images/s/core",
        "peer_name": peer, "note": f"{SIDE} px, severities 1 to 5, CPU time",
    }  # fmt: skip
