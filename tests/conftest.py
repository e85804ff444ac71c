"""Fixtures that every test may use: the command line in process, generated pictures, and the real images if present."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from tests.pictures import draw
from tests.warm import Warm

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two spinning pools on two cores slow each other tenfold

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A script's background job (`run.sh &`, nohup) ignores SIGINT, and so would every process that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked slow run only with `-m slow` or `--all` (tests/run.sh --all)."""
    if "slow" in (config.getoption("-m") or ""):
        os.environ["SEERCTL_TEST_ALL"] = "1"  # for what tests start
    if os.environ.get("SEERCTL_TEST_ALL") == "1":
        return
    skip = pytest.mark.skip(reason="slow: run with tests/run.sh --all")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images; the test is skipped, saying so, where it is absent."""
    path = Path(os.environ.get("SEERCTL_TEST_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (path / "SOURCES.csv").is_file():
        pytest.skip(f"no real images at {path} (set SEERCTL_TEST_DATA)")
    return path


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("SEERCTL_") and not name.startswith("SEERCTL_TEST"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory for PATH whose `seerctl` needs no imports: see tests/warm.py."""
    server = Warm(tmp_path_factory.mktemp("warm"))
    yield server.bin
    server.close()


@pytest.fixture
def seerctl() -> Callable[..., Result]:
    """Run a command line in this process: `seerctl("ingest", path)` -> result with exit_code, stdout, stderr."""
    from seerctl.cli import cli

    def run(*arguments: object, stdin: bytes | str | None = None) -> Result:
        return CliRunner().invoke(cli, [str(argument) for argument in arguments], input=stdin, prog_name="seerctl")

    return run


@pytest.fixture
def picture() -> Callable[..., Image.Image]:
    """`picture(seed, width, height)`: see tests/pictures.py."""

    return draw


@pytest.fixture
def folder(tmp_path: Path, picture: Callable[..., Image.Image]) -> Path:
    """A folder of 24 pictures in the classes a, b and c: JPEG, PNG and WebP."""
    root = tmp_path / "pictures"
    for number in range(24):
        place = root / "abc"[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        kind = ("jpg", "png", "webp")[number % 4 % 3]
        picture(number).save(place / f"{number:03d}.{kind}", **({"quality": 90} if kind != "png" else {}))
    return root
