"""Rankings: the Oxford and Paris rule worked by hand, ties in order, scikit-learn's precision, whatever the blocks."""

from __future__ import annotations

import numpy as np
import pytest

from seerctl.probes import ranking
from seerctl.probes.ranking import Wanted, average_precision, precision_at, ranks, recall_at, similarities


def wanted(relevant: list[int], junk: list[int] | None = None) -> Wanted:
    return Wanted(np.array(relevant, dtype=np.intp), np.array(junk or [], dtype=np.intp))


def test_average_precision_by_hand() -> None:
    # Ranking without junk: wrong, right, wrong, wrong, right: places 1 and 4, two relevant rows.
    # First: precision 0/1 before it, 1/2 with it: 0.25. Second: 1/4 before, 2/5 with it: 0.325. Mean 0.2875.
    assert average_precision(np.array([1, 4])) == pytest.approx(0.2875)
    assert average_precision(np.array([0, 1, 2])) == 1.0
    assert average_precision(np.array([0, 2])) == pytest.approx((1.0 + (1 / 2 + 2 / 3) / 2) / 2)
    assert np.isnan(average_precision(np.array([], dtype=np.intp)))


def test_precision_stops_at_the_last_relevant_row() -> None:
    places = np.array([1, 4])
    np.testing.assert_allclose(precision_at(places, [1, 2, 5, 10]), [0, 1 / 2, 2 / 5, 2 / 5])
    np.testing.assert_allclose(precision_at(np.array([0]), [1, 5]), [1, 1])
    np.testing.assert_allclose(recall_at(places, [1, 2]), [0, 1])
    assert np.isnan(precision_at(np.array([], dtype=np.intp), [1])).all()


def test_junk_is_taken_out_of_the_ranking() -> None:
    similarity = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    np.testing.assert_array_equal(ranks(similarity, wanted([2, 5])), [2, 5])
    np.testing.assert_array_equal(ranks(similarity, wanted([2, 5], [0, 4])), [1, 3])
    np.testing.assert_array_equal(ranks(similarity, wanted([5, 2], [4, 1, 0])), [0, 2])


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_a_stable_sort(seed: int) -> None:
    generator = np.random.default_rng(seed)
    similarity = generator.integers(0, 6, 60).astype(np.float32)  # full of ties
    rows = generator.permutation(60)
    asked = wanted(rows[:9].tolist(), rows[9:20].tolist())
    order = [row for row in np.argsort(-similarity, kind="stable") if row not in set(asked.junk.tolist())]
    expected = [place for place, row in enumerate(order) if row in set(asked.relevant.tolist())]
    np.testing.assert_array_equal(ranks(similarity, asked), expected)


def test_a_collapsed_model_scores_by_chance_not_by_luck() -> None:
    generator = np.random.default_rng(0)
    marks = [
        average_precision(ranks(np.zeros(400, np.float32), wanted(generator.permutation(400)[:40].tolist())))
        for _ in range(200)
    ]
    assert np.mean(marks) == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("cells", [1, 70, 1 << 20])
def test_similarities_do_not_depend_on_blocks(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "QUERY_CELLS", cells)
    generator = np.random.default_rng(0)
    queries, index = (generator.normal(size=(n, 8)).astype(np.float32) for n in (7, 30))
    heard: list[int] = []
    found = dict(similarities(queries, index, heard.append))
    np.testing.assert_allclose(np.stack([found[q] for q in range(7)]), queries @ index.T, rtol=1e-5, atol=1e-6)
    assert sum(heard) == 7
