"""The verdict: the variant minus the best control, and only what the interval allows to say."""

import pytest

from semaug.studies.comparison import best_control, compare, verdict_of
from semaug.studies.runner import Outcome


def scores(**rows):
    return {
        name: compare([Outcome(name, {"acc": {"value": v}} if v is not None else None) for v in values], ("acc",))
        for name, values in rows.items()
    }


def test_the_best_control_is_the_one_with_the_highest_mean():
    found = scores(standard=[0.3, 0.4], random_box=[0.5, 0.3], guided=[0.9, 0.9])
    assert best_control(found, ("standard", "random_box"), "acc") == "random_box"


def test_a_clear_gain_is_claimed_against_the_best_control():
    found = scores(standard=[0.30, 0.31, 0.32], random_box=[0.40, 0.41, 0.42], guided=[0.50, 0.512, 0.52])
    text = verdict_of(found, "guided", ("standard", "random_box"), "acc")
    assert "+10.1 points" in text
    assert "random_box" in text
    assert "helps" in text


def test_an_interval_that_holds_zero_claims_nothing():
    found = scores(standard=[0.30, 0.40, 0.35], guided=[0.40, 0.32, 0.36])
    assert "do not separate" in verdict_of(found, "guided", ("standard",), "acc")


def test_one_seed_makes_no_claim():
    assert "no claim" in verdict_of(scores(standard=[0.3], guided=[0.5]), "guided", ("standard",), "acc")


def test_seeds_pair_up_and_failed_runs_fall_out_of_both():
    found = scores(standard=[0.3, None, 0.5], guided=[0.4, 0.9, 0.7])
    assert found["guided"].pairs(found["standard"], "acc") == pytest.approx([0.1, 0.2])
    assert found["standard"].n == 2
    assert found["guided"].against(found["standard"], "acc").mean == pytest.approx(0.15)


def test_without_a_finished_run_there_is_no_verdict():
    assert verdict_of({}, "guided", ("standard",), "acc").startswith("No verdict")
