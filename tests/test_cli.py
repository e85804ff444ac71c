"""The command frame: laziness, exit codes, verbosity, project file, environment, completion."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner

from seerctl.cli import COMMANDS, PROBES, LazyGroup, _section, cli
from seerctl.console import binary_stdout
from seerctl.errors import ExitCode, UsageError
from seerctl.options import SeerCommand, loads_code

HEAVY = ("torch", "webdataset", "sklearn", "h5py", "numpy", "PIL", "scipy", "torchvision")


def leaf_commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    found = []
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        found += (
            leaf_commands(command, (*path, name)) if isinstance(command, click.Group) else [((*path, name), command)]
        )
    return found


def test_training_starts_without_what_it_rarely_needs() -> None:
    rarely = {"torchvision", "torch._dynamo", "scipy.fft", "sklearn"}
    code = f"import sys, seerctl.train.start\nprint({rarely!r} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("arguments", [(), *[(name,) for name in COMMANDS], *[("probe", name) for name in PROBES]])
def test_help_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    code = (
        "import sys\nfrom seerctl.cli import run\n"
        f"assert run({[*arguments, '--help']!r}) == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "Usage: seerctl" in done.stdout


def test_every_command_has_help_for_itself_and_each_option_and_two_examples() -> None:
    commands = leaf_commands(cli)
    assert {path[0] for path, _ in commands} == set(COMMANDS)
    for path, command in commands:
        assert command.help, path
        for parameter in command.params:
            assert not isinstance(parameter, click.Option) or parameter.help, (path, parameter.name)
        assert isinstance(command, SeerCommand), path
        assert len(command.examples) >= 2, path


def test_every_example_names_an_existing_command_and_existing_options() -> None:
    for _, command in leaf_commands(cli):
        assert isinstance(command, SeerCommand)
        for example in command.examples:
            for part in re.split(r"\s*(?:\||&&)\s*", example):
                words = shlex.split(part)
                if words[0] != "seerctl":
                    continue
                target: click.Command = cli
                rest = words[1:]
                while isinstance(target, click.Group):
                    child = target.get_command(click.Context(target), rest.pop(0))
                    assert child is not None, example
                    target = child
                known = {name for parameter in target.params for name in (*parameter.opts, *parameter.secondary_opts)}
                used = {word.split("=")[0] for word in rest if word.startswith("-") and word != "-"}
                assert used <= known, (example, used - known)


def test_the_table_of_exit_codes_in_the_readme_is_the_enum() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    documented = {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", readme, re.M) for code in row.split(",")}
    assert documented == {int(code) for code in ExitCode}


def test_unknown_command_is_one_line_with_the_closest(seerctl) -> None:
    result = seerctl("ingets")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == ["seerctl: error: seerctl: no command 'ingets'. Did you mean 'ingest'?"]


def test_bad_option_is_one_line_naming_help(seerctl) -> None:
    result = seerctl("completion", "klingon")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert "Try 'seerctl completion --help'" in result.stderr


@pytest.mark.parametrize("arguments", [("-q", "ingest"), ("ingest", "-q")])
def test_quiet_works_on_both_sides_of_the_subcommand(seerctl, folder: Path, arguments, tmp_path: Path) -> None:
    loud = seerctl("ingest", folder, "-o", tmp_path / "loud.tar")
    assert loud.exit_code == 0, loud.stderr
    assert loud.stderr
    quiet = seerctl(*arguments, folder, "-o", tmp_path / "quiet.tar")
    assert (quiet.exit_code, quiet.stderr) == (0, "")


def test_traceback_only_when_asked(seerctl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert "Traceback" not in seerctl("inspect", missing).stderr
    assert "Traceback" in seerctl("inspect", missing, "-vv").stderr
    monkeypatch.setenv("SEERCTL_DEBUG", "1")
    assert "Traceback" in seerctl("inspect", missing).stderr


def test_version() -> None:
    done = subprocess.run([sys.executable, "-m", "seerctl", "--version"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"seerctl, version \d+\.\d+\.\d+\n", done.stdout)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_completes_commands(seerctl, shell: str) -> None:
    assert "_SEERCTL_COMPLETE" in seerctl("completion", shell).stdout
    done = subprocess.run(
        [sys.executable, "-c", "from seerctl.cli import main; main()"],
        env={"_SEERCTL_COMPLETE": "bash_complete", "COMP_WORDS": "seerctl sh", "COMP_CWORD": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "plain,shard\n"


# --- seerctl.toml and SEERCTL_* -----------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "seerctl.toml"


def test_the_project_file_gives_defaults_and_flags_win_over_environment_over_file(
    seerctl, project: Path, monkeypatch
) -> None:
    project.write_text('[ingest]\nsources = ["pictures/"]\noutput = "file.tar"\n')
    assert seerctl("ingest").exit_code == 0
    assert Path("file.tar").is_file()
    monkeypatch.setenv("SEERCTL_INGEST_OUTPUT", "environment.tar")
    assert seerctl("ingest").exit_code == 0
    assert Path("environment.tar").is_file()
    assert seerctl("ingest", "-o", "flag.tar").exit_code == 0
    assert Path("flag.tar").is_file()


def test_arguments_have_variables_too(seerctl, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert seerctl("ingest", "-o", "out.tar").exit_code == 2  # nothing is guessed
    monkeypatch.setenv("SEERCTL_INGEST_SOURCES", "pictures/")
    assert seerctl("ingest", "-o", "out.tar").exit_code == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[ingset]\nsources = ["a"]\n', "Did you mean 'ingest'?"),
        ("[ingest]\nsorces = 3\n", "Did you mean 'sources'?"),
        ('[ingest]\nsources = "pictures/"\n', "It must be a list"),
        ("ingest = 3\n", "It must be a table"),
        ("[ingest\n", "not valid TOML"),
    ],
)
def test_a_wrong_project_file_is_a_usage_error(seerctl, project: Path, text: str, words: str) -> None:
    project.write_text(text)
    result = seerctl("ingest")
    assert result.exit_code == 2
    assert words in result.stderr
    assert "seerctl.toml" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_options_that_load_code_are_flags_only(tmp_path: Path) -> None:
    @click.command()
    @loads_code("--filter")
    @click.option("--size")
    def sift(filter: str | None, size: str | None) -> None:
        click.echo(f"{filter} {size}")

    group = click.Group(commands={"sift": sift})
    with pytest.raises(UsageError, match=r"'sift.filter' loads code.*--filter on the command line"):
        _section(group, "sift", {"filter": "evil:run"}, tmp_path / "seerctl.toml")
    assert _section(group, "sift", {"size": "3"}, tmp_path / "seerctl.toml") == {"size": "3"}
    environment = {"SEERCTL_FILTER": "evil:run", "SEERCTL_SIZE": "3"}
    done = CliRunner().invoke(sift, [], auto_envvar_prefix="SEERCTL", env=environment)
    assert done.output == "None 3\n"
    assert CliRunner().invoke(sift, ["--filter", "mine:keep"]).output == "mine:keep None\n"


def test_literal_commands_run_inside_a_project(project: Path) -> None:
    project.write_text('[ingest]\nsources = ["pictures/"]\n[shard]\noutput = "shards/"\n')
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} -m seerctl ingest | {sys.executable} -m seerctl shard"],
        capture_output=True, text=True, check=False, cwd=project.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    index = json.loads((project.parent / "shards/index.json").read_text())
    assert sum(shard["nsamples"] for shard in index["shardlist"]) == 24


# --- signals and pipes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["recipes", "ls"], ["completion", "zsh"], ["ingest", "pictures"]])
def test_a_closed_pipe_is_silent_141(folder: Path, arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "seerctl", *arguments]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, cwd=folder.parent, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_have_their_exit_codes(number: signal.Signals, code: int, tmp_path: Path) -> None:
    # `ingest -` waits for a list on its standard input: the signal meets a command at work.
    with subprocess.Popen(
        [sys.executable, "-m", "seerctl", "ingest", "-", "-o", str(tmp_path / "s.tar")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        time.sleep(1.5)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == code
    assert b"Traceback" not in stderr


def test_lazy_group_lists_without_importing() -> None:
    assert isinstance(cli, LazyGroup)
    assert set(cli.list_commands(click.Context(cli))) == set(COMMANDS)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_noticed_by_unbuffered_output_too(folder: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([sys.executable, "-u", "-m", "seerctl", "ingest", str(folder)], stdout=full,
                              stderr=subprocess.PIPE, text=True, check=False)  # fmt: skip
    assert done.returncode == ExitCode.ENVIRONMENT
    assert "the disk is full" in done.stderr
    assert "Traceback" not in done.stderr


def test_unbuffered_output_is_written_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sips(io.RawIOBase):
        taken = b""

        def writable(self) -> bool:
            return True

        def write(self, data: Any, /) -> int:
            self.taken += bytes(data[:7])
            return min(7, len(data))

    raw = Sips()
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=raw, isatty=lambda: False))
    with binary_stdout("seerctl ingest") as stream:
        stream.write(b"0123456789" * 3000)
    assert raw.taken == b"0123456789" * 3000
    assert not raw.closed
