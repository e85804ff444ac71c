"""Shard sets at a URL: what is read is what is on disk there, through a cache that keeps its bound."""

from __future__ import annotations

import errno
import itertools
import os
import pickle
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seerctl.errors import EnvironmentFault, ExitCode, InputError, SeerctlError, UsageError
from seerctl.shards.index import ShardSet
from seerctl.shards.metadata import read_keys, read_metadata
from seerctl.shards.pipeline import pipeline
from seerctl.shards.remote.ahead import Cutter
from seerctl.shards.remote.options import byte_size
from seerctl.shards.remote.place import url_of
from seerctl.shards.remote.remoteset import RemoteSet
from seerctl.shards.subset import Subset
from tests.streams import set_of
from tests.webserver import Exchange, WebServer, serve_folder, serving

COUNT, IN_SHARD = 50, 8


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardSet]:
    with set_of(tmp_path_factory.mktemp("set") / "there", COUNT, maxcount=IN_SHARD) as opened:
        yield opened


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    monkeypatch.setattr("seerctl.shards.remote.origin.backoff", lambda *_: 0.0)
    with serving() as running:
        yield running


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its directory; `SEERCTL_CACHE_SIZE` bounds it."""
    monkeypatch.setenv("SEERCTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def url(server: WebServer, local: ShardSet, cache: Path) -> str:
    return serve_folder(server, local.path.parent, "/data/set")


def held(cache: Path) -> int:
    """Bytes in the cache."""
    found = [path for folder in cache.iterdir() if folder.is_dir() for path in folder.iterdir()]
    return sum(path.stat().st_size for path in found if path.exists())


def bounded(server: WebServer, cache: Path, size: int) -> None:
    """Fail whatever is asked for while the cache holds more than `size` bytes."""
    for path, answer in list(server.answers.items()):

        def checked(exchange: Exchange, answer: Any = answer) -> None:
            if cache.exists() and held(cache) > size:
                exchange.reply(b"", "418 Too much in the cache")
                return
            answer(exchange)

        server.answers[path] = checked


def samples(shards: ShardSet) -> list[tuple[str, bytes, dict[str, Any]]]:
    return [(sample.key, sample.image, sample.meta) for sample in shards]


def steps(shards: Any, **options: Any) -> list[tuple[int, list[str], list[bytes]]]:
    found = pipeline(shards, batch=10, seed=3, stop=20, **options)
    return [(batch.step, [one.key for one in batch.samples], [one.image for one in batch.samples]) for batch in found]


def asked(server: WebServer, end: str = ".tar") -> Counter[str]:
    return Counter(path.rpartition("/")[2] for path in server.paths if path.endswith(end))


def test_a_set_that_fits_is_fetched_once_and_read_as_on_disk(server: WebServer, url: str, local: ShardSet) -> None:
    for where in (url, f"{url}/", f"{url}/index.json", Path(url)):
        with ShardSet.open(where) as remote:
            assert isinstance(remote, RemoteSet)
            assert (remote.sha256, len(remote), remote.columns) == (local.sha256, COUNT, local.columns)
            assert samples(remote) == samples(local)
            assert steps(remote) == steps(local)
            assert read_keys(remote).tolist() == read_keys(local).tolist()
            labels = read_metadata(remote, ["label"]).columns["label"]
            assert labels.texts() == read_metadata(local, ["label"]).columns["label"].texts()
            assert remote.read(7) == pickle.loads(pickle.dumps(remote)).read(7)
    assert set(asked(server).values()) == set(asked(server, ".idx").values()) == {1}
    assert {headers["user-agent"].partition("/")[0] for _, _, headers in server.asked} == {"seerctl"}


@pytest.mark.parametrize("neighbours", [None, (0, 2)])
def test_of_a_larger_set_only_what_the_next_steps_read_is_asked_for(
    server: WebServer, url: str, local: ShardSet, cache: Path, monkeypatch: pytest.MonkeyPatch, neighbours: Any
) -> None:
    size = 80_000
    assert local.index["bytes"] > 1.4 * size
    monkeypatch.setenv("SEERCTL_CACHE_SIZE", str(size))
    bounded(server, cache, size)
    with ShardSet.open(url) as remote:
        assert steps(remote, neighbours=neighbours) == steps(local)
        assert steps(remote, rank=1, world=2, neighbours=neighbours) == steps(local, rank=1, world=2)
        part = np.flatnonzero(np.arange(COUNT) % 3)
        assert steps(Subset(remote, part)) == steps(Subset(local, part))
    assert held(cache) <= size
    assert all("range" in headers for _, path, headers in server.asked if path.endswith(".tar"))


def test_in_the_order_of_the_index_a_few_shards_are_held(
    server: WebServer, url: str, local: ShardSet, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 80_000
    monkeypatch.setenv("SEERCTL_CACHE_SIZE", str(size))
    bounded(server, cache, size)
    with ShardSet.open(url) as remote:
        for _ in range(2):
            assert samples(remote) == samples(local)
    assert held(cache) <= size
    assert max(asked(server).values()) <= 2


def test_a_cache_too_small_for_a_shard_is_said(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEERCTL_CACHE_SIZE", "10KB")
    with pytest.raises(UsageError, match=r"a shard of 2\d,\d+ bytes.*Raise data.cache_size"):
        ShardSet.open(url)
    monkeypatch.setenv("SEERCTL_CACHE_SIZE", "much")
    with pytest.raises(UsageError, match="'much': no size"):
        ShardSet.open(url)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("size", ["1GB", "80KB"])
def test_a_damaged_shard_never_gets_into_the_cache(
    server: WebServer,
    url: str,
    local: ShardSet,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    size: str,
) -> None:
    monkeypatch.setenv("SEERCTL_CACHE_SIZE", size)
    name = "shard-000002.tar"
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / name).write_bytes(flipped((local.path.parent / name).read_bytes(), 600))
    serve_folder(server, tmp_path / "damaged", "/data/set")
    with ShardSet.open(url) as remote, pytest.raises(InputError) as caught:
        steps(remote) if size == "80KB" else samples(remote)
    assert caught.value.message.startswith(f"{url}/{name}: damaged")
    assert not list(cache.glob(f"*/{name}"))
    if size == "1GB":
        assert "SHA-256" in caught.value.message
        assert asked(server)[name] in (2, 4)  # once more, as what lies between may be at fault; read ahead, too
        serve_folder(server, local.path.parent, "/data/set")
        with ShardSet.open(url) as remote:
            assert samples(remote) == samples(local)


def after(times: int, first: Callable[[Exchange], None], then: Any) -> Callable[[Exchange], None]:
    """An answer that is `first` some times and then another."""
    count = itertools.count()

    def answer(exchange: Exchange) -> None:
        (first if next(count) < times else then)(exchange)

    return answer


def test_a_server_that_breaks_off_is_gone_on_with(server: WebServer, url: str, local: ShardSet) -> None:
    name = "/data/set/shard-000001.tar"
    whole = (local.path.parent / "shard-000001.tar").read_bytes()

    def half(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(whole) + whole[:9000])
        exchange.close = True

    good = server.answers[name]
    server.answers[name] = after(1, half, good)
    busy = lambda exchange: exchange.reply(b"", "503 Slow Down", Retry_After=0)  # noqa: E731
    for path in ("/data/set/index.json", "/data/set/shard-000003.tar", "/data/set/shard-000004.tar.idx"):
        server.answers[path] = after(2, busy, server.answers[path])
    server.answers["/data/set/shard-000005.tar"] = after(
        1, Exchange.reset, server.answers["/data/set/shard-000005.tar"]
    )
    with ShardSet.open(url) as remote:
        assert samples(remote) == samples(local)
    ranges = [headers.get("range") for _, path, headers in server.asked if path == name]
    assert ranges == [None, f"bytes=9000-{len(whole) - 1}"]


@pytest.mark.parametrize(
    ("name", "status", "code", "words"),
    [
        ("index.json", "404 Not Found", ExitCode.INPUT, "not there"),
        ("index.json", "403 Forbidden", ExitCode.ENVIRONMENT, "access denied"),
        ("shard-000001.tar", "404 Not Found", ExitCode.INPUT, "not there"),
        ("shard-000001.tar", "500 Oh", ExitCode.ENVIRONMENT, "tries: 7"),
        ("shard-000001.tar.idx", "429 Busy", ExitCode.ENVIRONMENT, "tries: 7"),
        ("shard-000001.tar", "200 OK", ExitCode.INPUT, "5 bytes, not 2"),
    ],
)
def test_what_cannot_be_had_is_named(
    server: WebServer, url: str, name: str, status: str, code: int, words: str
) -> None:
    server.answers[f"/data/set/{name}"] = lambda exchange: exchange.reply(b"hello", status)
    with pytest.raises(SeerctlError) as caught, ShardSet.open(url) as remote:
        samples(remote)
    assert caught.value.exit_code == code
    assert caught.value.message.startswith(f"{url}/{name}: ")
    assert words in caught.value.message


def test_the_commands_take_urls(server: WebServer, url: str, seerctl: Any) -> None:
    assert f"{url}/" in seerctl("inspect", url).stdout
    verified = seerctl("inspect", url, "--verify", "--output-format", "json")
    assert (verified.exit_code, '"verified": true' in verified.stdout) == (0, True), verified.stderr
    server.answers["/data/set/shard-000001.tar"] = b"cut"
    for path in Path(os.environ["SEERCTL_CACHE"]).glob("*/shard-000001.tar"):
        path.unlink()
    broken = seerctl("inspect", url, "--verify")
    assert broken.exit_code == ExitCode.INPUT
    assert f"{url}/shard-000001.tar: 3 bytes, not " in broken.stderr
    server.answers.pop("/data/set/index.json")
    gone = seerctl("inspect", url)
    assert (gone.exit_code, gone.stderr.count("\n")) == (ExitCode.INPUT, 1)


def test_a_server_without_ranges_needs_a_larger_cache(
    server: WebServer, url: str, local: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in local.path.parent.iterdir():
        server.answers[f"/data/set/{path.name}"] = path.read_bytes()
    with ShardSet.open(url) as remote:
        assert steps(remote) == steps(local)
    monkeypatch.setenv("SEERCTL_CACHE_SIZE", "80KB")
    with ShardSet.open(url) as remote, pytest.raises(EnvironmentFault, match=r"no ranges.*Raise data.cache_size"):
        steps(remote)


def test_redirects_lead_to_no_other_private_place(server: WebServer, url: str) -> None:
    there = server.answers["/data/set/index.json"]
    for host, served in (("127.0.0.1", True), ("localhost", False)):
        other = server.url("/elsewhere.json", host)
        server.answers["/elsewhere.json"] = there
        away = {"status": "302 Found", "Location": other}
        server.answers["/data/set/index.json"] = lambda exchange, away=away: exchange.reply(b"", **away)
        if served:
            assert len(ShardSet.open(url)) == COUNT
        else:
            with pytest.raises(InputError, match="leads to a private address"):
                ShardSet.open(url)


def test_a_full_disk_is_said_in_a_line(url: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(part: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(part))

    with ShardSet.open(url) as remote:
        remote.read(0)
        monkeypatch.setattr("seerctl.shards.remote.cache.fsync_path", full)
        with pytest.raises(EnvironmentFault, match=r"shard-00000\d.tar.idx: the disk is full"):
            remote.read(COUNT - 1)
    assert not list(cache.glob("*/shard-000006*"))


def forked(work: Callable[[], object]) -> int:
    """A child that does `work` and ends with 0 where nothing is raised."""
    process = os.fork()
    if process:
        return process
    try:
        work()
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.parametrize("size", ["1GB", "80KB"])
@pytest.mark.filterwarnings("ignore:This process")
def test_processes_share_the_cache(
    server: WebServer, url: str, local: ShardSet, cache: Path, monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    monkeypatch.setenv("SEERCTL_CACHE_SIZE", size)
    bounded(server, cache, 1000 * int(byte_size(size) or 0))
    wanted = [steps(local, rank=rank, world=2) for rank in range(2)]
    remote = ShardSet.open(url)

    def read(rank: int) -> None:
        assert steps(remote, rank=rank, world=2, neighbours=(0, 2)) == wanted[rank]

    children = [forked(lambda rank=rank: read(rank)) for rank in (0, 1, 0)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    if size == "1GB":
        assert set(asked(server).values()) == {1}
    assert held(cache) <= (byte_size(size) or 0)


@pytest.mark.filterwarnings("ignore:This process")
def test_a_download_that_was_killed_is_gone_on_with(server: WebServer, url: str, local: ShardSet, cache: Path) -> None:
    name, whole = "/data/set/shard-000000.tar", (local.path.parent / "shard-000000.tar").read_bytes()
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(whole)
    good, server.answers[name] = server.answers[name], lambda exchange: exchange.hang(head + whole[:-100])
    child = forked(lambda: ShardSet.open(url).read(0))
    deadline = time.monotonic() + 30
    while asked(server)["shard-000000.tar"] == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert [path.name for path in cache.glob("*/*.tar")] == []
    server.answers[name] = good
    with ShardSet.open(url) as remote:
        assert samples(remote) == samples(local)
    assert not list(cache.glob("*/*.part"))


def test_braces_name_some_shards(server: WebServer, url: str, local: ShardSet) -> None:
    names = "shard-{000001..000002}.tar"
    with ShardSet.open(f"{url}/{names}") as remote, ShardSet.open(local.path.parent / names) as here:
        assert samples(remote) == samples(here) == samples(local)[IN_SHARD : 3 * IN_SHARD]
        assert remote.sha256 == here.sha256 != local.sha256
        assert remote.location.endswith(f"/data/set/{names}")
        assert samples(ShardSet.open(here.where)) == samples(here)
    for wrong, fault in (("shard-{000006..000007}.tar", "no shard 'shard-000007.tar'"), ("{train,val}", "one set")):
        with pytest.raises(SeerctlError, match=fault):
            ShardSet.open(f"{url}/{wrong}")


def test_what_is_a_url() -> None:
    assert url_of("s3://bucket/a") == url_of(Path("s3://bucket/a")) == "s3://bucket/a"
    assert url_of("http:/host/a") is None
    assert url_of("dir/a://b") is None
    assert [byte_size(text) for text in ("20GB", "1.5 MiB", "7", "0", "x")] == [20 * 10**9, 3 << 19, 7, None, None]


def test_any_file_system_of_fsspec(local: ShardSet, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = pytest.importorskip("fsspec").filesystem("memory")
    memory.pipe({f"/sets/one/{path.name}": path.read_bytes() for path in local.path.parent.iterdir()})
    with ShardSet.open("memory://sets/one") as remote:
        assert samples(remote) == samples(local)
    monkeypatch.setenv("SEERCTL_CACHE_SIZE", "80KB")
    with ShardSet.open("memory://sets/one") as remote:
        assert steps(remote) == steps(local)
    memory.pipe("/sets/one/shard-000000.tar", b"short")
    for path in cache.glob("*/shard-000000*"):
        path.unlink()
    with ShardSet.open("memory://sets/one") as remote, pytest.raises(InputError, match="5 bytes, not 2"):
        remote.read(0)
    memory.rm("/sets", recursive=True)
    with pytest.raises(InputError, match=r"memory://sets/one/index.json: not there"):
        ShardSet.open("memory://sets/one")


def test_pieces_are_runs_inside_a_shard_in_the_order_of_need() -> None:
    starts = np.array([0, 100, 250])
    cutter = Cutter(starts, 1e5, 10**9, whole=False)
    assert cutter.steps(1000) == 4
    pieces = cutter.cut(np.array([120, 121, 5, 6, 7, 99, 100, 123, 200]))
    assert pieces.in_order() == [(120, 124), (5, 8), (99, 100), (100, 101), (200, 201)]
    assert pieces.holding(122) == (120, 124)
    assert pieces.holding(8) == (8, 9)
    assert cutter.cut(np.array([120, 5, 200]), passed=2).in_order() == [(200, 201), (120, 121), (5, 6)]
    whole = Cutter(starts, 1e5, 10**9, whole=True)
    assert whole.cut(np.array([120, 5, 240])).in_order() == [(100, 250), (0, 100)]


def test_what_a_killed_process_left_makes_room(url: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 80_000
    monkeypatch.setenv("SEERCTL_CACHE_SIZE", str(size))
    left = cache / "other" / f"shard-000000.tar.{size}.part"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"begun")
    with ShardSet.open(url) as remote:
        remote.read(0)
    assert not left.exists()
