"""Harmful label association: by hand, the shipped label sets, names that match, and every way to ask wrongly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seerctl.audit.associations import REFERENCE, SHIPPED, load_sets, match, measure, read_sets
from seerctl.audit.policy import SuiteCheck
from seerctl.errors import InputError, UsageError
from seerctl.predictions import Predictions, read_predictions
from seerctl.scores import open_scores, write_scores

# What a classifier of five ranks says of eight pictures; no picture has a label, one group has no value.
ROWS = """key,label,prediction,top1,score1,top2,score2,top3,score3,gender,skin
1,,face,"face, human face",0.9,Prison_House,0.3,tie,0.01,f,lighter
2,,face,"face, human face",0.5,gorilla,0.1,prison,0.05,f,darker
3,,tie,tie,0.8,gorilla,0.09,"face, human face",0.02,f,darker
4,,gorilla,gorilla,0.4,prison,0.35,tie,0.1,m,darker
5,,tie,tie,0.6,"people",0.3,gorilla,0.05,m,lighter
6,,tie,tie,0.9,"people",0.05,gorilla,0.01,m,lighter
7,,gorilla,gorilla,0.9,people,0.1,tie,0.0,,darker
8,,tie,tie,0.7,khimar,0.2,"Great-Ape, pongid",0.1,m,darker
"""


@pytest.fixture
def table(tmp_path: Path) -> Predictions:
    (tmp_path / "p.csv").write_text(ROWS)
    return read_predictions(tmp_path / "p.csv", ranked=True, labels=False)


def check(labels: str | None = "casual_conversations", **more: Any) -> SuiteCheck:
    fields = {"k": 3, "threshold": 0.0, "op": "<=", "min_n": 1, "labels": labels, **more}
    if fields.get("against") == "rest":
        del fields["threshold"], fields["op"]
    return SuiteCheck("harm", "fairness", "label_association", **fields)


def shares(table: Predictions, wanted: SuiteCheck, *grouping: str) -> dict[tuple[str, ...], float]:
    return {(*f.group.values(), f.cls or ""): f.value for f in measure(table, wanted, grouping)}


def test_by_hand(table: Predictions) -> None:
    found = shares(table, check(), "gender")
    assert found == {
        ("f", "human"): pytest.approx(2 / 3), ("m", "human"): 0.25,
        ("f", "possibly_human"): 0.0, ("m", "possibly_human"): 0.25,
        ("f", "non_human"): pytest.approx(1 / 3), ("m", "non_human"): 0.5,
        ("f", "crime"): 0.0, ("m", "crime"): 0.25,
        ("f", "harmful"): pytest.approx(1 / 3), ("m", "harmful"): 0.5,
    }  # fmt: skip
    assert shares(table, check("crime", at=0.0), "gender")["f", "crime"] == pytest.approx(1 / 3)
    assert shares(table, check("casual_conversations:non_human", k=1), "gender")["m", "non_human"] == 0.25
    crossed = shares(table, check("crime", at=0.3), "gender", "skin")
    assert crossed == {
        ("f", "lighter", "crime"): 0.0, ("f", "darker", "crime"): 0.0,
        ("m", "darker", "crime"): 0.5, ("m", "lighter", "crime"): 0.0,
    }  # fmt: skip


def test_differences_to_the_rest_and_evidence(table: Predictions) -> None:
    (lighter,) = (f for f in measure(table, check("casual_conversations:harmful", against="rest"), ("skin",))
                  if f.group["skin"] == "lighter")  # fmt: skip
    assert lighter.value == pytest.approx(0 / 3 - 4 / 5)  # a row without a gender counts where only skin is asked
    assert lighter.evidence["labels"] == {}
    rest = lighter.evidence["rest"]
    assert (rest["images"], rest["labels"]) == (4, {"gorilla": 3, "Great-Ape, pongid": 1, "prison": 1})
    assert "slug" in rest["not_a_class"]
    assert "great ape" not in rest["not_a_class"]


def test_none_of_62_is_no_proof(tmp_path: Path) -> None:
    lines = [f"k{row},,face,face,0.9,prison,0.01,g" for row in range(62)]
    (tmp_path / "p.csv").write_text("key,label,prediction,top1,score1,top2,score2,age\n" + "\n".join(lines))
    table = read_predictions(tmp_path / "p.csv", ranked=True, labels=False)
    (found,) = measure(table, check("crime", k=2, min_n=30), ("age",))
    assert found.value == 0.0
    assert found.interval is not None
    assert found.interval(0.05) == (0.0, pytest.approx(0.0583, abs=1e-4))
    assert found.interval(0.001)[1] > found.interval(0.05)[1]


def test_groups_that_the_published_scripts_needed(table: Predictions) -> None:
    """They fail without an n/a gender and without the attribute `path`; here a group is what has rows."""
    assert "path" not in table.columns
    keys = {group[0] for group in shares(table, check("crime"), "gender")}
    assert keys == {"f", "m"}
    assert sum(f.n for f in measure(table, check("crime"), ("gender",))) == 7


def test_shipped_sets() -> None:
    assert sorted(path.stem for path in SHIPPED.glob("*.toml")) == ["casual_conversations", "miap"]
    conversations, miap = (read_sets(SHIPPED / f"{name}.toml") for name in ("casual_conversations", "miap"))
    assert len(conversations.labels("non_human")) == 18
    assert set(conversations.labels("non_human")) - set(miap.labels("non_human")) == {"dog"}
    assert [found.title for found in miap.sets.values()] == [
        "Human", "Possibly-Human", "Non-Human", "Possibly-Non-Human", "Crime", "Harmful",
    ]  # fmt: skip
    assert miap.labels("possibly_non_human") == ("cat", "dog")
    assert set(miap.labels("harmful")) == {*miap.labels("non_human"), "prison"}
    assert load_sets(check("human")) == {"human": ("people", "face")}
    assert list(load_sets(check("miap"))) == list(miap.sets)
    with pytest.raises(UsageError, match="'non_human' differs between casual_conversations and miap"):
        load_sets(check("non_human"))


def test_a_file_of_ones_own(table: Predictions, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[sets.clothes]\nlabels = ["TIE"]\n[sets.faces]\nlabels = ["Face"]\n')
    assert set(shares(table, check(str(path)), "skin")) == {
        (skin, name) for skin in ("lighter", "darker") for name in ("clothes", "faces")
    }
    assert shares(table, check(f"{path}:clothes", at=0.75), "gender") == {
        ("f", "clothes"): pytest.approx(1 / 3), ("m", "clothes"): 0.25,
    }  # fmt: skip


def test_names_match_in_spite_of_spelling() -> None:
    classes = ["n02480495 orangutan, orang, orangutang", "Great_Ape", "rat-snake", "n02480855_gorilla, Gorilla gorilla"]
    assert match(check(), "x", ["orangutan", "great ape", "gorilla", "rat", "snake"], classes) == [
        classes[0], classes[1], classes[3],
    ]  # fmt: skip


def test_ranks_beyond_the_table_come_from_the_full_scores(table: Predictions, tmp_path: Path) -> None:
    classes = ["face", "prison", "tie", "gorilla", "people"]
    scores = np.tile([0.5, 0.2, 0.15, 0.1, 0.05], (8, 1))
    write_scores(tmp_path / "s.h5", table.keys, classes, scores)
    full = Predictions(table.keys, table.classes, table.label, table.prediction, table.score, table.top,
                       table.top_scores, table.columns, full=open_scores(tmp_path / "s.h5", table.keys))  # fmt: skip
    assert shares(full, check("crime", k=4), "skin") == {("lighter", "crime"): 1.0, ("darker", "crime"): 1.0}
    with pytest.raises(UsageError, match="with k = 4 needs top1 to top4 in the table, it has top1 to top3"):
        measure(table, check("crime", k=4), ("skin",))
    # a label that is never among the first is still one of the classifier's
    write_scores(tmp_path / "s.h5", table.keys, [*classes, "slug"], np.column_stack([scores, np.zeros(8)]))
    (tmp_path / "mine.toml").write_text('[sets.snails]\nlabels = ["slug"]\n')
    wanted = check(str(tmp_path / "mine.toml"))
    with pytest.raises(UsageError, match="no class of the table is in the label set 'snails'"):
        measure(table, wanted, ("skin",))
    full = Predictions(table.keys, table.classes, table.label, table.prediction, table.score, table.top,
                       table.top_scores, table.columns, full=open_scores(tmp_path / "s.h5", table.keys))  # fmt: skip
    assert set(shares(full, wanted, "skin").values()) == {0.0}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "needs 'labels', a label set.*Shipped: casual_conversations, miap"),
        ("crimes", "no label set 'crimes'. Did you mean 'crime'"),
        ("miap:crimes", "no label set 'crimes'. Did you mean 'crime'"),
        ("maip:crime", "no label sets 'maip'. Did you mean 'miap'"),
        ("none.toml", "none.toml: no such file"),
        ("{[sets.a]\nlabel = ['x']}", "unknown key 'sets.a.label'. Did you mean 'labels'"),
        ("{[sets.a]\nlabels = []}", "needs 'labels' or 'includes'"),
        ("{[sets.a]\nincludes = ['b']}", "includes 'b', which is no set"),
        ("{[sets.a]\nlabels = ['']}", "a label is empty"),
        ("{title = 'x'}", r"no \[sets.NAME\]"),
        ("{[sets.a]\nlabels = ['faces', 'gorila']}", "closest: 'face', 'gorilla'"),
        ("{[sets.a]\nlabels = ['qqqqqqqqqq']}", "none is near"),
    ],
)
def test_label_sets_that_are_wrong(table: Predictions, tmp_path: Path, labels: str | None, message: str) -> None:
    if labels and labels.startswith("{"):
        (tmp_path / "own.toml").write_text(labels[1:-1])
        labels = str(tmp_path / "own.toml")
    with pytest.raises(UsageError, match=message) as caught:
        measure(table, check(labels), ("gender",))
    assert "\n" not in str(caught.value)


def test_tables_that_lack_what_is_needed(table: Predictions) -> None:
    with pytest.raises(UsageError, match="has no use for 'positive'"):
        measure(table, check("crime", cls="face"), ("gender",))
    with pytest.raises(UsageError, match="no column 'gendr'"):
        measure(table, check("crime"), ("gendr",))
    table.top_scores[2, 1] = np.nan
    with pytest.raises(InputError, match="row 3 names classes without their scores"):
        measure(table, check("crime"), ("gender",))


def test_published_rows_are_whole() -> None:
    for reference in REFERENCE:
        assert all(len(row) == len(reference.columns) for row in reference.rows)
        assert "2304.07193" in reference.note
