"""Object stores, against a real S3 server in a process of its own on loopback; what fsspec reads besides."""

from __future__ import annotations

import io
import socket
import subprocess
import sys
import tarfile
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result

from seerctl.errors import EnvironmentFault, ExitCode, InputError
from seerctl.shards.index import ShardSet
from seerctl.shards.pipeline import pipeline
from seerctl.stream.reader import read_streams
from seerctl.stream.records import Record
from tests.pictures import draw
from tests.streams import set_of

Run = Callable[..., Result]


class Store:
    """The server, which believes everybody until it is told not to."""

    def __init__(self, url: str) -> None:
        self.url = url

    def put(self, key: str, data: bytes) -> None:
        """Store an object in the bucket `pictures`."""
        import s3fs

        system = s3fs.S3FileSystem(skip_instance_cache=True)
        system.call_s3("put_object", Bucket="pictures", Key=key, Body=data)

    def tell(self, path: str, data: bytes = b"", method: str = "POST") -> None:
        """Ask for something without a signature."""
        request = urllib.request.Request(f"{self.url}/{path}", data, {"Content-Type": "text/plain"}, method=method)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30):
            pass


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    for package in ("moto.server", "s3fs", "flask"):
        pytest.importorskip(package)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path_factory.mktemp("moto") / "log").open("wb")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            deadline = time.monotonic() + 90
            while time.monotonic() < deadline and process.poll() is None:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            yield Store(f"http://127.0.0.1:{port}")
        finally:
            process.terminate()


@pytest.fixture
def bucket(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket with pictures, archives and a table, and the environment of somebody who may read it."""
    settings = {"AWS_ENDPOINT_URL": store.url, "AWS_ACCESS_KEY_ID": "AKIDTEST", "AWS_SECRET_ACCESS_KEY": "geheim",
                "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    store.tell("pictures", method="PUT")
    yield "s3://pictures"
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    store.tell("moto-api/reset")


def jpeg(seed: int) -> bytes:
    file = io.BytesIO()
    draw(seed).save(file, "JPEG", quality=90)
    return file.getvalue()


def found(result: Result) -> dict[str, dict[str, object]]:
    assert result.exit_code == 0, result.stderr
    records = [item for item in read_streams(io.BytesIO(result.stdout_bytes), "s") if isinstance(item, Record)]
    return {record.meta["source"]: record.meta["columns"] for record in records}


def tarred(names: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in names.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def test_a_prefix_is_a_folder(seerctl: Run, store: Store, bucket: str) -> None:
    for number, name in enumerate(("p/b/1.jpg", "p/a/2.jpg", "p/a b/ü+%.jpg", "p/a.jpg", "q/no.jpg")):
        store.put(name, jpeg(number))
    for name, data in (("p/notes.txt", b"x" * 100), ("p/unnamed", jpeg(7)), ("p/empty.jpg", b""), ("p/marker/", b"")):
        store.put(name, data)
    result = seerctl("ingest", f"{bucket}/p/", "--rejects", "-", "--max-reject-rate", 1)
    assert found(result) == {
        "a b/ü+%25.jpg": {"label": "a b"}, "a.jpg": {}, "a/2.jpg": {"label": "a"}, "b/1.jpg": {"label": "b"},
        "unnamed": {},
    }  # fmt: skip
    assert list(found(result)) == ["a/2.jpg", "a b/ü+%25.jpg", "a.jpg", "b/1.jpg", "unnamed"]
    assert '"source": "empty.jpg", "reason": "empty"' in result.stderr
    assert '"source": "notes.txt", "reason": "ignored"' in result.stderr
    again = seerctl("ingest", f"{bucket}/p", "--max-reject-rate", 1, "--fetch-threads", 1, "-j", 1)
    assert again.stdout_bytes == result.stdout_bytes


def test_objects_archives_tables_and_patterns(seerctl: Run, store: Store, bucket: str) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("cats/3.jpg", jpeg(3))
    for name, data in {
        "one.jpg": jpeg(0), "s-0.tar": tarred({"dogs/1.jpg": jpeg(1)}), "s-1.tar": tarred({"dogs/2.jpg": jpeg(2)}),
        "z.zip": packed.getvalue(), "t.csv": b"url,label\ns3://pictures/one.jpg,x\ns3://pictures/gone.jpg,y\n",
        "f.csv": b"file,label\none.jpg,x\n", "l.txt": b"s3://pictures/one.jpg\n",
    }.items():  # fmt: skip
        store.put(name, data)
    assert found(seerctl("ingest", f"{bucket}/one.jpg")) == {"one.jpg": {}}
    dogs = {"dogs/1.jpg": {"label": "dogs"}, "dogs/2.jpg": {"label": "dogs"}}
    assert found(seerctl("ingest", f"{bucket}/s-{{0..1}}.tar")) == dogs
    assert found(seerctl("ingest", f"{bucket}/s-*.tar")) == {
        f"s-{n}.tar/dogs/{n + 1}.jpg": {"label": "dogs"} for n in (0, 1)
    }
    assert found(seerctl("ingest", f"{bucket}/z.zip")) == {"cats/3.jpg": {"label": "cats"}}
    table = seerctl("ingest", f"{bucket}/t.csv", "--rejects", "-", "--max-reject-rate", 1)
    assert found(table) == {"s3://pictures/one.jpg": {"label": "x"}}
    assert '"source": "s3://pictures/gone.jpg", "reason": "missing"' in table.stderr
    assert found(seerctl("ingest", f"{bucket}/f.csv")) == {"s3://pictures/one.jpg": {"label": "x"}}
    assert found(seerctl("ingest", f"{bucket}/l.txt")) == {"s3://pictures/one.jpg": {}}
    whole = seerctl("ingest", bucket)
    assert list(found(whole)) == ["one.jpg", "s-0.tar/dogs/1.jpg", "s-1.tar/dogs/2.jpg", "z.zip/cats/3.jpg"]


def test_what_is_not_there_or_not_ours(seerctl: Run, store: Store, bucket: str) -> None:
    store.put("one.jpg", jpeg(0))
    for place in ("s3://nowhere/", f"{bucket}/gone.jpg", f"{bucket}/gone.tar", f"{bucket}/gone-*.tar"):
        result = seerctl("ingest", place)
        assert result.exit_code == ExitCode.INPUT, result.stderr
        assert "no such bucket or object" in result.stderr or "there is no file in it" in result.stderr
    store.tell("moto-api/reset-auth", b"0")  # from now on it wants to know who asks
    for place in (f"{bucket}/one.jpg", f"{bucket}/", f"{bucket}/s.tar"):
        result = seerctl("ingest", place)
        assert result.exit_code == ExitCode.ENVIRONMENT, result.stderr
        assert "access denied" in result.stderr
        assert len(result.stderr.splitlines()) == 1
        assert "geheim" not in result.stderr
    store.tell("moto-api/reset-auth", b"inf")


def test_a_store_that_does_not_answer(seerctl: Run, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setattr(s3fs.core.S3FileSystem, "retries", 1)
    result = seerctl("ingest", f"{bucket}/p/")
    assert result.exit_code == ExitCode.ENVIRONMENT
    assert "s3://pictures/p/: " in result.stderr


def test_a_shard_set_in_a_bucket_is_read_as_on_disk(
    store: Store, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEERCTL_CACHE", str(tmp_path / "cache"))
    with set_of(tmp_path / "set", 30, maxcount=8) as local:
        for path in local.path.parent.iterdir():
            store.put(f"sets/one/{path.name}", path.read_bytes())
        with ShardSet.open(f"{bucket}/sets/one/") as remote:
            assert [sample.key for sample in remote] == [sample.key for sample in local]
        monkeypatch.setenv("SEERCTL_CACHE_SIZE", "50KB")
        with ShardSet.open(Path(f"{bucket}/sets/one")) as remote:
            for here, there in zip(*(pipeline(one, batch=6, seed=1, stop=8) for one in (local, remote)), strict=True):
                assert here.samples == there.samples
    with pytest.raises(InputError, match=r"s3://pictures/gone/index\.json: not there"):
        ShardSet.open(f"{bucket}/gone/")
    store.tell("moto-api/reset-auth", b"0")
    with pytest.raises(EnvironmentFault, match=r"s3://pictures/sets/one/index\.json: access denied"):
        ShardSet.open(f"{bucket}/sets/one/")
    store.tell("moto-api/reset-auth", b"inf")


@pytest.mark.parametrize("package", ["s3fs", "fsspec"])
def test_a_package_that_is_missing_is_named(package: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; sys.argv[0] = 'seerctl'; from seerctl.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "ingest", "s3://bucket/"], capture_output=True, text=True, check=False
    )
    assert done.returncode == ExitCode.ENVIRONMENT
    assert "pip install 'seerctl[cloud]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("place", "words"),
    [("file:///etc/", "Name the path itself"), ("nonsense://x/y", "nonsense"), ("local://x", "path")],
)
def test_other_urls_are_usage(seerctl: Run, place: str, words: str) -> None:
    pytest.importorskip("fsspec")
    result = seerctl("ingest", place)
    assert result.exit_code == ExitCode.USAGE
    assert words in result.stderr


def test_strangers_tables_reach_stores_and_the_web_only(seerctl: Run, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("url\nfile:///etc/passwd\nsftp://10.0.0.1/x\nmemory://x\nhttp://user:pw@[::1]/\n")
    result = seerctl("ingest", tmp_path / "t.csv", "--rejects", "-")
    assert "3 bad-url, 1 private-address" in result.stderr
    assert "pw" not in result.stderr


def test_any_other_file_system_of_fsspec(seerctl: Run) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.pipe({"/m/a/1.jpg": jpeg(1), "/m/2.jpg": jpeg(2)})
    assert found(seerctl("ingest", "memory://m")) == {"2.jpg": {}, "a/1.jpg": {"label": "a"}}
    memory.rm("/m", recursive=True)
