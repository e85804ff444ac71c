"""`ingest` against its decoder alone, and `ingest | shard` against `ingest > /dev/null`, on photographs and tiny files.

Bars: on photographs (clothing) `ingest --check decode` at least 0.8 of the decoder's own rate on the same files and
cores; `ingest | shard` at most 15 % more than `ingest > /dev/null`. CIFAR-10 is reported beside. Rows ending in `_cpu`
compare processor seconds of all processes, which other work on the machine disturbs less than the time on the clock.

The bars are read off the large run: the 941 photographs take half a second on two cores, of which starting Python and
importing numpy is a third on either side, so the small run compares starts. The large one is `COPIES` copies under
other names (a name that comes twice would be dropped by `shard` unwritten). Commands find their modules compiled, as
those of an installed package are and as numpy's are for the decoder alone.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

DATA = Path(os.environ.get("SEERCTL_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
COPIES = 10
SEERCTL = [sys.executable, "-m", "seerctl"]
# The call that `--check decode` makes for a JPEG, and reading its bytes: as many processes as cores share a list.
DECODER = """
import json, os, sys
import simplejpeg
places, cores = json.load(open(sys.argv[1])), len(os.sched_getaffinity(0))
def work(mine):
    opened, file = "", -1
    for path, offset, size in mine:
        if path != opened:
            if file >= 0:
                os.close(file)
            opened, file = path, os.open(path, os.O_RDONLY)
        simplejpeg.decode_jpeg(os.pread(file, size, offset), "GRAY", min_factor=8)
children = []
for number in range(cores):
    if (pid := os.fork()) == 0:
        work(places[number::cores])
        os._exit(0)
    children.append(pid)
assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
"""
Spent = tuple[float, float]  # seconds on the clock, processor seconds


def spent(work: Callable[[], None]) -> Spent:
    """What the processes took that `work` starts and waits for."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    work()
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def in_turn(ours: Callable[[], None], peer: Callable[[], None], rounds: int) -> list[tuple[Spent, Spent]]:
    """What both took in each of `rounds`, run alternately after a warm-up."""
    return [(spent(ours), spent(peer)) for _ in range(rounds + 1)][1:]


def run() -> list[dict[str, Any]]:
    if not (DATA / "SOURCES.csv").is_file():
        return []
    results = []
    with tempfile.TemporaryDirectory(dir=os.environ.get("SEERCTL_BENCH_DIR")) as directory:
        scratch = Path(directory)
        for name, copies, rounds in (("small", 1, 7), ("large", COPIES, 3)):
            places = _copies(scratch / name, copies)
            results += _compare(f"clothing_{name}", scratch / name, places, scratch, rounds)
        if (tiny := _cifar(scratch)) is not None:
            results += _compare("cifar", tiny, _members(tiny), scratch, 2)
    return results


def _compare(
    name: str, source: Path, places: Sequence[tuple[str, int, int]], scratch: Path, rounds: int
) -> list[dict[str, Any]]:
    environment = {key: value for key, value in os.environ.items()
                   if key not in ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")}  # fmt: skip
    environment["PYTHONPYCACHEPREFIX"] = str(scratch / "compiled")
    listed, output = scratch / f"{name}.json", scratch / f"{name}-set"
    listed.write_text(json.dumps(places))

    def ingest() -> None:
        subprocess.run([*SEERCTL, "ingest", "-q", source], stdout=subprocess.DEVNULL, env=environment, check=True)

    def decoder() -> None:
        subprocess.run([sys.executable, "-c", DECODER, listed], env=environment, check=True)

    def piped() -> None:
        shutil.rmtree(output, ignore_errors=True)
        producer = subprocess.Popen([*SEERCTL, "ingest", "-q", source], stdout=subprocess.PIPE, env=environment)
        with producer:
            subprocess.run([*SEERCTL, "shard", "-q", "-o", output], stdin=producer.stdout, env=environment, check=True)
        assert producer.returncode == 0

    count = len(places)
    alone = in_turn(ingest, decoder, rounds)
    both = in_turn(piped, ingest, rounds)
    assert json.loads((output / "index.json").read_bytes())["total"] == count
    shutil.rmtree(output)
    return [
        *_rows(f"decoder_{name}", alone, count, "decoder alone", "bar 0.8"),
        *_rows(f"shard_{name}", both, count, "> /dev/null", "rate with shard over rate without, bar 0.87"),
    ]


def _rows(
    name: str, rounds: Sequence[tuple[Spent, Spent]], count: int, peer_name: str, note: str
) -> list[dict[str, Any]]:
    """Median rates by the clock and by processor time; the ratio is the median of those of each round."""
    rows = []
    for which, (suffix, unit) in enumerate((("", "img/s"), ("_cpu", "img/CPU s"))):
        pairs = [(ours[which], peer[which]) for ours, peer in rounds]
        ours, peer = (count / statistics.median(side) for side in zip(*pairs, strict=True))
        rows.append({
            "name": f"{name}{suffix}", "ours": ours, "peer": peer,
            "ratio": statistics.median(theirs / mine for mine, theirs in pairs), "unit": unit, "peer_name": peer_name,
            "note": f"{count} images, {len(rounds)} rounds, {count / ours:.2f} s against {count / peer:.2f}; {note}",
        })  # fmt: skip
    return rows


def _copies(root: Path, copies: int) -> list[tuple[str, int, int]]:
    """Links to the photographs, `copies` times under other names; (path, offset, size) of each."""
    root.mkdir()
    for number in range(copies):
        (root / f"copy-{number}").symlink_to(DATA / "clothing", target_is_directory=True)
    found = sorted(Path(place) / name for place, _, names in os.walk(root, followlinks=True) for name in names
                   if name.endswith(".jpg"))  # fmt: skip
    return [(str(path), 0, path.stat().st_size) for path in found]


def _members(tar: Path) -> list[tuple[str, int, int]]:
    with tarfile.open(tar) as file:
        return [(str(tar), one.offset_data, one.size) for one in file if one.name.endswith(".jpg")]


def _cifar(scratch: Path) -> Path | None:
    """CIFAR-10's training part, a tar of 50,000 pictures."""
    packed = DATA / "cifar10" / "cifar10.tar.xz"
    if not packed.is_file():
        return None
    target = scratch / "cifar.tar"
    with tarfile.open(packed, "r|xz") as outer:
        for member in outer:
            if member.name.endswith("train.tar"):
                inner = outer.extractfile(member)
                assert inner is not None
                with target.open("wb") as file:
                    shutil.copyfileobj(inner, file, 1 << 20)
                return target
    return None
