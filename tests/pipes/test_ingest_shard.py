"""Real processes and real pipes: `ingest | tee | shard`, readers that leave, producers that die."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import webdataset

from seerctl.shards.index import ShardSet
from seerctl.shards.verify import verify
from seerctl.stream import ustar
from tests.pictures import draw
from tests.processes import descendants

SEERCTL = f"{sys.executable} -m seerctl"


def shell(command: str, where: Path, **options: object) -> subprocess.CompletedProcess[str]:
    """A pipeline in bash; `$?` of every part is printed last on stdout as `codes 0 0 0`."""
    text = command.replace("seerctl ", f"{SEERCTL} ") + '\necho "codes ${PIPESTATUS[@]}"'
    return subprocess.run(["bash", "-c", text], cwd=where, capture_output=True, text=True, check=True, timeout=120)


def codes(done: subprocess.CompletedProcess[str]) -> list[int]:
    return [int(code) for code in done.stdout.splitlines()[-1].split()[1:]]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tar that takes a while: 20,000 members, all of the same ten pictures."""
    where = tmp_path_factory.mktemp("many")
    pictures = []
    for number in range(10):
        draw(number, 64, 64).save(where / "picture.jpg", quality=90)
        pictures.append((where / "picture.jpg").read_bytes())
    members = (ustar.member(f"pictures/{number:05d}.jpg", pictures[number % 10]) for number in range(20_000))
    (where / "many.tar").write_bytes(b"".join(members) + ustar.END)
    return where / "many.tar"


def test_the_chain_and_what_other_tools_make_of_it(folder: Path) -> None:
    root = folder.parent
    done = shell("seerctl ingest pictures | tee s.tar | seerctl shard -o out --maxcount 10", root)
    assert codes(done) == [0, 0, 0]
    assert "24 in, 24 out, none rejected" in done.stderr
    assert "24 in; 3 shards in out" in done.stderr
    with ShardSet.open(root / "out") as shards:
        assert verify(shards) == []
        keys = [sample.key for sample in shards]
    for name in ("s.tar", *(f"out/shard-{number:06d}.tar" for number in range(3))):
        listed = subprocess.run(["tar", "tf", root / name], capture_output=True, text=True, check=True)
        assert not listed.stderr
    names = subprocess.run(["tar", "tf", root / "s.tar"], capture_output=True, text=True, check=True).stdout.split()
    assert (names[0], names[-1], len(names)) == ("__seer__/stream.json", "__seer__/end.json", 50)
    urls = [str(path) for path in sorted((root / "out").glob("*.tar"))]
    found = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
    assert [row["__key__"] for row in found] == keys
    assert {row["json"]["columns"]["label"] for row in found} == {"a", "b", "c"}
    assert all((row.get("jpg") or row.get("png") or row.get("webp")).size == (48, 40) for row in found)


def test_two_streams_one_after_the_other(folder: Path) -> None:
    command = "(seerctl ingest pictures/a; seerctl ingest pictures/b) | seerctl shard -o out --streams 2"
    assert codes(shell(command, folder.parent)) == [0, 0]
    assert len(ShardSet.open(folder.parent / "out")) == 16
    broken = "(seerctl ingest pictures/a; seerctl ingest nowhere) | seerctl shard -o less --streams 2"
    done = shell(broken, folder.parent)
    assert codes(done)[-1] == 4
    assert "--streams says 2" in done.stderr
    assert not (folder.parent / "less" / "index.json").exists()


def test_a_list_through_find(folder: Path) -> None:
    done = shell(
        "find pictures -name '*.png' -print0 | sort -z | seerctl ingest -0 - | seerctl shard -o out", folder.parent
    )
    assert codes(done) == [0, 0, 0, 0]
    with ShardSet.open(folder.parent / "out") as shards:
        assert {sample.ext for sample in shards} == {"png"}
        assert sorted(sample.meta["source"] for sample in shards) == sorted(
            str(path.relative_to(folder.parent)) for path in folder.rglob("*.png")
        )


def test_a_reader_that_leaves_is_no_noise(many: Path, tmp_path: Path) -> None:
    done = shell(f"seerctl ingest {many} | head -c 100 > few", tmp_path)
    assert codes(done) == [141, 0]
    assert done.stderr == ""
    assert (tmp_path / "few").stat().st_size == 100


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_producer_that_dies_leaves_no_set(many: Path, tmp_path: Path, number: signal.Signals, code: int) -> None:
    command = [sys.executable, "-m", "seerctl"]
    with subprocess.Popen(
        [*command, "ingest", str(many)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as producer, subprocess.Popen(
        [*command, "shard", "-o", "out", "--maxcount", "20"], stdin=producer.stdout, stderr=subprocess.PIPE, text=True,
        cwd=tmp_path,
    ) as consumer:  # fmt: skip
        assert producer.stdout and producer.stderr and consumer.stderr  # noqa: PT018
        producer.stdout.close()
        deadline = time.monotonic() + 60
        while not list((tmp_path / "out").glob("*-00000[3-9].tar.tmp")) and time.monotonic() < deadline:
            time.sleep(0.005)
        workers = descendants(producer.pid)
        producer.send_signal(number)
        assert producer.wait(60) == code
        said = producer.stderr.read()
        assert len(said.splitlines()) == (0 if number == signal.SIGKILL else 1)
        assert consumer.wait(60) == 4
        assert "the stream ends without its end marker" in consumer.stderr.read()
    left = [path.name for path in (tmp_path / "out").iterdir()]
    assert left
    assert all(name.endswith(".partial") for name in left)
    assert len(workers) > 1
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


def test_a_killed_consumer_leaves_no_set(many: Path, tmp_path: Path) -> None:
    done = shell(f"seerctl ingest {many} | timeout -s KILL 1.2 seerctl shard -o out", tmp_path)
    assert codes(done) in ([141, 137], [0, 137])
    assert not list((tmp_path / "out").glob("*.tar"))
    assert codes(shell(f"seerctl ingest {many} | seerctl shard -o out", tmp_path)) == [0, 0]
    assert len(ShardSet.open(tmp_path / "out")) == 20_000


def test_binary_never_goes_to_a_terminal(folder: Path) -> None:
    master, slave = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "seerctl", "ingest", str(folder)],
        stdout=slave,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(slave)
    os.close(master)
    assert done.returncode == 2
    assert "binary output to a terminal" in done.stderr


def test_errors_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for command, code in (("seerctl ingest nowhere", 4), ("seerctl ingest empty", 4), ("seerctl ingest", 2)):
        done = shell(f"{command} < /dev/null > out.tar", tmp_path)
        assert codes(done) == [code]
        assert len(done.stderr.splitlines()) == 1
        assert done.stderr.startswith("seerctl: error: ")


def test_the_project_file_names_what_to_do(folder: Path) -> None:
    (folder.parent / "seerctl.toml").write_text(
        '[ingest]\nsources = ["pictures"]\n[shard]\noutput = "shards"\nsplit = "train=0.5,val=0.5"\n'
    )
    assert codes(shell("seerctl ingest | seerctl shard", folder.parent)) == [0, 0]
    assert (
        len(ShardSet.open(folder.parent / "shards" / "train")) + len(ShardSet.open(folder.parent / "shards" / "val"))
        == 24
    )


def test_an_image_crashing_its_decoder_costs_itself_alone(folder: Path) -> None:
    """The rest of the batch is done by a new worker, and the stream is the one without that image."""
    code = (
        "import ctypes, sys\n"
        "from seerctl.sources import decoders\n"
        "sound = decoders.examine\n"
        "decoders.examine = lambda data, options: ctypes.string_at(0) if data.startswith(b'\\xff\\xd8crash') else"
        " sound(data, options)\n"
        "from seerctl.cli import main\n"
        "sys.argv[0] = 'seerctl'\n"
        "main()\n"
    )
    clean = subprocess.run(
        [sys.executable, "-c", code, "ingest", "pictures"], cwd=folder.parent, capture_output=True, check=True
    )
    (folder / "b" / "crash.jpg").write_bytes(b"\xff\xd8crash")
    done = subprocess.run(
        [sys.executable, "-c", code, "ingest", "pictures", "--rejects", "r.jsonl"],
        cwd=folder.parent, capture_output=True, check=True,
    )  # fmt: skip
    (reject,) = [json.loads(line) for line in (folder.parent / "r.jsonl").read_text().splitlines()]
    assert (reject["source"], reject["reason"]) == ("b/crash.jpg", "crashed")
    assert (
        clean.stdout[: clean.stdout.index(b"__seer__/end.json")]
        == done.stdout[: done.stdout.index(b"__seer__/end.json")]
    )


WATCHED = """
import atexit, sys
heavy = {"torch", "webdataset", "sklearn", "h5py", "numpy", "PIL", "torchvision"}
atexit.register(lambda: print("heavy", *sorted(heavy & set(sys.modules)), file=sys.stderr))
from seerctl.cli import main
main()
"""


@pytest.mark.parametrize(
    "arguments",
    [["ingest", "--help"], ["shard", "--help"], ["inspect", "--help"], ["ingest", "pictures", "-o", "s.tar"]],
)
def test_help_and_work_import_nothing_heavy(arguments: list[str], folder: Path) -> None:
    chain = [arguments]
    if "-o" in arguments:
        chain += [["shard", "s.tar", "-o", "out"], ["inspect", "out", "--verify"]]
    for step in chain:
        done = subprocess.run(
            [sys.executable, "-c", WATCHED, *step], cwd=folder.parent, capture_output=True, text=True, check=True
        )
        assert done.stderr.splitlines()[-1] == "heavy", step
