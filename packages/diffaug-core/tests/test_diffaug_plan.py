"""When which network is trained, the settings, and the table of ablations."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semaug.artifacts.errors import InvalidOption
from semaug.diffaug_core.ablations import ABLATIONS, ALPHAS, ablate, alpha_sweep
from semaug.diffaug_core.plan import Plan
from semaug.diffaug_core.settings import DiffAugSettings

SETTINGS = st.builds(
    DiffAugSettings,
    schedule=st.sampled_from(["joint", "em"]),
    generate=st.booleans(),
    warmup_epochs=st.integers(0, 3) | st.none(),
    generator_epochs=st.integers(1, 3) | st.none(),
    block_epochs=st.integers(1, 3) | st.none(),
    refresh_every=st.integers(1, 3),
    alpha_ramp=st.integers(0, 3),
    alpha=st.sampled_from([0.0, 0.1, 1.0]),
)


@given(SETTINGS, st.integers(16, 40), st.integers(1, 4))
def test_every_step_of_either_network_comes_once_and_in_order(settings, steps, per_epoch):
    plan = Plan(settings, steps, per_epoch)
    moments = [plan.at(step) for step in range(plan.total)]
    assert [m.encoder_step for m in moments if m.block.encoder] == list(range(steps))
    assert [m.generator_step for m in moments if m.block.generator] == list(range(plan.generator_steps))
    assert settings.generate == any(m.block.generator for m in moments)


@given(SETTINGS, st.integers(16, 40), st.integers(1, 4))
def test_generated_views_wait_for_the_warm_up_and_for_a_bank(settings, steps, per_epoch):
    plan = Plan(settings, steps, per_epoch)
    has_bank = False
    for moment in map(plan.at, range(plan.total)):
        has_bank |= moment.refresh is not None
        assert has_bank or moment.alpha == 0
        assert 0 <= moment.alpha <= settings.alpha
        assert moment.alpha == 0 or moment.block.stage == "substitution"


@given(SETTINGS, st.integers(16, 40), st.integers(1, 4))
def test_the_encoder_has_the_same_steps_without_a_generator(settings, steps, per_epoch):
    alone, both = Plan(replace(settings, generate=False), steps, per_epoch), Plan(settings, steps, per_epoch)
    assert alone.total == steps
    assert [m.epoch for m in map(both.at, range(both.total)) if m.block.encoder] == [
        alone.at(step).epoch for step in range(steps)
    ]


def test_em_takes_turns_and_ends_with_the_generator():
    settings = DiffAugSettings(schedule="em", warmup_epochs=2, generator_epochs=3, block_epochs=2)
    blocks = [(b.encoder, b.generator, b.stop - b.start) for b in Plan(settings, 70, 10).blocks]
    turns = [(True, False, 20), (False, True, 20), (True, False, 20), (False, True, 20)]
    assert blocks == [(True, False, 20), (False, True, 30), *turns, (True, False, 10), (False, True, 10)]


def test_joint_trains_both_at_every_step_after_the_generator_alone():
    settings = DiffAugSettings(warmup_epochs=2, generator_epochs=3)
    blocks = [(b.encoder, b.generator, b.stop - b.start) for b in Plan(settings, 70, 10).blocks]
    assert blocks == [(True, False, 20), (False, True, 30), (True, True, 50)]


def test_alpha_rises_over_its_ramp():
    plan = Plan(DiffAugSettings(warmup_epochs=1, alpha=0.4, alpha_ramp=2), 100, 10)
    assert [plan.alpha(step) for step in (9, 10, 15, 20, 30, 99)] == pytest.approx([0, 0, 0.1, 0.2, 0.4, 0.4])


def test_banks_are_made_every_so_many_epochs_of_the_encoder():
    settings = DiffAugSettings(warmup_epochs=1, generator_epochs=1, refresh_every=3)
    plan = Plan(settings, 90, 10)
    found = {s: m.refresh for s in range(plan.total) if (m := plan.at(s)).refresh is not None}
    assert found == {20: 0, 50: 1, 80: 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warmup_epochs": 9}, "warm-up takes 90 of the encoder's 90 steps"),
        ({"schedule": "em", "generator_epochs": 0}, "untrained generator"),
    ],
)
def test_stages_that_do_not_fit(changes, message):
    with pytest.raises(InvalidOption, match=message):
        Plan(DiffAugSettings(**changes), 90, 10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "hard"}, "loss 'hard' is not known; choose one of soft, infonce"),
        ({"alpha": 1.5}, "alpha is 1.5, expected 0 to 1"),
        ({"beta": 2.0}, "beta is 2.0"),
        ({"refresh_every": 0}, "refresh_every is 0"),
        ({"sampler_steps": 2000}, "2000 sampler steps do not fit into 1000"),
        ({"sampler": "ddpm", "eta": 0.5}, "eta is 0.5 and belongs to ddim"),
        ({"noise_stop": 1e-5}, "is no schedule"),
        ({"lr": 0.0}, "must be positive"),
        ({"generator_lr": float("nan")}, "generator_lr nan must be positive numbers"),
        ({"nu_y": float("inf")}, "nu_y = inf and nu_z = 0.01 must be positive numbers"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0 and would keep the first weights"),
    ],
)
def test_settings_name_value_and_remedy(changes, message):
    with pytest.raises(InvalidOption, match=message):
        DiffAugSettings(**changes)


def test_settings_come_back_from_their_record():
    settings = DiffAugSettings(alpha=0.3, warmup_epochs=4, generator={"widths": (5,)})
    assert DiffAugSettings.from_record({"name": "diffaug", **settings.record()}) == settings


def test_the_table_holds_the_papers_ablations():
    base = DiffAugSettings()
    assert {"A1", "A2", "A3", "B1", "B2", "B3", "B4", "B5"} | {f"alpha-{a:g}" for a in ALPHAS} == set(ABLATIONS)
    assert ablate(base, "A3") == ablate(base, "B5") == ablate(base, "alpha-0.1") == base
    assert [ablate(base, n).condition for n in ("A1", "A2")] == ["label", "random"]
    assert [(ablate(base, n).loss, ablate(base, n).generate) for n in ("B1", "B2", "B3")] == [
        ("infonce", False),
        ("soft", False),
        ("infonce", True),
    ]
    assert ablate(base, "B4").schedule == "em"
    assert [a.changes["alpha"] for a in alpha_sweep([0.25]).values()] == [0.25]
    with pytest.raises(InvalidOption, match="ablation 'B9' is not known"):
        ablate(base, "B9")
