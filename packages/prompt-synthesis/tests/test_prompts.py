"""Prompts against golden texts, visual prompts against their definition."""

import numpy as np
import pytest

from semaug.prompt_synthesis import SEMANTIC_EXTRACTION_PROMPTS, clean_rewrite, mix_with_mask, noise_prompt
from semaug.prompt_synthesis.prompts import rewriting_prompt


def test_semantic_extraction_prompts_are_the_papers():
    assert SEMANTIC_EXTRACTION_PROMPTS["describe"] == "Please describe the picture in detail."
    assert SEMANTIC_EXTRACTION_PROMPTS["question"].endswith("Answer:")
    assert len(SEMANTIC_EXTRACTION_PROMPTS) == 3


def test_rewriting_prompt_ends_with_the_caption_and_an_arrow():
    examples = [("two men posing with a fish on a boat", "On a boat, two men are seen posing with a fish.")]
    lines = rewriting_prompt("You rewrite captions.", examples, "a cat").splitlines()
    assert lines == ["You rewrite captions.", " → ".join(examples[0]), "a cat →"]


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ("A cat.\nAnother line", "A cat."),
        ("\n\n  “A cat.”", "A cat."),
        ("a cat → 'The cat sits.'", "The cat sits."),
        ("   ", ""),
        ("", ""),
    ],
)
def test_clean_rewrite(answer, sentence):
    assert clean_rewrite(answer) == sentence


def test_mixing_is_the_weighted_mean():
    image, mask = np.full((2, 3, 3), 10, np.uint8), np.full((2, 3, 3), 200, np.uint8)
    assert (mix_with_mask(image, mask, 0.25) == 58).all()
    assert (mix_with_mask(image, mask, 0) == image).all()
    with pytest.raises(ValueError, match=r"\(2, 3, 3\).*\(3, 2, 3\)"):
        mix_with_mask(image, mask.reshape(3, 2, 3))
    with pytest.raises(ValueError, match="alpha is 2"):
        mix_with_mask(image, mask, 2)


def test_noise_is_seeded_and_has_the_asked_spread():
    image = np.full((64, 64, 3), 128, np.uint8)
    noisy = noise_prompt(image, 0.1, seed=1, key="a.jpg")
    assert (noisy == noise_prompt(image, 0.1, seed=1, key="a.jpg")).all()
    assert (noisy != noise_prompt(image, 0.1, seed=1, key="b.jpg")).any()
    assert noisy.astype(float).std() == pytest.approx(25.5, rel=0.05)
