"""SIGKILL at random moments, full disks and two writers at once: the old set or the new one, never anything else."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from seerctl.errors import ExitCode
from seerctl.shards.index import ShardSet, split_paths
from seerctl.shards.leftovers import LEFTOVER
from seerctl.shards.verify import verify
from tests.pictures import draw
from tests.pipes.zygote import Kill, Ran, Runner
from tests.streams import listing, numbered, shards_of, stream_of

Contents = list[tuple[Path, str, str, dict[str, Any]]]
CHANGING = ("lineage", "duplicates", "rejects", "seal", "shuffled")  # what an index says of runs, not of samples


@pytest.fixture(scope="module")
def run() -> Iterator[Runner]:
    runner = Runner()
    yield runner
    runner.close()


def places(directory: Path) -> list[Path]:
    """The set in a directory, or those of its splits."""
    return [directory] if (directory / "index.json").is_file() else list(split_paths(directory).values())


def contents(directory: Path) -> Contents:
    """Place, key, SHA-256 of the bytes, and json of every sample of a set, in its order; every byte proved."""
    found: Contents = []
    for place in places(directory):
        with ShardSet.open(place) as shards:
            assert verify(shards) == []
            found += [(place.relative_to(directory), one.key, hashlib.sha256(one.image).hexdigest(), one.meta)
                      for one in shards]  # fmt: skip
    return found


def keys_of(directory: Path) -> list[str]:
    return [key for _, key, _, _ in contents(directory)]


def clean(directory: Path, *others: str) -> bool:
    """Whether nothing but the set lies there, and `others`."""
    wanted = {directory / name for name in others}
    for place in places(directory):
        names = [entry["url"] for entry in _index(place)["shardlist"]]
        wanted |= {place / name for name in ("index.json", *names, *(f"{name}.idx" for name in names))}
    return {directory / name for name in listing(directory)} == wanted


def indexes(directory: Path) -> list[dict[str, Any]]:
    """What the indexes say of the samples."""
    return [
        {name: value for name, value in _index(place).items() if name not in CHANGING} for place in places(directory)
    ]


def _index(place: Path) -> dict[str, Any]:
    index: dict[str, Any] = json.loads((place / "index.json").read_bytes())
    return index


# ------------------------------------------------------------------------------------------------------------ kills


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Streams one.tar (200 samples) and two.tar (200, of which 70 are in one), sets a and b of them, a damaged one, and
    a folder of 400 pictures: 380 different ones, 12 of them once more, 8 broken."""
    where = tmp_path_factory.mktemp("material")
    for name, numbers in (("one", range(200)), ("two", range(130, 330))):
        (where / f"{name}.tar").write_bytes(stream_of(numbered(numbers)))
    shards_of(where / "a", (where / "one.tar").read_bytes(), maxcount=20)
    shards_of(where / "b", (where / "two.tar").read_bytes(), maxcount=20)
    shutil.copytree(where / "a", where / "damaged")
    for number in (1, 4, 7):
        path = where / "damaged" / f"shard-00000{number}.tar"
        data = bytearray(path.read_bytes())
        with ShardSet.open(where / "a") as shards:
            data[data.index(shards.read(20 * number + 3).image)] ^= 1
        path.write_bytes(data)
    with ShardSet.open(where / "a") as shards:
        gone = [shards.read(position).meta["sha256"] for position in range(0, 200, 40)]
    (where / "list.txt").write_text("\n".join(gone) + "\n")
    for number in range(400):
        path = where / "pictures" / f"{number % 8}" / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number % 50 == 25:
            path.write_bytes(b"\xff\xd8\xff broken")
        else:
            draw(number - 12 if number >= 388 else number, 24, 24).save(path)
    return where


@dataclass(frozen=True, slots=True)
class Operation:
    """A pipeline that makes or changes a set.

    before: the set that stands there first. stands: whether that set, or the new one, stands at any moment; if not,
    there may be none for a while, or one split without the other. beside: other files that belong there.
    """

    commands: Callable[[Path, Path], list[tuple[Any, ...]]]
    before: str | None = None
    stands: bool = True
    beside: tuple[str, ...] = ()


def _ingest(material: Path, out: Path, more: tuple[str, ...] = ()) -> list[tuple[Any, ...]]:
    ledger = out / "rejects.jsonl"
    return [
        ("ingest", material / "pictures", "--skip-known", out, "--rejects", ledger, "--jobs", 2, *more),
        ("shard", "--append", "-o", out, "--maxcount", 30),
    ]


SHUFFLE = ("--shuffle", "--seed", 3, "--shuffle-memory", "40K", "--maxcount", 25)
SIDE_FILES = (".nv-meta/.info.json", ".nv-meta/dataset.yaml", ".nv-meta/split.yaml")
OPERATIONS = {
    "ingest": Operation(_ingest, beside=("rejects.jsonl",)),
    "ingest dedup": Operation(functools.partial(_ingest, more=("--dedup", "exact")), beside=("rejects.jsonl",)),
    "shard": Operation(lambda at, out: [("shard", at / "one.tar", "-o", out, "--maxcount", 7, "--append")]),
    "plain": Operation(lambda at, out: [("shard", at / "one.tar", "-o", out, "--maxcount", 7)]),
    "append": Operation(lambda at, out: [("shard", at / "two.tar", "-o", out, "--maxcount", 7, "--append")], "a"),
    "split": Operation(lambda at, out: [("shard", at / "one.tar", "-o", out, "--maxcount", 9, "--append",
                                         "--split", "train=0.7,val=0.3")], stands=False),
    "overwrite": Operation(lambda at, out: [("shard", at / "two.tar", "-o", out, "--maxcount", 30, "--overwrite")], "a",
                           stands=False),
    "shuffle": Operation(lambda at, out: [("shard", at / "one.tar", at / "two.tar", "-o", out, *SHUFFLE)]),
    "shuffled append": Operation(lambda at, out: [("shard", at / "two.tar", "-o", out, *SHUFFLE, "--append")], "a"),
    "reshard": Operation(lambda at, out: [("shard", at / "a", at / "b", "-o", out, *SHUFFLE)]),
    "reshard append": Operation(lambda at, out: [("shard", at / "b", "-o", out, "--maxcount", 9, "--append",
                                                  "--energon")], "a", beside=SIDE_FILES),
    "drop": Operation(lambda at, out: [("shard", "--drop", at / "list.txt", out)], "a"),
    "repair": Operation(lambda at, out: [("shard", "--repair", out)], "damaged", stands=False),
}  # fmt: skip


class Trials:
    """Kills: each operation is run once undisturbed, then again and again with a kill, and afterwards a second time."""

    def __init__(self, run: Runner, material: Path, where: Path) -> None:
        self.run, self.material, self.where = run, material, where
        self.killed = self.ended = 0
        self._whole: dict[str, tuple[Ran, Contents]] = {}

    def _begin(self, name: str, out: Path) -> list[tuple[Any, ...]]:
        operation = OPERATIONS[name]
        shutil.rmtree(out, ignore_errors=True)
        if operation.before:
            shutil.copytree(self.material / operation.before, out)
        return operation.commands(self.material, out)

    def undisturbed(self, name: str) -> tuple[Ran, Contents]:
        """How a whole run went, and what it made."""
        if name not in self._whole:
            out = self.where / f"{name}-undisturbed"
            ran = self.run.pipe(self._begin(name, out))
            assert set(ran.codes) == {0}, ran
            self._whole[name] = ran, contents(out)
        return self._whole[name]

    def moment(self, name: str, share: float, number: int) -> Kill:
        """The kill at `share` of a run: of its time, or of the files that it touches; of one, the other, or both."""
        ran, _ = self.undisturbed(name)
        victim = number // 2 % len(ran.codes) if number % 7 else -1
        if number % 2:
            return Kill(victim, after=share * ran.seconds)
        return Kill(victim, file=1 + int(share * ran.touched[victim]))

    def trial(self, name: str, *kills: Kill) -> None:
        """Kill one run after the other, look, run it again, and look whether it is as if nothing had happened."""
        out, told = self.where / name, (name, kills)
        commands = self._begin(name, out)
        for kill in kills:
            broken = self.run.pipe(commands, kill)
            self.killed += -signal.SIGKILL in broken.codes
            assert self._stands(name, out), told
        done = name in ("plain", "shuffle", "reshard") and (out / "index.json").is_file()  # refused: it is there
        again = self.run.pipe(commands)
        assert set(again.codes) == {ExitCode.USAGE if done else ExitCode.DONE}, (*told, again)
        _, wanted = self.undisturbed(name)
        undisturbed = self.where / f"{name}-undisturbed"
        assert contents(out) == wanted, told
        assert indexes(out) == indexes(undisturbed), told
        assert clean(out, *OPERATIONS[name].beside), (*told, sorted(listing(out)))
        if "rejects.jsonl" in OPERATIONS[name].beside:
            rejects = [set((place / "rejects.jsonl").read_text().splitlines()) for place in (out, undisturbed)]
            assert rejects[0] == rejects[1], told

    def _stands(self, name: str, out: Path) -> bool:
        """Whether the old set or the new one is there, whole, if one has to be."""
        operation = OPERATIONS[name]
        if operation.before == "damaged":
            return True
        found, (_, new) = contents(out), self.undisturbed(name)
        old = contents(self.material / operation.before) if operation.before else []
        if not operation.stands:  # each split by itself, or nothing
            there = {place for place, *_ in found}
            return found in (old, [sample for sample in new if sample[0] in there])
        return found in (old, new)


@pytest.mark.parametrize("name", list(OPERATIONS))
def test_a_kill_leaves_the_old_set_or_the_new(run: Runner, material: Path, tmp_path: Path, name: str) -> None:
    generator, trials = random.Random(name), Trials(run, material, tmp_path)
    kills = [trials.moment(name, generator.random(), number) for number in range(1, 3 if "ingest" in name else 2)]
    trials.trial(name, *kills)


SHARES = {"ingest": 30, "ingest dedup": 20, "plain": 15, "shard": 15, "append": 15, "split": 10, "overwrite": 10,
          "shuffle": 20, "shuffled append": 10, "reshard": 25, "reshard append": 15, "drop": 10,
          "repair": 5}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [0])
def test_two_hundred_kills(run: Runner, material: Path, tmp_path: Path, seed: int) -> None:
    """Moments spread evenly over each operation's time and over the files that it touches; some after its end."""
    generator, trials = random.Random(seed), Trials(run, material, tmp_path)
    for name, count in SHARES.items():
        kills = [trials.moment(name, 1.05 * (number + generator.random()) / count, number) for number in range(count)]
        in_a_row = 2 if "ingest" in name else 1
        generator.shuffle(kills)
        for number in range(0, count, in_a_row):
            trials.trial(name, *kills[number : number + in_a_row])
    assert sum(SHARES.values()) == 200
    assert trials.killed >= 170


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
    assert len(keys_of(where)) == 330
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
        assert len(keys) >= 200 - 5
        assert clean(where)
