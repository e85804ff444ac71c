"""Malformed tables and policies: a documented exit code and one line, never a traceback, never a pass."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seerctl.audit.baseline import load_baseline
from seerctl.audit.fairness import audit_fairness
from seerctl.audit.indicators import METRICS
from seerctl.audit.policy import METRIC_TABLES, load_policy
from seerctl.cli import run
from seerctl.errors import ExitCode, SeerctlError

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
GOOD = "key,label,prediction,score,group\n" + "".join(f"k{i},{i % 2},{i % 3 % 2},0.5,g{i % 2}\n" for i in range(80))

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.floats(-2, 2), st.text("abgroup*=\n\0", max_size=6)
)
keys = st.sampled_from(
    [
        "id",
        "metric",
        "groups",
        "positive",
        "average",
        "against",
        "op",
        "tolerance",
        "threshold",
        "min_n",
        "severity",
        "x",
    ]
)
words = st.sampled_from(
    ["accuracy", "tpr", "fpr", "group", "1", "macro", "rest", "threshold", ">=", "within", "warn", ""]
)


def outcome(work: Callable[[], Any]) -> ExitCode:
    """How `seerctl` would end; anything but an expected error propagates as the bug it is."""
    try:
        return ExitCode(work()["exit_code"])
    except SeerctlError as error:
        return error.exit_code if str(error).isprintable() else ExitCode.BUG


@QUICK
@given(st.binary(max_size=200) | st.text('key,label,prediction"\n\r\t;1\0', max_size=200).map(str.encode))
def test_tables_of_noise(tmp_path: Path, content: bytes) -> None:
    for suffix in ("csv", "jsonl"):
        path = tmp_path / f"p.{suffix}"
        path.write_bytes(content)
        assert outcome(lambda path=path: audit_fairness(path, load_policy(), ["group"])) in (2, 4)


@QUICK
@given(st.integers(0, len(GOOD) - 1), st.sampled_from([b"", b"\n", b",", b'"', b"\0", b"\xff", b"nan", b"-1e999"]))
def test_a_table_spoilt_in_one_place(tmp_path: Path, place: int, bad: bytes) -> None:
    data = GOOD.encode()
    (tmp_path / "p.csv").write_bytes(data[:place] + bad + data[place + 1 :])
    assert outcome(lambda: audit_fairness(tmp_path / "p.csv", load_policy(), ["group"])) in (2, 3, 4, 6)


def toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(c if c.isalnum() or c in "*<>=" else f"\\u{ord(c):04x}" for c in value) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return "[]" if value is None else repr(value)


@QUICK
@given(st.dictionaries(keys, scalars | words | st.lists(scalars | words, max_size=2), max_size=8), st.booleans())
def test_policies_of_any_values(tmp_path: Path, check: dict[str, object], named: bool) -> None:
    check = {"id": "a", "metric": "accuracy", **check} if named else check
    (tmp_path / "p.csv").write_text(GOOD)
    (tmp_path / "audit.toml").write_text(
        "[[check]]\n" + "".join(f"{name} = {toml(value)}\n" for name, value in check.items()), encoding="utf-8"
    )
    path = tmp_path / "audit.toml"
    assert outcome(lambda: audit_fairness(tmp_path / "p.csv", load_policy(path), ["group"])) in (0, 2, 3, 6)


@pytest.mark.parametrize("rows", [1, 2, 29])
def test_a_table_that_is_too_small_never_passes(rows: int, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("".join(GOOD.splitlines(keepends=True)[: rows + 1]))
    assert outcome(lambda: audit_fairness(tmp_path / "p.csv", load_policy(), ["group"])) == ExitCode.INCONCLUSIVE


# ------------------------------------------------------------------- certainly wrong, through the command line itself

SURELY = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
numbers = st.integers(-9, 9) | st.floats(allow_nan=True)
texts = st.text(max_size=8)
lists = st.lists(scalars, max_size=2)
BAD: dict[str, st.SearchStrategy[Any]] = {
    "id": numbers | lists | st.sampled_from(["", " ", "\t"]),
    "metric": numbers | lists | texts.filter(lambda name: name not in METRICS),
    "suite": numbers | lists | texts.filter(lambda name: name not in METRIC_TABLES),
    "groups": numbers | texts | st.lists(numbers, min_size=1) | st.sampled_from([["a*"], ["g*g"], ["none"], [""]]),
    "positive": numbers | lists | texts,  # accuracy takes none
    "average": numbers | lists | texts.filter(lambda name: name != "none"),
    "against": numbers | lists | texts.filter(lambda name: name != "rest"),
    "op": numbers | lists | texts.filter(lambda name: name not in (">=", "<=", "within")),
    "tolerance": texts | lists | st.sampled_from([-0.1, 1.1, float("nan"), float("inf"), True]),
    "threshold": st.floats(),  # against the rest there is none
    "min_n": texts | lists | st.floats() | st.integers(-5, 0) | st.booleans(),
    "min_positives": numbers | texts,
    "severity": numbers | lists | texts,
    "on_inconclusive": numbers | lists | texts,
    "k": st.integers(),  # a counted rate has no use for it
}
TOP: dict[str, st.SearchStrategy[Any]] = {
    "title": numbers | lists, "groups": numbers | texts, "intersections": st.integers(4, 9) | st.just(0) | texts,
    "on_inconclusive": numbers | texts, "stats": numbers | texts | lists, "data": numbers | texts | lists,
    "bin": numbers | texts | st.just([{}]), "map": numbers | texts | st.just([{}]), "balance": numbers | texts,
}  # fmt: skip


def run_audit(*arguments: object) -> tuple[int, str]:
    """Exit code and what stands on stderr."""
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        code = run(["audit", "--fairness", *map(str, arguments)])
    return int(code), err.getvalue()


def refused(found: tuple[int, str]) -> bool:
    """A documented exit code for wrong input, and one line that says why."""
    code, said = found
    return (
        code in (2, 4) and said.startswith("seerctl: error: ") and said.count("\n") == 1 and said.rstrip().isprintable()
    )


def policy_text(check: dict[str, Any], top: dict[str, Any]) -> bytes:
    lines = [f"{name} = {toml(value)}" for name, value in top.items()]
    lines += ["[[check]]", *(f"{name} = {toml(value)}" for name, value in check.items())]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


@st.composite
def wrong_policies(draw: st.DrawFn) -> bytes:
    """A good policy with one thing wrong, or bytes that are no TOML."""
    check: dict[str, Any] = {"id": "a", "metric": "accuracy", "groups": ["group"]}
    kind = draw(st.sampled_from(["value", "top", "unknown", "missing", "twice", "bytes", "cut", "made"]))
    if kind == "value":
        name = draw(st.sampled_from(sorted(BAD)))
        return policy_text({**check, name: draw(BAD[name])}, {})
    if kind == "top":
        name = draw(st.sampled_from(sorted(TOP)))
        return policy_text(check, {name: draw(TOP[name])})
    if kind == "unknown":
        name = draw(st.from_regex(r"[a-z_]{1,12}", fullmatch=True).filter(lambda n: n not in BAD and n not in TOP))
        where = draw(st.booleans())
        return policy_text({**check, **({name: 1} if where else {})}, {} if where else {name: 1})
    if kind == "missing":
        del check[draw(st.sampled_from(["id", "metric"]))]
        return policy_text(check, {})
    if kind == "twice":
        return policy_text(check, {}) + b"\n" + policy_text(check, {})
    if kind == "made":
        return policy_text(check, {}) + draw(st.sampled_from([
            b'\n[[bin]]\ncolumn = "group"\nready = "age"\n', b'\n[[map]]\ncolumn = "group"\nready = "tone"\n',
            b'\n[[bin]]\ncolumn = "nobody"\nname = "group"\nready = "age"\n',
            b'\n[[map]]\ncolumn = "group"\nvalues = { x = "y" }\n', b'\n[data]\ncluster = "nobody"\n',
            b'\n[stats]\nreplicates = 7\n', b'\n[data]\nhousehold = "group"\n', b'\n[balance]\nbound = "x"\n',
        ]))  # fmt: skip
    good = policy_text(check, {})
    if kind == "cut":
        return good[: draw(st.integers(0, len(good) - 11))]  # not one byte less: the last line is whole until then
    if draw(st.booleans()):
        place = draw(st.integers(0, len(good)))
        return good[:place] + draw(st.sampled_from([b"\0", b"\xff", b"\x1b"])) + good[place:]
    place = draw(st.sampled_from([0, *(i + 1 for i, byte in enumerate(good) if byte == 10)]))
    return good[:place] + draw(st.sampled_from([b"[[", b'"""', b"= =", b"\x1b[2J\n="])) + good[place:]


@SURELY
@given(wrong_policies())
def test_a_hundred_wrong_policies(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.csv").write_text(GOOD)
    (tmp_path / "audit.toml").write_bytes(content)
    found = run_audit("--predictions", tmp_path / "p.csv", "--policy", tmp_path / "audit.toml")
    assert refused(found), (content, found)


@st.composite
def wrong_tables(draw: st.DrawFn) -> bytes:
    """A good table with one thing wrong that no reader can overlook."""
    lines = GOOD.splitlines()
    kind = draw(st.sampled_from(["header", "row", "twice", "labels", "score", "bytes", "empty", "key", "lists"]))
    row = draw(st.integers(1, len(lines) - 1))
    if kind == "header":
        gone = draw(st.sampled_from(["key", "label", "prediction", "group"]))
        new = draw(st.sampled_from(["", "x", "keys", "group "]))
        lines[0] = ",".join(new if name == gone else name for name in lines[0].split(","))
    elif kind == "row":
        lines[row] = draw(st.sampled_from([lines[row] + ",x", "k", ",,,,,,", lines[row].rsplit(",", 1)[0]]))
    elif kind == "twice":
        lines.insert(row, lines[draw(st.integers(1, len(lines) - 1))])
    elif kind == "labels":
        lines = [
            lines[0],
            *(line.replace(",", f",{draw(st.sampled_from(['', 'z']))}x,", 1) + "," for line in lines[1:]),
        ]
    elif kind == "score":
        lines[row] = lines[row].replace("0.5", draw(st.sampled_from(["much", "0,5", "--", "0.5.5", "\x1b[31m"])))
    elif kind == "bytes":
        text = "\n".join(lines).encode()
        return (
            text[: draw(st.integers(40, 300))] + draw(st.sampled_from([b"\xff\xfe", b"\xc3\x28", b"\x80"])) + text[300:]
        )
    elif kind == "empty":
        return draw(st.sampled_from([b"", b"\n", lines[0].encode(), lines[0].encode() + b"\n\n\n", b"\xef\xbb\xbf"]))
    elif kind == "key":
        lines[row] = "," + lines[row].split(",", 1)[1]
    else:
        lines[row] = lines[row].replace(",", ',"[""a"", ""b""]",', 1).replace(',"', ',"', 1).rsplit(",", 2)[0] + ",x"
    return "\n".join(lines).encode()


@SURELY
@given(wrong_tables(), st.sampled_from(["csv", "csv", "csv", "jsonl", "txt"]))
def test_a_hundred_wrong_tables(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"p.{suffix}"
    path.write_bytes(content)
    found = run_audit("--predictions", path, "--groups", "group")
    assert refused(found), (content, found)


values = st.recursive(
    scalars | st.floats(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
)


@SURELY
@given(st.binary(max_size=60) | values.map(lambda value: json.dumps(value).encode()), st.booleans())
def test_a_hundred_wrong_baselines(tmp_path: Path, content: bytes, named: bool) -> None:
    (tmp_path / "p.csv").write_text(GOOD)
    (tmp_path / "report.json").write_bytes(content)
    (tmp_path / "audit.toml").write_text(
        '[[check]]\nid = "a"\nmetric = "accuracy"\ngroups = ["group"]\nagainst = "baseline"\n'
    )
    found = run_audit(
        "--predictions", tmp_path / "p.csv", "--policy", tmp_path / "audit.toml", "--baseline",
        tmp_path / "report.json", *(["--baseline-predictions", tmp_path / "p.csv"] if named else []),
    )  # fmt: skip
    assert refused(found), (content, found)


@SURELY
@given(st.dictionaries(st.sampled_from(["checks", "inputs", "policy"]), values))
def test_reports_of_nonsense_never_pass(tmp_path: Path, report: dict[str, Any]) -> None:
    (tmp_path / "p.csv").write_text(GOOD)
    (tmp_path / "report.json").write_text(json.dumps({"schema": "seerctl.audit/1", "checks": [], **report}))
    (tmp_path / "audit.toml").write_text(
        '[[check]]\nid = "a"\nmetric = "accuracy"\ngroups = ["group"]\nagainst = "baseline"\n'
    )
    code, said = run_audit(
        "--predictions", tmp_path / "p.csv", "--policy", tmp_path / "audit.toml", "--baseline", tmp_path / "report.json"
    )  # fmt: skip
    assert code in (4, 6), said


cells = st.sampled_from(["", "a", "b", "c"])


@st.composite
def odd_tables(draw: st.DrawFn) -> str:
    """Few rows, with anything missing that may be: labels, groups, households, classes that never come."""
    rows = draw(st.lists(st.tuples(cells, st.sampled_from("abc"), cells, cells), min_size=1, max_size=60))
    return "key,label,prediction,group,home\n" + "".join(f"k{i},{','.join(row)}\n" for i, row in enumerate(rows))


@st.composite
def odd_policies(draw: st.DrawFn) -> str:
    """Policies that are right, of any kind, on groups of any size."""
    metric = draw(st.sampled_from(sorted(METRICS)))
    check = [f'[[check]]\nid = "a"\nmetric = "{metric}"\ngroups = ["group", "group*home"]\nmin_n = 1']
    if METRICS[metric].conditional:
        check.append("min_positives = 1")
    if METRICS[metric].averages and draw(st.booleans()):
        check.append('average = "macro"')
    against = draw(st.sampled_from(["rest", "baseline", "threshold"]))
    check.append(f'against = "{against}"' + ('\nop = ">="\nthreshold = 0.5' if against == "threshold" else ""))
    if draw(st.booleans()):
        check.append('[data]\ncluster = "home"\nmin_clusters = 2')
    correction = draw(st.sampled_from(["holm", "bonferroni", "none"]))
    method = draw(st.sampled_from(["newcombe", "bootstrap"]))
    return "\n".join([*check, f'[stats]\ncorrection = "{correction}"\nmethod = "{method}"\nreplicates = 100\n'])


@SURELY
@given(odd_tables(), odd_policies(), st.sampled_from(["same", "gone", "other"]), st.integers(0, 9))
def test_right_policies_on_odd_tables(tmp_path: Path, content: str, policy: str, rows: str, seed: int) -> None:
    before, now = tmp_path / "before.csv", tmp_path / "now.csv"
    before.write_text(content)
    header, *lines = content.splitlines()
    said = [line.split(",") for line in lines]
    changed = [",".join([key, label, "abc"[(i + seed) % 3], *rest]) for i, (key, label, _, *rest) in enumerate(said)]
    now.write_text("\n".join([header, *(changed[1:] if rows == "other" else changed)]) + "\n")
    (tmp_path / "audit.toml").write_text(policy)

    def work() -> dict[str, Any]:
        earlier = audit_fairness(before, load_policy(), ["group"])
        (tmp_path / "report.json").write_text(json.dumps(earlier, allow_nan=False))
        if rows == "gone":
            before.unlink()
        baseline = load_baseline(tmp_path / "report.json")
        report = audit_fairness(now, load_policy(tmp_path / "audit.toml"), baseline=baseline)
        json.dumps(report, allow_nan=False)
        return report

    assert outcome(work) in (0, 3, 4, 6)
