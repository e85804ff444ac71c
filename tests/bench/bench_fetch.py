"""Fetching 3,000 images from loopback, against img2dataset in an environment of its own: while working, and altogether.

Both keep the original bytes and decode nothing (`--check header`). The server, a process of its own, says when it was
asked first and when it had answered last: the time of work. img2dataset is installed once, below $XDG_CACHE_HOME.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.pictures import draw

SLOW = True
COUNT = 3000
ROUNDS = 3
DATA = Path(os.environ.get("SEERCTL_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seerctl-bench" / "img2dataset"
PROCESSES = len(os.sched_getaffinity(0))
PEER = """
import sys
from img2dataset import download
if __name__ == "__main__":
    table, output, processes = sys.argv[1:]
    download(url_list=table, output_folder=output, processes_count=int(processes), thread_count=32, input_format="csv",
             url_col="url", output_format="webdataset", resize_mode="no", disable_all_reencoding=True,
             number_sample_per_shard=500, enable_wandb=False, extract_exif=False, retries=0)
"""
SERVER = """
import asyncio, sys, time
from pathlib import Path
files = [Path(name).read_bytes() for name in Path(sys.argv[1]).read_text().split("\\n")]
HEAD = b"HTTP/1.1 200 OK\\r\\nContent-Type: image/jpeg\\r\\nConnection: %b\\r\\nContent-Length: %d\\r\\n\\r\\n"
times = []
async def serve(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            name = head.split(b" ", 2)[1].strip(b"/").split(b".")[0]
            if name == b"times":
                data = b"%.6f" % (times[-1] - times[0])
                times.clear()
            else:
                times.append(time.perf_counter())
                data = files[int(name) % len(files)]
            close = b"connection: close" in head.lower()
            writer.write(HEAD % (b"close" if close else b"keep-alive", len(data)) + data)
            await writer.drain()
            if name != b"times":
                times.append(time.perf_counter())
            if close:
                break
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()
asyncio.run(main())
"""


def peer_python() -> Path:
    """The interpreter of an environment with img2dataset, which needs a webdataset before 1.0."""
    python = CACHE / "bin" / "python"
    if not (CACHE / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", CACHE], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "img2dataset", "setuptools<81"], check=True)
        (CACHE / "ready").touch()
    return python


def pictures(where: Path) -> list[Path]:
    """Photographs of clothing, or drawings where they are absent."""
    found = sorted((DATA / "clothing").rglob("*.jpg"))
    if not found:
        for number in range(200):
            draw(number, 500, 375).save(where / f"{number}.jpg", quality=90)
        found = sorted(where.glob("*.jpg"))
    return found


@contextmanager
def served(where: Path) -> Iterator[tuple[Path, str]]:
    """A table of `COUNT` URLs on loopback, served until the block ends; the URL that tells the time of work."""
    (where / "files").write_text("\n".join(map(str, pictures(where))))
    with subprocess.Popen([sys.executable, "-c", SERVER, where / "files"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        root = f"http://127.0.0.1:{int(server.stdout.readline())}"
        with (where / "urls.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["url"], *([f"{root}/{number}.jpg"] for number in range(COUNT))])
        try:
            yield where / "urls.csv", f"{root}/times"
        finally:
            server.terminate()


def ours(table: Path, output: Path) -> None:
    """`seerctl ingest`, all pictures into one stream."""
    command = [sys.executable, "-m", "seerctl", "ingest", table, "--allow-private", "--check", "header", "-o", output]
    done = subprocess.run([*command, "-j", str(PROCESSES)], capture_output=True, text=True, check=True)
    assert f"{COUNT:,} out" in done.stderr, done.stderr


def peer(table: Path, output: Path) -> None:
    """img2dataset, 500 pictures a shard."""
    script = output.parent / "peer.py"  # its processes import the main module again: it has to be a file
    script.write_text(PEER)
    subprocess.run(
        [peer_python(), script, table, output, str(PROCESSES)],
        env={**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"}, capture_output=True, check=True,
    )  # fmt: skip
    stats = [json.loads(path.read_text()) for path in output.glob("*_stats.json")]
    assert sum(row["successes"] for row in stats) == COUNT


def timed(command: Callable[[Path, Path], None], table: Path, output: Path, times: str) -> tuple[float, float]:
    """(images a second from the first request to the last answer, seconds of the whole command)."""
    started = time.perf_counter()
    command(table, output)
    seconds = time.perf_counter() - started
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(times, timeout=30) as answer:
        return COUNT / float(answer.read()), seconds


def run() -> list[dict[str, Any]]:
    peer_python()
    mine, theirs = [], []
    with tempfile.TemporaryDirectory() as directory, served(Path(directory)) as (table, times):
        for number in range(ROUNDS):
            mine.append(timed(ours, table, Path(directory) / f"ours-{number}.tar", times))
            theirs.append(timed(peer, table, Path(directory) / f"peer-{number}", times))
    note = f"{COUNT:,} images from loopback, {PROCESSES} processes each, originals kept; best of {ROUNDS}"
    rate, peer_rate = max(mine)[0], max(theirs)[0]
    whole, peer_whole = min(row[1] for row in mine), min(row[1] for row in theirs)
    return [
        _result("fetch_working", rate, peer_rate, rate / peer_rate, "images/s", note),
        _result("fetch_whole", whole, peer_whole, peer_whole / whole, "s", note),
    ]


def _result(name: str, one: float, two: float, ratio: float, unit: str, note: str) -> dict[str, Any]:
    return {"name": name, "ours": one, "peer": two, "ratio": ratio, "unit": unit, "peer_name": "img2dataset",
            "note": note}  # fmt: skip
