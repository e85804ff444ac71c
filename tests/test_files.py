"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
from pathlib import Path

import pytest

from seerctl.errors import EnvironmentFault, ExitCode, InputError, UsageError
from seerctl.files import atomic_write, blame, claim, environment_fault, free_bytes, read_json, sha256_file, write_json


def test_atomic_write_leaves_nothing_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.bin"

    def fail_half_way() -> None:
        with atomic_write(path) as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert list(path.parent.iterdir()) == []
    with atomic_write(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert [entry.name for entry in path.parent.iterdir()] == ["x.bin"]


def test_a_failed_rewrite_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": "ü"})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": "ü"}
    assert path.read_bytes().endswith(b"}\n")


def test_names_that_utf8_cannot_hold_stay_json(tmp_path: Path) -> None:
    value = {"name \udfff": ["\ud800x", "\U0001f600 ü"]}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    assert "\U0001f600 ü" in (tmp_path / "x.json").read_text(encoding="utf-8")


def test_the_machines_faults_are_exit_7(tmp_path: Path) -> None:
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO):
        with pytest.raises(EnvironmentFault) as caught, blame(tmp_path / "x"):
            raise OSError(number, "no")
        assert caught.value.exit_code == ExitCode.ENVIRONMENT
        assert str(tmp_path / "x") in str(caught.value)
    assert environment_fault(OSError(errno.ENOENT, "no")) is None
    with pytest.raises(FileNotFoundError), blame("x"):
        raise FileNotFoundError(errno.ENOENT, "no")


def test_full_disk_is_one_line(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(EnvironmentFault, match="the disk is full"), blame(full):
        full.write_bytes(b"x")


def test_claim_refuses_what_exists(tmp_path: Path) -> None:
    assert claim(tmp_path / "new") == tmp_path / "new"
    (tmp_path / "empty").mkdir()
    claim(tmp_path / "empty")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="--overwrite"):
        claim(tmp_path / "file")
    claim(tmp_path / "file", overwrite=True)


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, "nan"])
def test_what_is_not_json_is_an_input_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(InputError, match="not valid JSON"):
        read_json(path)
    with pytest.raises(InputError, match="no such file"):
        read_json(tmp_path / "none.json")


def test_sha256_and_free_space(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(json.dumps(list(range(10_000))).encode())
    assert sha256_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert free_bytes(tmp_path / "not" / "there") == pytest.approx(free_bytes(tmp_path), rel=0.2)
