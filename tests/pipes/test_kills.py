"""SIGKILL at random moments, full disks and two writers at once: the old set or the new one, never anything else."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seerctl.errors import ExitCode
from seerctl.shards.index import ShardSet
from seerctl.shards.leftovers import LEFTOVER
from seerctl.shards.verify import verify
from tests.streams import listing, numbered, shards_of, stream_of

# Every process is forked from one that has all modules, so that a kill falls into the work and not into imports.
ZYGOTE = r"""
import os, sys, time
import seerctl.commands.shard, seerctl.shards.drop, seerctl.shards.repair, seerctl.shards.writer
from seerctl.cli import main
print("ready", flush=True)
for line in sys.stdin:
    delay, _, arguments = line.rstrip("\n").partition("\t")
    sys.stdout.flush()
    child = os.fork()
    if not child:
        for descriptor in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
        sys.argv = ["seerctl", *arguments.split("\t")]
        try:
            main()
        except SystemExit as end:
            os._exit(int(end.code or 0))
        os._exit(0)
    if float(delay) >= 0:
        time.sleep(float(delay))
        os.kill(child, 9)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


class Runner:
    """Runs command lines one after the other, and kills them after a while if asked to."""

    def __init__(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", ZYGOTE], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         text=True)  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def __call__(self, *arguments: object, after: float = -1.0) -> int:
        """The exit code; -9 where it was killed, `after` seconds from its start."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\t".join([str(after), *map(str, arguments)]) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End it."""
        self._process.communicate(timeout=30)


@pytest.fixture(scope="module")
def run() -> Iterator[Runner]:
    runner = Runner()
    yield runner
    runner.close()


def keys_of(directory: Path) -> list[str]:
    with ShardSet.open(directory) as shards:
        assert verify(shards) == []
        return [sample.key for sample in shards]


def keys_in(directory: Path) -> set[str] | None:
    """The keys of the set in a directory, every byte proved; None where there is none."""
    return set(keys_of(directory)) if (directory / "index.json").is_file() else None


def clean(directory: Path) -> bool:
    """Whether nothing but the set lies there."""
    with ShardSet.open(directory) as shards:
        names = [entry["url"] for entry in shards.index["shardlist"]]
    return sorted(listing(directory)) == sorted(["index.json", *names, *(f"{name}.idx" for name in names)])


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Streams one.tar (300 samples) and two.tar (300, of which 100 are in one), sets a and b of them, a damaged one."""
    where = tmp_path_factory.mktemp("material")
    for name, numbers in (("one", range(300)), ("two", range(200, 500))):
        (where / f"{name}.tar").write_bytes(stream_of(numbered(numbers)))
    shards_of(where / "a", (where / "one.tar").read_bytes(), maxcount=30)
    shards_of(where / "b", (where / "two.tar").read_bytes(), maxcount=30)
    shutil.copytree(where / "a", where / "damaged")
    for number in (1, 4, 7):
        path = where / "damaged" / f"shard-00000{number}.tar"
        data = bytearray(path.read_bytes())
        with ShardSet.open(where / "a") as shards:
            data[data.index(shards.read(30 * number + 3).image)] ^= 1
        path.write_bytes(data)
    with ShardSet.open(where / "a") as shards:
        gone = [shards.read(position).meta["sha256"] for position in range(0, 300, 40)]
    (where / "list.txt").write_text("\n".join(gone) + "\n")
    return where


SHUFFLE = ("--shuffle", "--seed", 3, "--shuffle-memory", "60K", "--maxcount", 25)


def commands(material: Path, out: Path) -> dict[str, tuple[str | None, tuple[Any, ...]]]:
    """By name: the set that stands in `out` before (None: nothing), and the command line."""
    return {
        "shard": (None, ("shard", material / "one.tar", "-o", out, "--maxcount", 7, "--append")),
        "append": ("a", ("shard", material / "two.tar", "-o", out, "--maxcount", 7, "--append")),
        "shuffle": (None, ("shard", material / "one.tar", material / "two.tar", "-o", out, *SHUFFLE)),
        "shuffled append": ("a", ("shard", material / "two.tar", "-o", out, *SHUFFLE, "--append")),
        "reshard": (None, ("shard", material / "a", material / "b", "-o", out, *SHUFFLE)),
        "reshard append": ("a", ("shard", material / "b", "-o", out, "--maxcount", 9, "--append", "--energon")),
        "drop": ("a", ("shard", "--drop", material / "list.txt", out)),
        "repair": ("damaged", ("shard", "--repair", out)),
    }


def trial(run: Runner, material: Path, where: Path, name: str, randomness: random.Random) -> None:
    """Kill one command at some moment, look, then run it again and look whether it is as if nothing had happened."""
    undisturbed, out = where / f"{name}-undisturbed", where / name
    before, command = commands(material, undisturbed)[name]
    if not undisturbed.exists():
        if before:
            shutil.copytree(material / before, undisturbed)
        started = time.monotonic()
        assert run(*command) == 0
        (where / f"{name}.seconds").write_text(str(time.monotonic() - started))
    seconds = float((where / f"{name}.seconds").read_text())
    wanted = keys_of(undisturbed)
    shutil.rmtree(out, ignore_errors=True)
    if before:
        shutil.copytree(material / before, out)
    old = keys_in(material / before) if before and before != "damaged" else None
    _, command = commands(material, out)[name]
    code = run(*command, after=randomness.uniform(0.0, 1.1 * seconds))
    assert code in (0, -signal.SIGKILL)
    if before != "damaged":
        assert keys_in(out) in (old, set(wanted))
    again = run(*command)
    assert again == 0 or (code == 0 and again == ExitCode.USAGE), (name, again)
    assert keys_of(out) == wanted
    if name != "reshard append":
        assert clean(out)


@pytest.mark.parametrize("name", list(commands(Path(), Path())))
def test_a_kill_leaves_the_old_set_or_the_new(run: Runner, material: Path, tmp_path: Path, name: str) -> None:
    randomness = random.Random(name)
    for _ in range(2):
        trial(run, material, tmp_path, name, randomness)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_hundred_kills(run: Runner, material: Path, tmp_path: Path) -> None:
    randomness = random.Random(0)
    names = list(commands(Path(), Path()))
    for number in range(200):
        trial(run, material, tmp_path, names[number % len(names)], randomness)


# ------------------------------------------------------------------------------------------------------- full disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB; skipped where none may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", place], capture_output=True, text=True,
                          check=False)  # fmt: skip
    if done.returncode:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_disk_that_fills_leaves_what_stood(run: Runner, material: Path, small_disk: Path) -> None:
    where = small_disk / "set"
    shutil.copytree(material / "a", where)
    before = listing(where)
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    (small_disk / "ballast").write_bytes(bytes(free - 60_000))  # room for the beginning of what comes
    for command in (
        ("shard", material / "two.tar", "-o", where, "--append", "--maxcount", 7),
        ("shard", material / "two.tar", "-o", where, "--append", *SHUFFLE),
        ("shard", material / "b", "-o", where, "--append"),
        ("shard", material / "two.tar", "-o", where, "--overwrite"),
        ("shard", "--drop", material / "list.txt", where),
    ):
        assert run(*command) == ExitCode.ENVIRONMENT, command
        after = listing(where)
        assert {name: after[name] for name in before} == before
        assert [name for name in after.keys() - before.keys() if not LEFTOVER.fullmatch(name)] == [], command
    (small_disk / "ballast").unlink()
    assert run("shard", material / "two.tar", "-o", where, "--append", *SHUFFLE) == 0
    assert len(keys_of(where)) == 500
    assert clean(where)


# ------------------------------------------------------------------------------------------------- writers at once


def test_two_writers_at_once_do_not_mix(material: Path, tmp_path: Path) -> None:
    def start(*arguments: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "seerctl", *map(str, arguments)], stderr=subprocess.PIPE)

    for number, second in enumerate(
        [
            ("shard", material / "two.tar", "--append", *SHUFFLE),
            ("shard", material / "b", "--append"),
            ("shard", "--drop", material / "list.txt"),
            ("shard", "--repair"),
        ]
    ):
        where = tmp_path / str(number)
        shutil.copytree(material / "a", where)
        pair = [
            start("shard", material / "two.tar", "--append", "--maxcount", 1, "-o", where),
            start(*second, "-o", where),
        ]
        codes = []
        for process in pair:
            _, told = process.communicate(timeout=120)
            codes.append(process.returncode)
            assert process.returncode in (0, ExitCode.ENVIRONMENT), told
            assert (process.returncode == 0) or b"another seerctl is writing here" in told
        assert 0 in codes
        keys = set(keys_of(where))
        whole = {key for name in "ab" for key in keys_of(material / name)}
        assert keys <= whole
        assert len(keys) >= 300 - 8
        assert clean(where)
