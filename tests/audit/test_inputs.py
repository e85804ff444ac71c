"""What a check needs of a table is said before its rows are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seerctl.audit.associations import measure
from seerctl.audit.inputs import needs, read_table
from seerctl.audit.policy import Check, SuiteCheck
from seerctl.errors import InputError, UsageError
from seerctl.scores import write_scores


def check(metric: str, **more: Any) -> SuiteCheck:
    return SuiteCheck("c", "fairness", metric, against="rest", **more)


def table(tmp_path: Path, header: str = "top1,top2,score1,score2,score", cells: str = "cat,dog,0.6,0.4,0.6") -> Path:
    path = tmp_path / "p.csv"
    path.write_text(f"key,label,prediction,{header},g\n" + "".join(f"k{row},cat,cat,{cells},x\n" for row in range(4)))
    return path


@pytest.mark.parametrize(
    ("wanted", "header", "cells", "message"),
    [
        (check("overconfidence"), "top1", "cat", "no column 'score', which check 'c' needs"),
        (check("hit_at_k", k=3), "score", "0.5", "check 'c' needs top1 to top3, it has no top1, top2"),
        (check("household_hit_rate", household="g"), "score", "0.5", "check 'c' needs top1 to top5"),
        (check("label_association", labels="miap"), "top1,top2,score1", "a,b,1", "no column 'score2', which check 'c'"),
        (check("label_association", labels="miap"), "score", "0.5", "check 'c' needs top1 to top5"),
        (check("label_association"), "top1,score1", "a,1", "needs 'labels'"),
        (check("label_association", labels="miab"), "top1,score1", "a,1", "Did you mean 'miap'"),
        (check("household_hit_rate"), "top1", "a", "needs 'household'"),
        (check("auc", at=0.3), "score", "0.5", "has no use for 'at'"),
        (check("precision_at_k"), "score", "0.5", "matches one attribute"),
    ],
)
def test_faults_before_any_row(tmp_path: Path, wanted: SuiteCheck, header: str, cells: str, message: str) -> None:
    path = table(tmp_path, header, cells)
    path.write_text(path.read_text() + "\0ragged row that nobody reads\n")
    with pytest.raises(UsageError, match=message) as caught:
        read_table(path, [wanted], ["g"])
    assert "\n" not in str(caught.value)


def test_full_scores_stand_in_for_ranks(tmp_path: Path) -> None:
    path = table(tmp_path, "score", "0.5")
    write_scores(tmp_path / "s.h5", [f"k{row}" for row in range(4)], ["cat", "dog"], np.full((4, 2), 0.5))
    read = read_table(path, [check("hit_at_k", k=2)], ["g"], scores=tmp_path / "s.h5")
    assert read.full is not None
    assert read.full.classes == ("cat", "dog")
    assert list(read.columns) == ["g"]
    path.write_text("key,label,prediction,top1,g\n" + "".join(f"k{row},cat,cat,cat,x\n" for row in range(4)))
    harm = check("label_association", labels="miap:possibly_non_human", k=1, at=0.5)
    (found,) = measure(read_table(path, [harm], ["g"], scores=tmp_path / "s.h5"), harm, ("g",))
    assert found.evidence["value"] == 1.0
    with pytest.raises(UsageError, match="no column 'score', which check 'c' needs"):
        read_table(path, [check("overconfidence")], ["g"], scores=tmp_path / "s.h5")


def test_labels_and_lists_are_taken_where_every_check_can(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text('key,label,prediction,top1,score1,g\na,"[""cat""]",cat,cat,1,x\nb,[],cat,cat,1,x\n')
    assert read_table(path, [check("hit_at_k"), check("auc")], ["g"]).truth is not None
    for one in (Check("acc", "accuracy"), check("balanced_accuracy"), check("brier")):
        with pytest.raises(InputError, match="is a list of labels"):
            read_table(path, [check("hit_at_k"), one], ["g"])
    path.write_text("key,label,prediction,top1,score1,g\na,,cat,cat,1,x\nb,,cat,cat,1,x\n")
    assert len(read_table(path, [check("label_association", labels="miap")], ["g"])) == 2
    with pytest.raises(InputError, match="no row has a label"):
        read_table(path, [check("label_association", labels="miap"), check("hit_at_k")], ["g"])
    assert needs(check("precision_at_k", columns=("g",))) is None
