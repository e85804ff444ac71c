"""`ingest --skip-known DIR | shard --append -o DIR` killed again and again, until the set is that of a whole run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seerctl.shards.index import ShardSet
from seerctl.shards.verify import verify
from tests.pictures import draw

COMMAND = [sys.executable, "-m", "seerctl"]
COUNT = 1500


@pytest.fixture
def many(tmp_path: Path) -> Path:
    root = tmp_path / "many"
    for number in range(COUNT):
        path = root / f"{number % 10}" / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number % 100 == 50:
            path.write_bytes(b"\xff\xd8\xff broken")
        else:
            draw(number, 40, 40).save(path)
    return root


def pipeline(source: Path, output: Path) -> tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]:
    ledger = output / "rejects.jsonl"
    ingest = [*COMMAND, "ingest", source, "--skip-known", output, "--rejects", ledger, "--dedup", "exact", "-q"]
    shard = [*COMMAND, "shard", "--append", "-o", output, "--maxcount", "50", "-q"]
    producer = subprocess.Popen(ingest, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
    consumer = subprocess.Popen(
        shard, stdin=producer.stdout, stderr=subprocess.PIPE, start_new_session=True
    )  # fmt: skip
    assert producer.stdout
    producer.stdout.close()
    return producer, consumer


def test_kills_at_any_moment_lose_nothing_and_double_nothing(many: Path, tmp_path: Path) -> None:
    output, generator = tmp_path / "set", random.Random(7)
    rounds, broken, said = 0, 0, b""
    while rounds < 40:
        rounds += 1
        producer, consumer = pipeline(many, output)
        assert consumer.stderr
        if rounds <= 8:
            time.sleep(generator.uniform(0.3, 1.6))
            victim = (producer, consumer)[generator.randrange(2)]
            if victim.poll() is None:
                os.kill(victim.pid, signal.SIGKILL)
                broken += 1
        codes = producer.wait(60), consumer.wait(60)
        said = consumer.stderr.read()
        consumer.stderr.close()
        if codes == (0, 0):
            break
        assert codes[1] in (0, 4, -9), (codes, said)
    assert codes == (0, 0), said
    assert broken >= 3
    with ShardSet.open(output) as shards:
        assert verify(shards) == []
        sources = [sample.meta["source"] for sample in shards]
    expected = {f"{n % 10}/{n:04d}.jpg" for n in range(COUNT) if n % 100 != 50}
    assert len(sources) == len(set(sources))
    assert set(sources) == expected
    assert not list(output.glob("*.tmp"))
    assert not list(output.glob("*.partial"))
