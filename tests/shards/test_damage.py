"""Every cut and every flipped bit in streams and shards of real pictures is noticed by `shard` and by `verify`."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result

from seerctl.errors import ExitCode, InputError
from seerctl.shards.index import INDEX, ShardSet
from seerctl.shards.repair import repair_sets
from seerctl.shards.verify import verify
from seerctl.sources.ingest import IngestOptions, ingest
from seerctl.stream.reader import IncompleteStreamError, read_streams
from seerctl.stream.ustar import BLOCK
from tests.streams import shards_of

FLIPS = 1000


def smallest(folder: Path, pattern: str, count: int) -> list[str]:
    """The paths of the smallest files below `folder`."""
    files = [path for path in folder.rglob(pattern) if path.is_file()]
    return [str(path) for path in sorted(files, key=lambda path: (path.stat().st_size, path.name))[:count]]


@pytest.fixture(scope="session")
def real_stream(shared_data: Path) -> bytes:
    """A stream of ten small real pictures: photographs, drawings, odd formats."""
    names = smallest(shared_data / "clothing", "*.jpg", 3) + smallest(shared_data / "emoji", "*.png", 3)
    names += smallest(shared_data / "photos" / "odd", "*.*", 4)
    file = io.BytesIO()
    assert ingest(names, file, IngestOptions()).samples >= 8
    return file.getvalue()


@pytest.fixture
def real_set(real_stream: bytes, tmp_path: Path) -> Path:
    """Its shards, four samples each."""
    shards_of(tmp_path / "set", real_stream, maxcount=4)
    return tmp_path / "set"


def read(stream: bytes | bytearray) -> int:
    """How many samples came, if the whole stream is sound."""
    return sum(1 for _ in read_streams(io.BytesIO(stream), "stdin"))


def faults(directory: Path) -> list[str]:
    with ShardSet.open(directory) as shards:
        return [str(damage) for damage in verify(shards)]


def flips(size: int, seed: int, count: int = FLIPS) -> Iterator[tuple[int, int]]:
    """(byte, mask) of `count` different bits of `size` bytes, one for the very first and the very last."""
    bits = {0, 8 * size - 1, *random.Random(seed).sample(range(8 * size), count - 2)}
    return ((bit // 8, 1 << bit % 8) for bit in sorted(bits))


def test_a_real_stream_cut_at_any_block_is_noticed(real_stream: bytes) -> None:
    assert read(real_stream) >= 9
    for cut in range(0, len(real_stream), BLOCK):
        with pytest.raises(IncompleteStreamError):
            read(real_stream[:cut])


def test_a_real_stream_with_any_flipped_bit_is_noticed(real_stream: bytes) -> None:
    broken = bytearray(real_stream)
    for at, mask in flips(len(broken), 1):
        broken[at] ^= mask
        with pytest.raises(InputError):
            read(broken)
        broken[at] ^= mask
    assert broken == real_stream


def test_shard_makes_no_set_of_a_broken_stream(
    real_stream: bytes, tmp_path: Path, seerctl: Callable[..., Result]
) -> None:
    generator = random.Random(2)
    for number, at in enumerate((0, BLOCK, len(real_stream) - 1, *generator.sample(range(len(real_stream)), 7))):
        flipped = real_stream[:at] + bytes([real_stream[at] ^ 1 << generator.randrange(8)]) + real_stream[at + 1 :]
        for name, stream in (("cut", real_stream[:at]), ("flipped", flipped)):
            output = tmp_path / f"{name}-{number}"
            result = seerctl("shard", "-o", output, "--maxcount", 2, stdin=stream)
            assert result.exit_code == ExitCode.INPUT, (name, at, result.stderr)
            assert {path.suffix for path in output.iterdir()} <= {".partial"}


def test_real_shards_cut_at_any_block_are_found(real_set: Path) -> None:
    assert faults(real_set) == []
    for path in sorted(real_set.glob("*.tar")):
        whole = path.read_bytes()
        for cut in range(0, len(whole), BLOCK):
            os.truncate(path, cut)
            assert any(f"{path.name}: it has {cut} bytes" in fault for fault in faults(real_set)), (path.name, cut)
            path.write_bytes(whole)
    assert faults(real_set) == []


def test_any_flipped_bit_in_real_shards_is_found(real_set: Path) -> None:
    _flip_each(sorted(real_set.glob("*.tar")), FLIPS, 3)


def test_any_flipped_bit_in_offsets_is_found(real_set: Path) -> None:
    paths = sorted(real_set.glob("*.tar.idx"))
    _flip_each(paths, FLIPS // 4, 4)


def test_any_flipped_bit_in_the_index_is_found(real_set: Path) -> None:
    path = real_set / INDEX
    whole = path.read_bytes()
    for at, mask in flips(len(whole), 5, FLIPS // 2):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ mask]) + whole[at + 1 :])
        try:
            found = faults(real_set)
        except InputError:
            continue
        assert found, (at, whole[max(at - 20, 0) : at + 20], mask)
    path.write_bytes(whole.replace(b'"over_limit": false', b'"over_limit": true'))
    assert faults(real_set) == ["index.json: it is not as it was written"]
    assert [done.rebuilt for done in repair_sets(real_set, dry_run=False)] == [[INDEX]]
    assert faults(real_set) == []


def _flip_each(paths: list[Path], count: int, seed: int) -> None:
    """Flip `count` bits in files of one set, one at a time: `verify` names the shard each time."""
    sizes = [path.stat().st_size for path in paths]
    for at, mask in flips(sum(sizes), seed, count):
        number = 0
        while at >= sizes[number]:
            at -= sizes[number]
            number += 1
        with paths[number].open("rb+", buffering=0) as file:
            old = os.pread(file.fileno(), 1, at)
            os.pwrite(file.fileno(), bytes([old[0] ^ mask]), at)
            found = faults(paths[number].parent)
            os.pwrite(file.fileno(), old, at)
        assert found, (paths[number].name, at, mask)
        assert all(fault.startswith(paths[number].name.removesuffix(".idx")) for fault in found), found
    assert faults(paths[0].parent) == []
    assert (paths[0].parent / INDEX).is_file()
