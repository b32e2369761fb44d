"""What an artifact lost, and whether it is noise: against scikit-learn, SciPy, tables worked out by hand, and simulation."""

from __future__ import annotations

import json
import operator
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, bootstrap, pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score

from edgellm.core import strict
from edgellm.core.evaluation import Drop, Evaluation, Flip
from edgellm.errors import InputError
from edgellm.stages.compare import FLIPS, compare
from edgellm.tasks import load_task


def accuracy(golds: Sequence[object], predictions: Sequence[object]) -> dict[str, float]:
    return {"accuracy": float(accuracy_score(golds, predictions))}


def macro_f1(golds: Sequence[object], predictions: Sequence[object]) -> dict[str, float]:
    return {
        "macro-F1": float(f1_score(golds, predictions, average="macro", zero_division=0)),
        **accuracy(golds, predictions),
    }


def spearman(golds: Sequence[object], predictions: Sequence[object]) -> dict[str, float]:
    return {
        "spearman": float(spearmanr(golds, predictions).statistic),
        "pearson": float(pearsonr(golds, predictions).statistic),
    }


def labels(golds: Sequence[Any], source: Sequence[Any], got: Sequence[Any], **options: Any) -> Evaluation:
    given = {"metrics": accuracy, "shown": [f"text {i}" for i in range(len(golds))], "right": operator.eq, **options}
    return compare(golds, source, got, **given)


def counted(both: int, worse: int, better: int, neither: int) -> tuple[list[str], list[str], list[str]]:
    """Return golds, source and artifact with so many examples that both, only the source, ... get right."""
    n = both + worse + better + neither
    source = ["yes"] * (both + worse) + ["no"] * (better + neither)
    got = ["yes"] * both + ["no"] * worse + ["yes"] * better + ["no"] * neither
    return ["yes"] * n, source, got


def test_scores_and_counts_are_those_of_scikit_learn() -> None:
    golds = list("aabbccabca")
    source = list("aabbccabcb")
    got = list("abbbcaabcb")
    result = labels(golds, source, got, metrics=macro_f1, resamples=200)
    f1 = [f1_score(golds, each, average="macro") for each in (source, got)]
    assert (result.metric, result.n) == ("macro-F1", 10)
    assert (result.source, result.value) == pytest.approx(f1)
    assert result.metrics == {"macro-F1": pytest.approx(tuple(f1)), "accuracy": (0.9, 0.7)}
    assert result.drop.points == pytest.approx(100 * (f1[0] - f1[1]))
    assert result.drop.low <= result.drop.points <= result.drop.high
    assert (result.flipped, result.flipped_share) == (2, 0.2)
    assert result.flips == (Flip("text 1", "a", "a", "b"), Flip("text 5", "c", "c", "a"))
    assert result.mcnemar_p == 0.5


@pytest.mark.parametrize(
    ("worse", "better", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 0, 2 / 2**5),
        (0, 5, 2 / 2**5),
        (3, 3, 1.0),
        # 10 of which 2 went the other way: 2 * (1 + 10 + 45) / 1024.
        (8, 2, 2 * (1 + 10 + 45) / 1024),
        (2, 8, 2 * (1 + 10 + 45) / 1024),
    ],
)
def test_mcnemar_s_test_is_the_table_worked_out_by_hand(worse: int, better: int, p: float) -> None:
    result = labels(*counted(50, worse, better, 7))
    assert result.mcnemar_p == pytest.approx(p)
    assert result.drop.points == pytest.approx(100 * (worse - better) / (57 + worse + better))
    assert result.flipped == worse + better


def test_examples_that_are_wrong_in_two_ways_flip_and_do_not_count_for_mcnemar() -> None:
    result = labels(["a", "a", "a"], ["b", "a", "b"], ["c", "a", "c"])
    assert (result.flipped, result.mcnemar_p, result.drop) == (2, 1.0, Drop(0.0, 0.0, 0.0))


def test_a_loss_of_five_points_on_a_thousand_examples_is_real() -> None:
    result = labels(*counted(850, 60, 10, 80))
    assert result.drop.points == pytest.approx(5)
    assert result.drop.real
    assert 3 < result.drop.low < 4 < 6 < result.drop.high < 7
    assert result.mcnemar_p is not None
    assert result.mcnemar_p < 1e-6
    assert str(result.drop).startswith("-5.0 points, 95 % interval -6.")
    assert str(result.drop).endswith(", a real loss")


def test_as_many_changes_both_ways_are_noise() -> None:
    result = labels(*counted(850, 35, 35, 80))
    assert result.flipped == 70
    assert not result.drop.real
    assert result.drop.low < 0 < result.drop.high
    assert result.mcnemar_p == 1.0
    assert str(result.drop).startswith("+0.0 points, ")
    assert str(result.drop).endswith(", may be noise")


def test_a_gain_is_told_from_noise_too() -> None:
    drop = labels(*counted(850, 10, 60, 80)).drop
    assert not drop.real
    assert drop.high < 0
    assert str(drop).endswith(", a real gain")


def test_the_interval_is_the_percentile_bootstrap_s() -> None:
    golds, source, got = counted(150, 20, 5, 25)
    lost = np.array([(s == g) - (a == g) for g, s, a in zip(golds, source, got, strict=True)], dtype=float)
    oracle = bootstrap((lost,), np.mean, n_resamples=1000, method="percentile", rng=np.random.default_rng(7))
    drop = labels(golds, source, got, seed=7).drop
    assert (drop.low, drop.high) == pytest.approx([100 * bound for bound in oracle.confidence_interval])


@settings(max_examples=12, deadline=None)
@given(rows=st.lists(st.tuples(*[st.sampled_from("abc")] * 3), min_size=2, max_size=12), seed=st.integers(0, 9))
def test_accuracy_is_resampled_as_a_mean_with_the_same_result(rows: list[tuple[str, str, str]], seed: int) -> None:
    golds, source, got = (list(column) for column in zip(*rows, strict=True))

    def another_name(golds: Sequence[object], predictions: Sequence[object]) -> dict[str, float]:
        return {"hits": accuracy(golds, predictions)["accuracy"]}

    fast = labels(golds, source, got, seed=seed, resamples=40)
    slow = labels(golds, source, got, seed=seed, resamples=40, metrics=another_name)
    assert_close(fast.drop, slow.drop)


@settings(max_examples=12, deadline=None)
@given(rows=st.lists(st.tuples(*[st.sampled_from("abcd")] * 3), min_size=2, max_size=12), seed=st.integers(0, 9))
def test_macro_f1_is_resampled_from_counts_with_the_same_result(rows: list[tuple[str, str, str]], seed: int) -> None:
    golds, source, got = (list(column) for column in zip(*rows, strict=True))

    def another_name(golds: Sequence[object], predictions: Sequence[object]) -> dict[str, float]:
        return {"F1": macro_f1(golds, predictions)["macro-F1"]}

    fast = labels(golds, source, got, seed=seed, resamples=20, metrics=macro_f1)
    slow = labels(golds, source, got, seed=seed, resamples=20, metrics=another_name)
    assert_close(fast.drop, slow.drop)


@settings(max_examples=12, deadline=None)
@given(
    rows=st.lists(
        st.integers(1, 4).flatmap(
            lambda n: st.tuples(*[st.lists(st.sampled_from(["O", "B-A", "I-A", "Zip"]), min_size=n, max_size=n)] * 3)
        ),
        min_size=2,
        max_size=8,
    ),
    seed=st.integers(0, 9),
)
def test_entity_f1_is_resampled_from_counts_with_the_same_result(rows: list[tuple[list[str], ...]], seed: int) -> None:
    metrics = load_task("token-classification").metrics

    def renamed(golds: Sequence[object], predictions: Sequence[object]) -> dict[str, float]:
        return {"another name": metrics(golds, predictions)["entity F1"]}

    columns = [[tuple(tags) for tags in column] for column in zip(*rows, strict=True)]
    fast = labels(*columns, metrics=metrics, right=None, seed=seed, resamples=30)
    slow = labels(*columns, metrics=renamed, right=None, seed=seed, resamples=30)
    assert_close(fast.drop, slow.drop)


def test_an_entity_f1_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="entity F1"):
        labels(
            [("B-A",), ("O",)],
            [("B-A",), ("O",)],
            [("O",), ("O",)],
            metrics=lambda g, p: {"entity F1": 0.5},
            right=None,
        )


def test_a_ranking_is_resampled_as_a_mean_with_the_same_result() -> None:
    rng = np.random.default_rng(3)
    golds = [tuple(map(float, np.eye(4)[i])) for i in rng.integers(4, size=12)]
    source, got = ([tuple(float(x + noise * rng.random()) for x in gold) for gold in golds] for noise in (0.8, 2.0))
    ranked = load_task("sentence-similarity").metrics

    def another_name(golds: Sequence[object], predictions: Sequence[object]) -> dict[str, float]:
        return {"mean rank": ranked(golds, predictions)["MRR"]}

    fast, slow = (labels(golds, source, got, metrics=each, right=None, resamples=10) for each in (ranked, another_name))
    assert_close(fast.drop, slow.drop)
    assert fast.drop.points > 0
    assert list(fast.metrics) == ["MRR", "nDCG"]
    # Scores are no decisions, several as little as one.
    assert (fast.flipped, fast.flips, fast.mcnemar_p) == (0, (), None)


def test_no_label_at_all_is_a_decision() -> None:
    result = labels(
        [(), ("a",)], [(), ("a",)], [(), ()], metrics=lambda golds, got: {"x": sum(map(operator.eq, golds, got)) / 2}
    )
    assert (result.flipped, result.mcnemar_p) == (1, 1.0)
    assert labels([(), ()], [(), ()], [(), ()], metrics=lambda golds, got: {"x": 1.0}).mcnemar_p == 1.0


def assert_close(fast: Drop, slow: Drop) -> None:
    assert [fast.points, fast.low, fast.high] == pytest.approx([slow.points, slow.low, slow.high], abs=1e-9)


def test_the_batches_of_many_examples_are_drawn_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    table = counted(150, 20, 5, 25)
    whole = labels(*table)
    monkeypatch.setattr("edgellm.stages.resample._BATCH", 1000)
    assert labels(*table).drop.low == pytest.approx(whole.drop.low, abs=1)
    assert labels(*table, metrics=macro_f1, resamples=30) == labels(*table, metrics=macro_f1, resamples=30)


def test_an_accuracy_that_is_not_the_share_of_right_examples_is_refused() -> None:
    with pytest.raises(ValueError, match="accuracy is"):
        labels(["a", "b"], ["a", "a"], ["b", "b"], right=lambda gold, got: True)


def test_a_macro_f1_over_other_classes_than_those_that_occur_is_refused() -> None:
    def of_all(golds: Sequence[object], predictions: Sequence[object]) -> dict[str, float]:
        score = f1_score(golds, predictions, labels=["a", "b", "c"], average="macro", zero_division=0)
        return {"macro-F1": float(score)}

    with pytest.raises(ValueError, match="macro-F1 is"):
        labels(["a", "b"], ["a", "a"], ["b", "b"], metrics=of_all)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Draw 300 times 200 examples where the artifact loses 4 points in truth."""
    rng = np.random.default_rng(11)
    kinds = rng.choice(4, size=(300, 200), p=[0.80, 0.07, 0.03, 0.10])
    held = 0
    for row in kinds:
        drop = labels(*counted(*np.bincount(row, minlength=4).tolist())).drop
        held += drop.low <= 4 <= drop.high
    # Two-sided 99.9 % bounds of a count with a chance of 0.95 are 273 and 296; percentiles are known to be a little narrow.
    assert 270 <= held <= 297


def test_noise_is_called_a_real_loss_about_as_rarely_as_it_says() -> None:
    rng = np.random.default_rng(12)
    kinds = rng.choice(4, size=(300, 200), p=[0.80, 0.05, 0.05, 0.10])
    real = sum(labels(*counted(*np.bincount(row, minlength=4).tolist())).drop.real for row in kinds)
    assert real <= 17  # one side of 5 % is 7.5 in 300; more than 17 has a chance below 0.1 %


def test_the_same_seed_gives_the_same_evaluation_and_another_one_another() -> None:
    table = counted(150, 20, 5, 25)
    assert labels(*table, seed=1) == labels(*table, seed=1)
    assert len({labels(*table, seed=seed).drop for seed in range(5)}) > 1


# Where there is nothing to resample


def test_equal_predictions_lose_nothing_for_sure() -> None:
    for metrics, right in ((accuracy, operator.eq), (macro_f1, operator.eq), (macro_f1, None)):
        result = labels(["a", "b", "a"], ["a", "a", "b"], ["a", "a", "b"], metrics=metrics, right=right)
        assert result.drop == Drop(0.0, 0.0, 0.0)
        assert not result.drop.real
        assert (result.flipped, result.flips) == (0, ())
        assert result.mcnemar_p == (None if right is None else 1.0)


def test_one_example_says_nothing_about_others() -> None:
    result = labels(["a"], ["a"], ["b"])
    assert result.drop == Drop(100.0, -100.0, 100.0)
    assert not result.drop.real
    assert labels(["a"], ["a"], ["a"]).drop == Drop(0.0, 0.0, 0.0)


@pytest.mark.parametrize("lengths", [(0, 0, 0, 0), (2, 1, 2, 2), (2, 2, 1, 2), (2, 2, 2, 1)])
def test_lists_of_different_lengths_are_refused(lengths: tuple[int, int, int, int]) -> None:
    golds, source, got, shown = (["a"] * n for n in lengths)
    with pytest.raises(ValueError, match="golds"):
        compare(golds, source, got, metrics=accuracy, shown=shown, right=None)


# Numbers


def test_numbers_flip_nothing_and_are_not_right_or_wrong() -> None:
    rng = np.random.default_rng(0)
    golds = rng.random(300).tolist()
    source = [gold + 0.1 * rng.random() for gold in golds]
    got = [gold + 0.8 * rng.random() for gold in golds]
    for right in (None, operator.eq):
        result = labels(golds, source, got, metrics=spearman, right=right, resamples=200)
        assert result.source == pytest.approx(spearmanr(golds, source).statistic)
        assert result.value == pytest.approx(spearmanr(golds, got).statistic)
        assert list(result.metrics) == ["spearman", "pearson"]
        assert (result.flipped, result.flips, result.mcnemar_p) == (0, (), None)
        assert result.drop.real
        assert result.drop.low < result.drop.points < result.drop.high


def test_an_artifact_that_gives_one_answer_to_everything_has_a_correlation_of_zero() -> None:
    golds = [i / 50 for i in range(50)]
    result = labels(golds, golds, [0.5] * 50, metrics=spearman, right=None, resamples=100)
    assert (result.source, result.value) == (pytest.approx(1), 0.0)
    assert result.metrics["pearson"] == (pytest.approx(1), 0.0)
    assert result.drop.points == pytest.approx(100)
    assert result.drop.real


def test_a_correlation_with_labels_that_are_all_the_same_is_an_input_error() -> None:
    with pytest.raises(InputError, match="spearman is undefined for the fp32 model on these 3 examples"):
        labels([0.5] * 3, [0.1, 0.2, 0.3], [0.1, 0.3, 0.2], metrics=spearman, right=None)


def test_resamples_where_a_correlation_is_undefined_are_left_out() -> None:
    # Two of three examples have the same label: more than a quarter of all resamples have no other.
    golds, source, got = [0.0, 0.0, 1.0], [0.1, 0.2, 0.9], [0.3, 0.1, 0.2]
    drop = labels(golds, source, got, metrics=spearman, right=None, resamples=200).drop
    assert np.isfinite([drop.points, drop.low, drop.high]).all()
    assert drop.low <= drop.points <= drop.high


def test_another_metric_that_is_undefined_for_the_source_is_left_out() -> None:
    def metrics(golds: Sequence[object], predictions: Sequence[object]) -> dict[str, float]:
        return {**accuracy(golds, predictions), "other": float("nan")}

    assert labels(["a", "b"], ["a", "b"], ["a", "a"], metrics=metrics).metrics == {"accuracy": (1.0, 0.5)}


# What people see


def test_those_that_became_wrong_come_first_and_no_more_than_are_read() -> None:
    golds, source, got = counted(10, 15, 20, 5)
    result = labels(golds, source, got, show=lambda label: f"<{label}>", shown=["long text " * 20] * 50)
    assert (result.flipped, len(result.flips)) == (35, FLIPS)
    assert [flip.got for flip in result.flips] == ["<no>"] * 15 + ["<yes>"] * 5
    assert all((flip.expected, flip.input) == ("<yes>", "long text " * 5 + "long text ...") for flip in result.flips)


def test_decisions_may_be_lists_and_are_compared_as_they_are() -> None:
    golds, source, got = [["O", "B"], ["O"], ["B"]], [["O", "B"], ["B"], ["B"]], [["O", "O"], ["B"], ["O"]]

    def per_tag(golds: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
        return {"f1": float(f1_score([*chain(*golds)], [*chain(*predictions)], average="macro", zero_division=0))}

    result = labels(golds, source, got, metrics=per_tag, right=None, resamples=50)
    assert (result.flipped, result.mcnemar_p) == (2, None)
    assert [flip.input for flip in result.flips] == ["text 0", "text 2"]
    assert result.flips[0].got == "['O', 'O']"


def test_whole_numbers_are_classes() -> None:
    result = labels([1, 2], [1, 2], [1, 3])
    assert (result.flipped, result.flips) == (1, (Flip("text 1", "2", "2", "3"),))
    assert result.mcnemar_p == 1.0


def test_an_evaluation_survives_json() -> None:
    result = labels(*counted(50, 8, 2, 7), metrics=macro_f1, resamples=50)
    plain = json.loads(json.dumps(strict.plain(result), allow_nan=False))
    assert plain["metrics"]["accuracy"] == [58 / 67, 52 / 67]
    assert strict.read(Evaluation, plain, "x") == result
    assert result.mcnemar_p == binomtest(8, 10).pvalue
