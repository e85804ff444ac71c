"""Peak memory of `ingest` and `shard` with ten times the input: bar, at most 10 % more.

The peak is the sum over all processes of a command of the most that each held (VmHWM). `shard` remembers which keys it
has seen in a table of 16-byte entries in a file of $TMPDIR, which the system may keep in memory: that is taken off.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

from seerctl.stream.records import encode_sample
from seerctl.stream.writer import StreamWriter
from tests.streams import meta_of

DATA = Path(os.environ.get("SEERCTL_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
SEERCTL = [sys.executable, "-m", "seerctl"]
TIMES = 10
SAMPLES, SAMPLE_BYTES = 3000, 4000
SECONDS_BETWEEN = 0.02


def run() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(dir=os.environ.get("SEERCTL_BENCH_DIR")) as scratch:
        results = []
        if (DATA / "SOURCES.csv").is_file():
            results.append(_row("memory_ingest", _ingest, "clothing, 941 photographs"))
        for name, more in (("", ()), ("_shuffle", ("--shuffle", "--shuffle-memory", "8M"))):
            work = _shard_into(Path(scratch) / "set", more)
            results.append(_row(f"memory_shard{name}", work, f"{SAMPLES:,} samples of {SAMPLE_BYTES:,} bytes"))
    return results


def _row(name: str, work: Callable[[int], int], what: str) -> dict[str, Any]:
    once, more = work(1), work(TIMES)
    return {"name": name, "ours": more / 1e6, "peer": once / 1e6, "ratio": more / once, "unit": "MB", "peer_name": "1x",
            "note": f"{what}, {TIMES} times; the ratio may be 1.1"}  # fmt: skip


def _ingest(times: int) -> int:
    command = [*SEERCTL, "ingest", "-q", "--jobs", "2", *[str(DATA / "clothing")] * times]
    return peak(subprocess.Popen(command, stdout=subprocess.DEVNULL))


def _shard_into(output: Path, more: Iterable[str]) -> Callable[[int], int]:
    def work(times: int) -> int:
        shutil.rmtree(output, ignore_errors=True)
        command = [*SEERCTL, "shard", "-q", "--maxsize", "5M", "-o", str(output), *more]
        process = subprocess.Popen(command, stdin=subprocess.PIPE)
        assert process.stdin is not None
        writer = threading.Thread(target=_write, args=(process.stdin, SAMPLES * times))
        writer.start()
        found = peak(process)
        writer.join()
        return found

    return work


def _write(file: BinaryIO, count: int) -> None:
    """A stream of `count` samples that differ."""
    with file:
        writer = StreamWriter(file, {"check": "decode"})
        filler = os.urandom(SAMPLE_BYTES)
        for number in range(count):
            data = number.to_bytes(8, "big") + filler
            writer.write(*encode_sample(data, "jpg", meta_of(data, f"{number}.jpg", {"label": str(number % 10)})))
        writer.finish({})


def peak(process: subprocess.Popen[bytes]) -> int:
    """The bytes that a command and its helpers held at most, each at its own moment, without the table of keys."""
    most: dict[int, int] = {}
    while process.poll() is None:
        for pid in _family(process.pid):
            held = _held(pid)
            most[pid] = max(most.get(pid, 0), held)
        try:
            process.wait(SECONDS_BETWEEN)
        except subprocess.TimeoutExpired:
            continue
    assert process.returncode == 0
    return sum(most.values())


def _family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    try:
        text = "".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    except OSError:
        return [pid]
    return [pid, *(one for child in text.split() for one in _family(int(child)))]


def _held(pid: int) -> int:
    """The most that a process held so far, in bytes, but for what it maps of files that have no name."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        maps = Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return 0
    high = next((1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)
    tables = (line.split()[0].split("-") for line in maps.splitlines() if line.endswith("(deleted)"))
    return high - sum(int(end, 16) - int(begin, 16) for begin, end in tables)
