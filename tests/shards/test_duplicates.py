"""Perceptual hashes and the search among them: exact, whatever the hashes look like, and safe from what is hashed."""

from __future__ import annotations

import io
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.fft import dctn

from seerctl.augment.decode import DecodeError
from seerctl.errors import EnvironmentFault, InputError, UsageError
from seerctl.shards import perceptual
from seerctl.shards.duplicates import NearIndex, _count_bits, deal_bits, near_pairs, popcount
from seerctl.shards.index import ShardSet
from seerctl.shards.perceptual import (
    FLAT,
    HASHED,
    UNREADABLE,
    Hash64,
    HashPool,
    ImageHashes,
    grey_hash,
    hash_images,
    hash_set,
    image_hash,
)
from seerctl.sources.worker import Limits
from tests.feature_files import picture_shards
from tests.pictures import draw


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photograph(seed: int, width: int = 300, height: int = 220) -> Image.Image:
    """A drawn picture with grain, so that compression has something to lose."""
    pixels = np.asarray(draw(seed, width, height)).astype(float)
    grain = np.random.default_rng(seed).normal(0, 6, pixels.shape)
    return Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8))


def distance(one: int | None, two: int | None) -> int:
    assert one is not None
    assert two is not None
    return (one ^ two).bit_count()


def brute(a: Hash64, b: Hash64 | None = None, bits: int = 4) -> set[tuple[int, int, int]]:
    found = popcount(a[:, None] ^ (a if b is None else b)[None])
    rows, columns = np.nonzero(found <= bits)
    return {
        (i, j, int(found[i, j])) for i, j in zip(rows.tolist(), columns.tolist(), strict=True) if b is not None or i < j
    }


def flipped(values: Hash64, bits: int, seed: int = 0) -> Hash64:
    places = np.argsort(np.random.default_rng(seed).random((len(values), 64)), axis=1)[:, :bits].astype(np.uint64)
    return np.asarray(values ^ (np.uint64(1) << places).sum(axis=1, dtype=np.uint64))


def random_hashes(count: int, seed: int = 0) -> Hash64:
    return np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64)


# ----------------------------------------------------------------------------------------------------------- the hash


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (320, 160)])
def test_the_hash_is_the_median_test_of_the_low_frequencies(size: tuple[int, int]) -> None:
    """Against SciPy's DCT and a plain block mean, where 32 divides the sides."""
    grey = np.asarray(photograph(3, *size).convert("L"))
    blocks = grey.reshape(32, size[1] // 32, 32, size[0] // 32).mean(axis=(1, 3))
    low = dctn(blocks, norm="ortho")[:8, :8].ravel()
    bits = low > np.median(low[1:])
    bits[0] = False
    assert grey_hash(grey) == int("".join(map(str, bits.astype(int))), 2)


@pytest.mark.parametrize("seed", range(12))
def test_copies_stay_near_and_others_do_not(seed: int) -> None:
    image = photograph(seed)
    original = image_hash(encoded(image, quality=92))
    for quality in (50, 75, 95):
        assert distance(original, image_hash(encoded(image, quality=quality))) <= 4
    half = image.resize((image.width // 2, image.height // 2))
    assert distance(original, image_hash(encoded(half, quality=75))) <= 4
    assert distance(original, image_hash(encoded(image, "PNG"))) <= 4
    assert distance(original, image_hash(encoded(photograph(seed + 100), quality=92))) > 4


def test_orientation_and_transparency_are_seen_as_people_see_them() -> None:
    image = photograph(5)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(image.rotate(90, expand=True), quality=95, exif=exif)
    assert distance(image_hash(encoded(image, quality=95)), image_hash(turned)) <= 4
    clear = image.convert("RGBA")
    clear.putalpha(Image.new("L", image.size, 0))
    assert image_hash(encoded(clear, "PNG")) is None  # all white


def test_flat_pictures_have_no_hash() -> None:
    for level in (0, 128, 255):
        assert image_hash(encoded(Image.new("RGB", (80, 60), (level,) * 3), quality=60)) is None
        assert image_hash(encoded(Image.new("L", (1, 1), level), "PNG")) is None
    assert image_hash(encoded(draw(1, 3, 2), "PNG")) is not None
    with pytest.raises(DecodeError, match="not a format"):  # Pillow would start Ghostscript
        image_hash(encoded(draw(1), "EPS"))


# --------------------------------------------------------------------------------------------------------- the search


def clustered(seed: int) -> Hash64:
    """Random hashes, copies of them at 4 and 5 bits, one hash many times, and a ball that is nearly all pairs."""
    base = random_hashes(500, seed)
    ball = np.full(350, base[0])
    return np.concatenate((base, flipped(base, 4, seed), flipped(base, 5, seed), np.full(90, base[1]),
                           flipped(ball, 2, seed), flipped(ball, 3, seed + 1)))  # fmt: skip


@pytest.mark.parametrize("bits", [0, 1, 2, 3, 4, 6])
def test_every_pair_is_found_once(bits: int) -> None:
    a = clustered(1)
    found = near_pairs(a, distance=bits)
    listed = list(found.pairs())
    assert len(listed) == len(set(listed)) == found.count
    assert set(listed) == brute(a, bits=bits)


def test_pairs_between_two_sets_and_the_nearest_of_each() -> None:
    a = clustered(2)
    b = np.concatenate((flipped(a[::3], 3), a[::5], random_hashes(100, 9)))
    found = near_pairs(a, b)
    wanted = brute(a, b)
    assert set(found.pairs()) == wanted
    assert found.count == len(wanted)
    least: dict[int, int] = {}
    for _, j, bits in wanted:
        least[j] = min(bits, least.get(j, 64))
    nearest = found.nearest()
    assert {j: bits for j, (_, bits) in nearest.items()} == least
    assert {(i, j, bits) for j, (i, bits) in nearest.items()} <= wanted


def test_the_nearest_within_one_set_is_another_picture() -> None:
    a = np.array([5, 5, 5, 4, 1 << 40], np.uint64)
    assert near_pairs(a).nearest() == {0: (1, 0), 1: (0, 0), 2: (0, 0), 3: (0, 1), 4: (3, 2)}


@pytest.mark.parametrize("shared", [0, 20, 45])
def test_distance_four_is_guaranteed_also_when_bits_are_shared(shared: int) -> None:
    """Buckets as large as the set: the search has to go on by the other bits."""
    base = random_hashes(6000, 4) << np.uint64(shared)
    base = base[np.sort(np.unique(base, return_index=True)[1])]
    copies = flipped(base, 4, 5)
    found = near_pairs(base, copies)
    assert {(row, row, 4) for row in range(len(base))} <= set(found.pairs())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 4095), max_size=60), st.integers(0, 14))
def test_any_hashes(values: list[int], bits: int) -> None:
    a = np.array(values, np.uint64)
    assert set(near_pairs(a, distance=bits).pairs()) == brute(a, bits=bits)


def test_too_many_pairs_are_refused() -> None:
    with pytest.raises(UsageError, match="more than 1,000 pairs"):
        near_pairs(clustered(3), limit=1000)
    assert near_pairs(np.full(100_000, 7, np.uint64), limit=0).count == 100_000 * 99_999 // 2
    with pytest.raises(ValueError, match="distance"):
        near_pairs(np.zeros(1, np.uint64), distance=15)


def test_pictures_without_a_hash_take_no_part() -> None:
    hashes = ImageHashes(np.zeros(4, np.uint64), np.array([HASHED, FLAT, UNREADABLE, HASHED], np.uint8))
    assert list(near_pairs(hashes).pairs()) == [(0, 3, 0)]


def test_bands_hold_every_bit_once_and_bits_are_counted_without_numpy_2() -> None:
    for count in range(1, 17):
        bands = deal_bits(2**64 - 1, count)
        assert len(bands) == count
        assert sum(bands) == 2**64 - 1
    values = random_hashes(1000)
    assert _count_bits(values).tolist() == [value.bit_count() for value in values.tolist()]


@pytest.mark.parametrize("bits", [0, 2, 4])
def test_the_index_answers_as_the_search_does(bits: int) -> None:
    values = clustered(6)[np.random.default_rng(0).permutation(len(clustered(6)))]
    index = NearIndex(bits)
    kept: list[int] = []
    for value in values.tolist():
        apart = [(value ^ other).bit_count() for other in kept]
        wanted = (apart.index(min(apart)), min(apart)) if apart and min(apart) <= bits else None
        assert index.find(value) == wanted
        if wanted is None:
            assert index.add(value) == len(kept)
            kept.append(value)
    assert index.count == len(kept)


# --------------------------------------------------------------------------------------------------------- whole sets


def test_a_set_is_hashed_in_order_by_any_number_of_jobs(tmp_path: Path) -> None:
    with ShardSet.open(picture_shards(tmp_path / "set", 150, maxcount=40)) as shards:
        wanted = [image_hash(sample.image) for sample in shards]
        for jobs in (1, 3):
            done: list[int] = []
            hashes = hash_set(shards, jobs, done.append)
            assert hashes.values.tolist() == wanted
            assert hashes.valid.all()
            assert sum(done) == 150
    assert len(hash_images([]).values) == 0


def test_a_damaged_set_is_named(tmp_path: Path) -> None:
    picture_shards(tmp_path / "set", 20)
    path = tmp_path / "set" / "shard-000000.tar"
    path.write_bytes(path.read_bytes()[:-5000])
    with ShardSet.open(tmp_path / "set") as shards, pytest.raises(InputError, match=r"shard-000000\.tar"):
        hash_set(shards, 1)


def test_what_cannot_be_read_has_no_hash() -> None:
    good = encoded(draw(1))
    hashes = hash_images([good, b"", good[:200], b"no picture", encoded(Image.new("L", (9, 9)), "PNG"), good], 2)
    assert hashes.status.tolist() == [HASHED, UNREADABLE, UNREADABLE, UNREADABLE, FLAT, HASHED]
    assert hashes.values[0] == hashes.values[5]


def test_a_picture_that_kills_its_worker_costs_nothing_but_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def poisoned(data: bytes) -> int | None:
        if data == b"crash":
            os.kill(os.getpid(), signal.SIGKILL)
        while data == b"hang":
            pass
        if data == b"greed":
            return len(bytearray(1 << 34))
        return len(data)

    monkeypatch.setattr(perceptual, "image_hash", poisoned)
    images = [b"1", b"crash", b"22", b"hang", b"333", b"greed", b"4444"]
    started = time.monotonic()
    with HashPool(2, Limits(seconds=0.3)) as pool:
        found = list(pool.run([images, images[:1], [b"crash"], images[2:3]]))
    assert [part.values.tolist() for part in found] == [[1, 0, 2, 0, 3, 0, 4], [1], [0], [2]]
    assert found[0].status.tolist() == [0, UNREADABLE, 0, UNREADABLE, 0, UNREADABLE, 0]
    assert time.monotonic() - started < 20


def test_workers_that_cannot_begin_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perceptual, "limit_memory", lambda _: os.kill(os.getpid(), signal.SIGKILL))
    with HashPool(1) as pool, pytest.raises(EnvironmentFault, match="workers die before they begin"):
        list(pool.run([[b"1"]]))


@pytest.mark.data
def test_hostile_files_are_hashed_or_not_but_end_nothing(shared_data: Path) -> None:
    files = sorted(path for path in (shared_data / "hostile").rglob("*") if path.is_file() and path.suffix != ".blp")
    hashes = hash_images((path.read_bytes() for path in files), 2)
    assert len(hashes.status) == len(files)
    assert (hashes.status == UNREADABLE).sum() > 100
    assert (hashes.status == HASHED).sum() > 50


@pytest.mark.data
def test_real_photographs_find_their_copies(shared_data: Path) -> None:
    files = sorted((shared_data / "clothing" / "validation").rglob("*.jpg"))[::4]
    originals = hash_images((path.read_bytes() for path in files), 2)
    for quality, factor in ((50, 1), (95, 1), (85, 2)):
        copies = []
        for path in files:
            with Image.open(path) as image:
                size = (image.width // factor, image.height // factor)
                copies.append(encoded(image.resize(size) if factor > 1 else image, quality=quality))
        found = near_pairs(originals, hash_images(copies, 2))
        assert {(row, row) for row in range(len(files))} == {(i, j) for i, j, _ in found.pairs()}
    assert near_pairs(originals).count == 0
