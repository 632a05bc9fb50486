"""Statistics against scipy and hand-computed values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from semaug.eval.errors import EvaluationError
from semaug.eval.measures import Measure
from semaug.eval.statistics import corrected_resampled_difference, holm, paired_difference, summarise

runs = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=12)


@given(runs)
def test_paired_difference_equals_scipys_paired_t_test(pairs: list[tuple[float, float]]) -> None:
    a, b = np.asarray(pairs).T
    if np.ptp(a - b) < 1e-6:
        return
    ours, reference = paired_difference(a, b), stats.ttest_rel(a, b)
    interval = reference.confidence_interval(0.95)
    assert ours.p_value == pytest.approx(reference.pvalue, abs=1e-9)
    assert ours.low == pytest.approx(interval.low, abs=1e-9)
    assert ours.high == pytest.approx(interval.high, abs=1e-9)
    assert ours.separated == (reference.pvalue < 0.05) or abs(reference.pvalue - 0.05) < 1e-9


def test_one_run_has_no_interval() -> None:
    found = paired_difference([0.6], [0.5])
    assert found.mean == pytest.approx(0.1)
    assert (found.low, found.high, found.p_value, found.separated) == (None, None, None, None)
    assert summarise([0.6]).sd is None


def test_equal_differences_have_an_interval_of_no_width() -> None:
    certain, nothing = paired_difference([2.0, 3.0], [1.0, 2.0]), paired_difference([1.0, 2.0], [1.0, 2.0])
    assert (certain.low, certain.high, certain.p_value) == (1.0, 1.0, 0.0)
    assert (nothing.low, nothing.high, nothing.p_value) == (0.0, 0.0, 1.0)


def test_nadeau_bengio_by_hand() -> None:
    a, b = [0.80, 0.82, 0.78, 0.81, 0.79], [0.75, 0.80, 0.77, 0.76, 0.77]
    d = np.asarray(a) - np.asarray(b)
    error = np.sqrt((1 / 5 + 0.2 / 0.8) * d.var(ddof=1))
    found = corrected_resampled_difference(a, b, test_share=0.2)
    assert found.low == pytest.approx(d.mean() - 2.7764451051977987 * error)
    assert found.p_value == pytest.approx(2 * stats.t.sf(d.mean() / error, 4))
    plain = paired_difference(a, b)
    assert found.high - found.low > plain.high - plain.low


def test_holm_by_hand_and_never_below_the_raw_value() -> None:
    assert holm([0.01, 0.02, 0.03, 0.5]) == pytest.approx([0.04, 0.06, 0.06, 0.5])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_holm_keeps_the_order(p_values: list[float]) -> None:
    adjusted = np.asarray(holm(p_values), dtype=float)
    assert (adjusted >= np.asarray(p_values)).all()
    assert (np.diff(adjusted[np.argsort(p_values, kind="stable")]) >= 0).all()


def test_bad_results_are_refused() -> None:
    with pytest.raises(EvaluationError, match="pair them by seed"):
        paired_difference([1.0], [1.0, 2.0])
    with pytest.raises(EvaluationError, match="NaN or infinity"):
        summarise([1.0, float("nan")])
    with pytest.raises(EvaluationError, match="at least one number"):
        summarise([])
    with pytest.raises(EvaluationError, match=r"test share of 1\.0"):
        corrected_resampled_difference([1.0, 2.0], [0.0, 0.5], test_share=1.0)


def test_a_measure_has_a_value_or_a_reason() -> None:
    with pytest.raises(ValueError, match="neither a value nor a reason"):
        Measure("x", None, 3)
    with pytest.raises(ValueError, match="nan"):
        Measure("x", float("nan"), 3)
