"""Invariance scores of encoders whose answers are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from semaug.artifacts.sources import ArraySource
from semaug.eval.errors import EvaluationError
from semaug.eval.features import Encode
from semaug.eval.geometry.invariance import InvarianceResult, Transform, evaluate_invariance

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), dtype=np.uint8)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def flatten(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    return images.flatten(1), images.mean((2, 3))


def identity(images: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    return images


def flip(images: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    return images.flip(3)


def darken(images: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    return images * numbers[:, :1, None, None].float()


def measured(encode: Encode, *transforms: Transform, **options: object) -> InvarianceResult:
    settings = {"input_size": 16, "mean": MEAN, "std": STD, "batch_size": 8} | options
    return evaluate_invariance(encode, ArraySource(IMAGES), transforms, **settings)  # type: ignore[arg-type]


def test_the_identity_scores_one() -> None:
    result = measured(flatten, Transform("same", "none", identity, random=False))
    assert result.value("invariance/backbone/none") == pytest.approx(1, abs=1e-12)
    assert result.value("invariance/backbone/none_above_chance") == pytest.approx(1, abs=1e-12)
    assert result.value("invariance/projector/none/same") == pytest.approx(1, abs=1e-12)
    assert result.value("invariance/backbone/between_images") < 0.9
    assert not result.warnings


def test_scores_equal_the_definition() -> None:
    """Cosines by hand: of each image with its mirror, and of all pairs of different images."""
    result = measured(flatten, Transform("flip", "geometric", flip, random=False))
    pixels = IMAGES.astype(np.float64) / 255
    plain, mirrored = (((p - MEAN) / STD).reshape(30, -1) for p in (pixels, pixels[:, :, ::-1]))
    units, others = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (plain, mirrored))
    expected = (units * others).sum(1)
    table = units @ units.T
    between = table[~np.eye(30, dtype=bool)].mean()
    assert result.value("invariance/backbone/geometric/flip") == pytest.approx(expected.mean(), abs=1e-6)
    assert result.value("invariance/backbone/between_images") == pytest.approx(between, abs=1e-6)
    above = (expected.mean() - between) / (1 - between)
    assert result.value("invariance/backbone/geometric_above_chance") == pytest.approx(above, abs=1e-5)
    half = 1.96 * expected.std(ddof=1) / np.sqrt(30)
    low = result.value("invariance/backbone/geometric_interval_low")
    assert low == pytest.approx(expected.mean() - half, abs=1e-5)
    assert result.value("invariance/projector/geometric") == pytest.approx(1)  # a mean colour has no left and right


def test_draws_do_not_depend_on_batches_and_do_on_the_seed() -> None:
    dark = Transform("dark", "colour", darken)
    whole, parts = measured(flatten, dark, batch_size=30), measured(flatten, dark, batch_size=7, workers=2)
    for name in ("colour", "colour_std", "between_images"):
        assert whole.value(f"invariance/backbone/{name}") == pytest.approx(parts.value(f"invariance/backbone/{name}"))
    other = measured(flatten, dark, seed=1)
    assert other.value("invariance/backbone/colour") != whole.value("invariance/backbone/colour")
    assert 0 < whole.value("invariance/backbone/colour_std") < 0.1
    single = next(m for m in measured(flatten, dark, draws=1) if m.metric == "invariance/backbone/colour_std")
    assert single.value is None
    assert single.reason == "one draw has no spread"


def test_a_family_is_the_mean_of_its_changes() -> None:
    result = measured(flatten, Transform("same", "mixed", identity, random=False), Transform("dark", "mixed", darken))
    parts = [result.value(f"invariance/backbone/mixed/{name}") for name in ("same", "dark")]
    assert result.value("invariance/backbone/mixed") == pytest.approx(np.mean(parts))


def test_a_collapsed_encoder_is_called_so() -> None:
    def constant(images: torch.Tensor) -> tuple[torch.Tensor, None]:
        return torch.ones(len(images), 4), None

    result = measured(constant, Transform("flip", "geometric", flip, random=False))
    assert result.value("invariance/backbone/geometric") == pytest.approx(1)
    assert result.value("invariance/backbone/geometric_above_chance") is None
    assert "collapsed" in result.warnings[0]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(lambda f: f * torch.nan, "30 of 30 rows hold NaN"), (lambda f: f * 0, "no image has a direction")],
)
def test_features_without_a_cosine_are_null(spoil: Callable[[torch.Tensor], torch.Tensor], reason: str) -> None:
    result = measured(lambda x: (spoil(x.flatten(1)), None), Transform("flip", "geometric", flip, random=False))
    score = next(m for m in result if m.metric == "invariance/backbone/geometric")
    assert score.value is None
    assert reason in score.reason


def test_some_features_without_direction_are_left_out_and_counted() -> None:
    def rectified(images: torch.Tensor) -> tuple[torch.Tensor, None]:
        features = images.flatten(1)
        dark = images.mean((1, 2, 3)) < 0.28
        return torch.where(dark[:, None], 0.0, features), None

    result = measured(rectified, Transform("flip", "geometric", flip, random=False))
    score = next(iter(result))
    assert 0 < score.n < 30
    assert f"{30 - score.n} of 30 images" in result.warnings[0]


def test_a_module_is_evaluated_in_evaluation_mode_and_put_back() -> None:
    class Noisy(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, None]:
            return torch.nn.functional.dropout(images.flatten(1), 0.5, self.training), None

    encode = Noisy()
    result = measured(encode, Transform("same", "none", identity, random=False))
    assert result.value("invariance/backbone/none") == pytest.approx(1, abs=1e-12)
    assert encode.training
    assert not measured(encode.eval(), Transform("same", "none", identity)).warnings
    assert not encode.training


def test_bad_settings_are_refused() -> None:
    with pytest.raises(EvaluationError, match="0 transforms"):
        measured(flatten)
    with pytest.raises(EvaluationError, match="2 transforms are called 'flip'"):
        measured(flatten, Transform("flip", "a", flip), Transform("flip", "b", flip))
