"""M4: the optimum of a convex solver, limits kept, impossible ones named, and shard sets that get balanced."""

from __future__ import annotations

import csv
from pathlib import Path

import cvxpy as cp
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import linprog

from seerctl.audit.balance import Infeasible, Settings, balance, balance_set, describe_balance, measure_bias
from seerctl.audit.contingency import cramers_v, cross, differences, joint_codes, mutual_information, table_of
from seerctl.audit.moments import Programme, solve
from seerctl.cli import run
from seerctl.columns import Column
from seerctl.errors import UsageError
from seerctl.shards.index import ShardSet
from seerctl.shards.plan import ReadingPlan, WeightedPlan
from seerctl.weighting import SampleWeights, load_sampling, write_weights
from tests.streams import meta_of, shards_of, stream_of

ROWS = 2000


def random_programme(seed: int, *, keep_mean: bool | None = None, bound: float | None = None) -> Programme:
    """Overlapping binary groups and labels that share a cause, with random targets and limits."""
    generator = np.random.default_rng(seed)
    groups, labels = int(generator.integers(1, 5)), int(generator.integers(1, 7))
    latent = generator.normal(size=(ROWS, 1))

    def binary(logits: NDArray[np.float64]) -> NDArray[np.float64]:
        return (generator.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.float64)

    s = binary(generator.normal(size=groups) + generator.normal(size=groups) * latent)
    y = binary(
        generator.normal(size=labels)
        - 1
        + generator.normal(size=labels) * latent
        + s @ generator.normal(size=(groups, labels))
    )
    targets = np.clip(s.mean(0) + generator.normal(size=groups) * 0.1, 0.05, 0.95)
    rows, which = np.unique(y, axis=0, return_inverse=True)
    patterns, counts = np.unique(np.column_stack([which.ravel(), s]), axis=0, return_counts=True)
    eps = np.full((1 + labels, groups), float(generator.choice([0.001, 0.01, 0.03])))
    eps[1:] = float(generator.choice([0.001, 0.01, 0.03]))
    eta, chosen, kept = generator.choice([0.6, 0.9, 1.0]), generator.choice([1, 2, 5]), generator.integers(2)
    return Programme(
        patterns[:, 1:] - targets,
        counts / ROWS,
        np.searchsorted(patterns[:, 0], np.arange(len(rows) + 1)),
        rows,
        eps,
        float(eta),
        float(chosen) if bound is None else bound,
        bool(kept) if keep_mean is None else keep_mean,
    )


def constraints(programme: Programme) -> NDArray[np.float64]:
    """(P, (1 + R) K) mass times what each limit is on."""
    rows = np.concatenate([np.ones((len(programme.labels), 1)), programme.labels], axis=1)
    rows = np.repeat(rows, np.diff(programme.starts), axis=0)
    products = rows[:, :, None] * programme.centred[:, None, :]
    return np.asarray(products.reshape(len(rows), -1) * programme.mass[:, None])


def reference(programme: Programme) -> tuple[str, float]:
    """Status and optimum by cvxpy and Clarabel."""
    q, matrix, eps = cp.Variable(len(programme.mass)), constraints(programme), programme.eps.ravel()
    limits = [q >= 0, q <= programme.bound, cp.abs(matrix.T @ q) <= eps]
    if programme.keep_mean:
        limits.append(programme.mass @ q == programme.eta)
    objective = cp.Minimize(0.5 * cp.sum(cp.multiply(programme.mass, cp.square(q - programme.eta))))
    problem = cp.Problem(objective, limits)
    problem.solve(solver=cp.CLARABEL)
    return problem.status, float(problem.value)


@pytest.mark.parametrize("seed", range(20))
def test_the_optimum_is_that_of_a_convex_solver(seed: int) -> None:
    programme = random_programme(seed)
    found = solve(programme)
    status, optimum = reference(programme)
    assert found.feasible == (status == "optimal")
    if not found.feasible:
        assert status == "infeasible"
        assert found.lower > programme.largest  # a proof: no weights within the bounds have so large an objective
        return
    assert found.objective == pytest.approx(optimum, rel=1e-3, abs=1e-7)
    assert found.lower <= found.objective + 1e-9
    assert found.objective - found.lower < 1e-7
    assert found.q.min() >= 0
    assert found.q.max() <= programme.bound
    moments = constraints(programme).T @ found.q
    assert (np.abs(moments) <= programme.eps.ravel() + 1e-6).all()
    np.testing.assert_allclose(found.moments.ravel(), moments, atol=1e-9)
    if programme.keep_mean:
        assert programme.mass @ found.q == pytest.approx(programme.eta, abs=1e-7)


@pytest.mark.parametrize("seed", [0, 1, 2, 4, 10, 12, 22, 23, 28])
def test_what_cannot_be_met_is_broken_as_little_as_possible(seed: int) -> None:
    """The excess adds up to what a linear programme says is the least, within the penalty's finite weight."""
    programme = random_programme(seed, keep_mean=True, bound=1.0)
    found = solve(programme)
    assert not found.feasible
    matrix, eps = constraints(programme), programme.eps.ravel()
    count, width = matrix.shape
    # q, then one slack for each limit: minimise the slacks.
    above = np.hstack([matrix.T, -np.eye(width)])
    below = np.hstack([-matrix.T, -np.eye(width)])
    least = linprog(
        np.r_[np.zeros(count), np.ones(width)],
        A_ub=np.vstack([above, below]),
        b_ub=np.r_[eps, eps],
        A_eq=np.r_[programme.mass, np.zeros(width)][None],
        b_eq=[programme.eta],
        bounds=[(0, programme.bound)] * count + [(0, None)] * width,
    ).fun
    assert least > 0
    assert least <= found.excess.sum() + 1e-6
    assert found.excess.sum() < 1.3 * least + 1e-6


def test_patterns_that_differ_in_nothing_get_one_weight_and_rows_their_pattern() -> None:
    columns = _skewed(5000)
    result = _balanced(columns)
    codes = np.stack([columns[name].values for name in ("gender", "label")], 1)
    for pattern in np.unique(codes, axis=0):
        assert len(np.unique(result.weights.weight[(codes == pattern).all(1)])) == 1
    assert result.patterns == len(np.unique(codes, axis=0))


def _skewed(rows: int, seed: int = 0) -> dict[str, Column]:
    """Two genders, 35 % to 65 %, whose label depends on the gender; the age is missing for some."""
    generator = np.random.default_rng(seed)
    gender = (generator.random(rows) < 0.65).astype(np.int32)
    label = np.where(generator.random(rows) < 0.35, gender, generator.integers(0, 4, rows)).astype(np.int32)
    age = generator.integers(-1, 3, rows).astype(np.int32)
    return {
        "gender": Column(gender, ("f", "m")),
        "label": Column(label, ("clerk", "nurse", "pilot", "smith")),
        "age": Column(age, ("old", "young", "middle")),
    }


def _blank(rows: int) -> SampleWeights:
    keys = np.array([f"{row:016x}-{row:08x}".encode() for row in range(rows)])
    return SampleWeights(keys, np.ones(rows), "a" * 64)


def _balanced(columns: dict[str, Column], attributes: tuple[str, ...] = ("gender",), **settings: object):  # type: ignore[no-untyped-def]
    chosen = Settings(attributes, ("label",), **settings)  # type: ignore[arg-type]
    groupings = [(name,) if "*" not in name else tuple(name.split("*")) for name in attributes]
    return balance(columns, groupings, chosen, {}, _blank(len(columns["gender"])), "set")


@pytest.mark.parametrize("keep_mean", [True, False])
@pytest.mark.parametrize("eps", [0.01, 0.001])
def test_biases_fall_below_their_limits(eps: float, keep_mean: bool) -> None:
    """Acceptance (a) to (c) of M4: bounds, representation bias, and the bound on association bias derived from eps."""
    columns = _skewed(20_000)
    result = _balanced(columns, eta=0.9, bound=2.0, eps_representation=eps, eps_association=eps, keep_mean=keep_mean)
    weight = result.weights.weight
    assert weight.min() >= 0
    assert weight.max() <= 2.0
    assert weight.mean() == pytest.approx(result.mean)
    if keep_mean:
        assert result.mean == pytest.approx(0.9, abs=1e-6)
    assert result.before.representation(result.targets) > 0.14
    assert result.before.association() > 0.3
    assert result.after.representation(result.targets) <= eps / result.mean + 1e-6
    p = result.after.shares["gender"][0]
    rates = np.bincount(columns["label"].values, weight) / weight.sum()
    assert result.after.association() <= eps * (1 + rates.max()) / (result.mean * p * (1 - p)) + 1e-6
    assert result.effective == pytest.approx(weight.sum() ** 2 / (weight**2).sum())
    assert result.effective < len(weight)


def test_first_order_reweighting_alone_leaves_the_association() -> None:
    """The discriminating test: shares are right, and the labels still tell the groups apart."""
    columns = _skewed(20_000)
    first = _balanced(columns, eps_representation=0.001, eps_association=None)
    both = _balanced(columns, eps_representation=0.001, eps_association=0.001)
    assert first.after.representation(first.targets) <= 0.001 + 1e-6
    assert first.after.association() > 0.3
    assert both.after.association() < 0.02


def test_weights_that_are_sampled_by_have_the_biases_they_promise() -> None:
    columns = _skewed(20_000)
    result = _balanced(columns, eps_representation=0.002, eps_association=0.002)
    plan = WeightedPlan(ReadingPlan(20_000, "ab", 0), result.weights.weight)
    drawn, _ = plan.order(0, np.arange(20_000))
    sampled = measure_bias({"gender": columns["gender"].take(drawn)}, {"label": columns["label"].take(drawn)}, None)
    deviation = 4 * np.sqrt(0.25 / 20_000)
    assert abs(sampled.shares["gender"] - result.after.shares["gender"]).max() < deviation
    assert np.abs(sampled.associations["gender", "label"]).max() < 0.02 + 2 * deviation


def test_missing_values_are_left_out_of_their_attribute() -> None:
    columns = _skewed(8000)
    result = _balanced(columns, ("gender", "age"), eps_representation=0.0, eps_association=0.002)
    np.testing.assert_allclose(result.after.shares["age"], 1 / 3, atol=1e-6)
    np.testing.assert_allclose(result.after.shares["gender"], 1 / 2, atol=1e-6)
    assert result.weights.weight[columns["age"].values < 0].mean() > 0.3


def test_intersections_can_be_balanced() -> None:
    result = _balanced(_skewed(8000), ("gender*age",), eps_representation=0.001)
    assert result.values["gender*age"][:2] == ("f * old", "f * young")
    np.testing.assert_allclose(result.after.shares["gender*age"], 1 / 6, atol=0.0012)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"bound": 1.0},
            r"between 0 and 1 and mean 1 meet all limits: the share of gender=f comes to 0\.3\d+, demanded",
        ),
        ({"bound": 1.3, "eta": 1.2}, r"the association of gender=f with label=\w+"),
    ],
)
def test_impossible_settings_are_named(settings: dict[str, float], message: str) -> None:
    with pytest.raises(Infeasible, match=message) as caught:
        _balanced(_skewed(4000), eps_representation=0.001, eps_association=0.001, **settings)
    assert caught.value.broken[0][0].startswith(("the share of gender=f", "the association of gender=f"))
    assert caught.value.exit_code == 2
    assert "Raise the bound" in str(caught.value)


def test_a_group_without_a_sample_cannot_be_balanced() -> None:
    columns = _skewed(1000)
    columns["gender"] = Column(columns["gender"].values, ("f", "m", "x"))
    with pytest.raises(Infeasible, match=r"the share of gender=x comes to 0, demanded 0\.3333"):
        _balanced(columns)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eta": 0.0}, "do not fit"),
        ({"eta": 3.0, "bound": 2.0}, "do not fit"),
        ({"bound": float("inf")}, "do not fit"),
        ({"eps_representation": -1.0}, "between 0 and 1"),
        ({"eps_representation": None, "eps_association": None}, "neither"),
    ],
)
def test_settings_without_sense_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Settings(("gender",), ("label",), **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def skewed_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard set of 600 samples with the columns of `_skewed`, an empty text one and a text of its own each."""
    columns = _skewed(600)
    texts = {name: column.texts() for name, column in columns.items()}
    samples = []
    for row in range(600):
        data = f"picture {row}".encode()
        values = {name: text[row] or None for name, text in texts.items()} | {"size": row / 4}
        samples.append((data, meta_of(data, f"{row}.jpg", values)))
    where = tmp_path_factory.mktemp("skewed") / "set"
    shards_of(where, stream_of(samples), maxcount=128)
    return where


def test_a_set_is_balanced_into_weights_that_training_takes(skewed_set: Path, tmp_path: Path) -> None:
    result = balance_set(skewed_set, ["gender"], ["label"], targets={"gender": {"f": 0.4, "m": 0.6}})
    np.testing.assert_allclose(result.after.shares["gender"], [0.4, 0.6], atol=0.0101)
    write_weights(tmp_path / "weights.h5", result.weights)
    with ShardSet.open(skewed_set) as shards:
        loaded = load_sampling(shards, str(tmp_path / "weights.h5"))
        genders = np.array([sample.meta["columns"]["gender"] for sample in shards])
    np.testing.assert_array_equal(loaded.weight, result.weights.weight)
    share = loaded.weight[genders == "f"].sum() / loaded.weight.sum()
    assert share == pytest.approx(result.after.shares["gender"][0])
    described = describe_balance(result)
    assert described.data["balance"]["settings"]["targets"] == {"gender": {"f": 0.4, "m": 0.6}}
    assert [table.title for table in described.tables] == [
        "Balance: before and after", "Balance: shares", "Balance: associations",
    ]  # fmt: skip
    assert described.tables[1].rows[0][:3] == ("gender", "f", 0.4)


def test_observed_shares_stay(skewed_set: Path) -> None:
    result = balance_set(skewed_set, ["gender"], ["label"], targets={"gender": "observed"})
    np.testing.assert_allclose(result.after.shares["gender"], result.before.shares["gender"], atol=0.0101)
    assert result.after.association() < 0.1 < result.before.association()


@pytest.mark.parametrize(
    ("attributes", "labels", "targets", "message"),
    [
        (["gendre"], ["label"], {}, "no column 'gendre'. Did you mean 'gender'"),
        (["gender"], ["labels"], {}, "no column 'labels'. Did you mean 'label'"),
        ([], ["label"], {}, "no groups to balance"),
        (["gender"], [], {}, "no labels"),
        (["gender"], ["label"], {"age": "uniform"}, "target for 'age', which is not balanced"),
        (["gender"], ["label"], {"gender": {"f": 0.4, "w": 0.6}}, "no value 'w'"),
        (["gender"], ["label"], {"gender": {"f": 0.4}}, "no target share for gender=m"),
        (["gender"], ["label"], {"gender": {"f": 0.4, "m": 0.4}}, "add up to 0.8"),
        (["gender"], ["label"], {"gender": "even"}, "target of 'gender' is 'even'"),
    ],
)
def test_wrong_names_and_targets_are_refused(
    skewed_set: Path, attributes: list[str], labels: list[str], targets: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        balance_set(skewed_set, attributes, labels, targets=targets)  # type: ignore[arg-type]


def test_columns_of_too_many_values_are_refused() -> None:
    columns = {"id": Column(np.arange(2000)), "label": Column(np.zeros(2000, np.int32), ("x",))}
    with pytest.raises(UsageError, match=r"column 'id' has 2,000 values"):
        cross(columns, ("id",), "set")


def test_tables_against_definitions() -> None:
    table = np.array([[10.0, 20.0, 30.0], [6.0, 9.0, 17.0]])  # Wikipedia's example of expected counts: V by hand
    n = table.sum()
    expected = np.outer(table.sum(1), table.sum(0)) / n
    assert cramers_v(table) == pytest.approx(np.sqrt(((table - expected) ** 2 / expected).sum() / n))
    assert cramers_v(np.diag([5.0, 7.0, 9.0])) == pytest.approx(1.0)
    assert cramers_v(np.outer([1.0, 2.0], [3.0, 4.0])) == pytest.approx(0.0)
    assert np.isnan(cramers_v(np.array([[1.0, 2.0], [0.0, 0.0]])))
    assert mutual_information(np.diag([4.0, 4.0])) == pytest.approx(1.0)  # one bit
    assert mutual_information(np.outer([1.0, 2.0], [3.0, 4.0])) == pytest.approx(0.0, abs=1e-12)
    own, rest = differences(np.array([[3.0, 1.0], [1.0, 3.0], [0.0, 0.0]]))
    np.testing.assert_allclose(own[:2], [[0.75, 0.25], [0.25, 0.75]])
    np.testing.assert_allclose(rest[:2], [[0.25, 0.75], [0.75, 0.25]])
    assert np.isnan(own[2]).all()


def test_joint_codes_tell_rows_apart_however_many_columns() -> None:
    generator = np.random.default_rng(0)
    columns = [generator.integers(-1, 900, 500).astype(np.int32) for _ in range(12)]
    columns = [column // 300 for column in columns]
    codes = joint_codes(columns, [900] * 12)
    assert len(np.unique(codes)) == len(np.unique(np.stack(columns, 1), axis=0))
    ordered = np.argsort(codes, kind="stable")
    assert (np.diff(columns[0][ordered]) >= 0).all()  # the first column is the leading digit


def test_weighted_tables() -> None:
    a, b = Column(np.array([0, 0, 1, -1], np.int32), ("x", "y")), Column(np.array([0, 1, 1, 0], np.int32), ("p", "q"))
    np.testing.assert_array_equal(table_of(a, b), [[1, 1], [0, 1]])
    np.testing.assert_array_equal(table_of(a, b, np.array([2.0, 3.0, 4.0, 5.0])), [[2, 3], [0, 4]])


CARE = {"health worker", "student", "teacher", "cook", "singer", "artist", "office worker", "judge"}
CRAFT = {"mechanic", "scientist", "technologist", "pilot", "astronaut", "firefighter", "construction worker", "farmer"}


@pytest.mark.data
def test_skewed_emoji_are_balanced(shared_data: Path, tmp_path: Path) -> None:
    """Drawings at work of which four fifths of the men who care and of the women in crafts were taken out."""
    folder = shared_data / "emoji"
    with (folder / "metadata.csv").open(newline="") as file:
        rows = [
            row for row in csv.DictReader(file) if row["role"] in CARE | CRAFT and row["gender"] in ("man", "woman")
        ]
    kept = [["path", "gender", "skin_tone", "label"]]
    for place, row in enumerate(rows):
        label = "care" if row["role"] in CARE else "craft"
        if (label == "care") == (row["gender"] == "woman") or place % 5 == 0:
            kept.append([str(folder / row["path"]), row["gender"], row["skin_tone"], label])
    with (tmp_path / "work.csv").open("w", newline="") as file:
        csv.writer(file).writerows(kept)
    assert run(["-q", "ingest", str(tmp_path / "work.csv"), "-o", str(tmp_path / "stream.tar")]) == 0
    assert run(["-q", "shard", str(tmp_path / "stream.tar"), "-o", str(tmp_path / "set")]) == 0
    result = balance_set(tmp_path / "set", ["gender", "skin_tone"], ["label"])
    assert len(result.weights.weight) == len(kept) - 1
    assert result.before.association() > 0.4
    assert result.after.association() < 0.11  # 0.01 (1 + 1/2) / (p (1 - p)) at p = 1/6
    assert result.after.representation(result.targets) <= 0.01 + 1e-6
    first = balance_set(tmp_path / "set", ["gender", "skin_tone"], ["label"], eps_association=None)
    assert first.after.association() > 0.4
