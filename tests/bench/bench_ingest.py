"""`ingest` against its decoder alone, and `ingest | shard` against `ingest > /dev/null`, on photographs and tiny files.

Bars: on photographs (clothing) `ingest --check decode` at least 0.8 of the decoder's own rate on the same files and
cores; `ingest | shard` at most 15 % more than `ingest > /dev/null`. CIFAR-10 is reported beside. Rows ending in `_cpu`
compare processor seconds of all processes, which other work on the machine disturbs less than the time on the clock.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

DATA = Path(os.environ.get("SEERCTL_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
REPEAT = 4  # times the same folder, so that starting up does not count for much
TURNS = 2
TINY = 10_000
SEERCTL = [sys.executable, "-m", "seerctl"]
# The call that `--check decode` makes for a JPEG, and reading the file; as many processes as cores.
DECODER = """
import os, sys
from pathlib import Path
import simplejpeg
files, repeat, cores = sorted(Path(sys.argv[1]).rglob("*.jpg")), int(sys.argv[2]), len(os.sched_getaffinity(0))
def work(mine):
    for _ in range(repeat):
        for path in mine:
            simplejpeg.decode_jpeg(path.read_bytes(), "GRAY", min_factor=8)
children = []
for number in range(cores):
    if (pid := os.fork()) == 0:
        work(files[number::cores])
        os._exit(0)
    children.append(pid)
assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
"""


def spent(work: Callable[[], None]) -> tuple[float, float]:
    """(seconds on the clock, processor seconds) of the processes that `work` starts and waits for."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    work()
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def in_turn(*works: Callable[[], None]) -> list[tuple[float, float]]:
    """Median (clock, processor) seconds of each, run alternately after a warm-up."""
    found: list[list[tuple[float, float]]] = [[] for _ in works]
    for turn in range(TURNS + 1):
        for times, work in zip(found, works, strict=True):
            one = spent(work)
            if turn:
                times.append(one)
    return [tuple(map(statistics.median, zip(*times, strict=True))) for times in found]  # type: ignore[misc]


def run() -> list[dict[str, Any]]:
    if not (DATA / "SOURCES.csv").is_file():
        return []
    with tempfile.TemporaryDirectory(dir=os.environ.get("SEERCTL_BENCH_DIR")) as scratch:
        photographs = [str(DATA / "clothing")] * REPEAT
        results = _against_decoder(photographs)
        results += _with_shard("clothing", photographs, Path(scratch), 941 * REPEAT)
        tiny = _cifar(Path(scratch))
        results += _with_shard("cifar", [str(tiny)], Path(scratch), TINY) if tiny else []
    return results


def _against_decoder(sources: list[str]) -> list[dict[str, Any]]:
    count = 941 * REPEAT
    ours, peer = in_turn(
        lambda: _quiet([*SEERCTL, "ingest", "-q", *sources]),
        lambda: _quiet([sys.executable, "-c", DECODER, sources[0], str(REPEAT)]),
    )
    note = f"{count} photographs, all cores; bar 0.8"
    return [
        _row("ingest_decoder", count / ours[0], count / peer[0], "img/s", "decoder alone", note),
        _row("ingest_decoder_cpu", count / ours[1], count / peer[1], "img/s", "decoder alone", f"a core; {note}"),
    ]


def _with_shard(name: str, sources: list[str], scratch: Path, count: int) -> list[dict[str, Any]]:
    def piped() -> None:
        output = scratch / f"{name}-set"
        shutil.rmtree(output, ignore_errors=True)
        with subprocess.Popen([*SEERCTL, "ingest", "-q", *sources], stdout=subprocess.PIPE) as producer:
            subprocess.run([*SEERCTL, "shard", "-q", "-o", output], stdin=producer.stdout, check=True)
        assert producer.returncode == 0

    both, alone = in_turn(piped, lambda: _quiet([*SEERCTL, "ingest", "-q", *sources]))
    note = f"{count} images; ratio = rate with shard over rate without, bar 0.87"
    return [
        _row(f"shard_{name}", count / both[0], count / alone[0], "img/s", "> /dev/null", note),
        _row(f"shard_{name}_cpu", count / both[1], count / alone[1], "img/s", "> /dev/null", f"a core; {note}"),
    ]


def _cifar(scratch: Path) -> Path | None:
    """The first `TINY` pictures of CIFAR-10's training part, as a tar."""
    packed = DATA / "cifar10" / "cifar10.tar.xz"
    if not packed.is_file():
        return None
    target = scratch / "cifar.tar"
    with tarfile.open(packed, "r|xz") as outer:
        for member in outer:
            if member.name.endswith("train.tar"):
                inner = outer.extractfile(member)
                assert inner is not None
                with tarfile.open(fileobj=inner, mode="r|") as tar, tarfile.open(target, "w") as few:
                    for number, one in enumerate(tar):
                        if number >= TINY:
                            break
                        few.addfile(one, tar.extractfile(one))
                return target
    return None


def _quiet(command: list[str]) -> None:
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def _row(name: str, ours: float, peer: float, unit: str, peer_name: str, note: str) -> dict[str, Any]:
    return {"name": name, "ours": ours, "peer": peer, "ratio": ours / peer, "unit": unit, "peer_name": peer_name,
            "note": note}  # fmt: skip
