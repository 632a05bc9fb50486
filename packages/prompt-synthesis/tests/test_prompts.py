"""Prompts against golden texts, drawn examples against chance, answers cleaned, visual prompts by definition."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from semaug.artifacts.errors import InvalidOption
from semaug.prompt_synthesis import SEMANTIC_EXTRACTION_PROMPTS, clean_rewrite
from semaug.prompt_synthesis.prompts import (
    REWRITING_HEADERS,
    draw_examples,
    drawn_prompt,
    example_bank,
    read_rewrite,
    rewriting_prompt,
)
from semaug.prompt_synthesis.visual_prompts import mix_with_mask, noise_prompt

GOLDEN_REWRITING = """\
You are a helpful, respectful and honest assistant. You can rewrite the description of a picture in other words and \
keep its meaning. Answer with the new description only. I will give you a few examples:
a train crossing a stone bridge → Over a bridge built of stone passes a train.
two swans on a lake in the morning → In the morning a lake is shared by a pair of swans.
a tall glass building reflecting the sky → The sky is mirrored in a high building made of glass.
a kitchen with white cabinets and a steel stove → White cabinets and a stove made of steel furnish a kitchen.
a stack of books beside a lamp → Beside a lamp, books are piled one on another.
a cat on a mat →"""

GOLDEN_NONE = """\
You are a helpful, respectful and honest assistant. You can expand the description of a picture to two or three \
sentences. Answer with these sentences only, in one line.
a cat on a mat →"""


def test_semantic_extraction_prompts_are_the_papers():
    assert SEMANTIC_EXTRACTION_PROMPTS == {
        "question": "Question: What does this picture describe? Answer:",
        "describe": "Please describe the picture in detail.",
        "objects": "What objects are included in this picture?",
    }


def test_drawn_prompts_are_the_golden_texts():
    text, chosen = drawn_prompt("rewriting", "a cat on a mat", "a.jpg", 1, seed=0)
    assert text == GOLDEN_REWRITING
    assert [example_bank("rewriting")[i].source for i in chosen] == [
        line.split(" → ")[0] for line in GOLDEN_REWRITING.splitlines()[1:-1]
    ]
    assert drawn_prompt("none", "a cat on a mat", "a.jpg", 1, seed=0) == (GOLDEN_NONE, ())
    assert REWRITING_HEADERS["expansion"] == (
        "You are a helpful, respectful and honest assistant. You can imagine what else is in a picture and add it to "
        "the description. Answer with the new description only. I will give you a few examples:"
    )
    expanded, _ = drawn_prompt("expansion", "a cat", "a.jpg", 1, seed=0)
    assert expanded.startswith(REWRITING_HEADERS["expansion"] + "\n")
    assert len(expanded.splitlines()) == 7


def test_rewriting_prompt_ends_with_the_caption_and_an_arrow():
    examples = [("two men posing with a fish on a boat", "On a boat, two men are seen posing with a fish.")]
    lines = rewriting_prompt("You rewrite captions.", examples, "a cat").splitlines()
    assert lines == ["You rewrite captions.", " → ".join(examples[0]), "a cat →"]


def test_a_caption_of_several_lines_stays_one_line_of_the_prompt():
    assert rewriting_prompt("H.", [], " a cat\n\n→ a  dog\n") == "H.\na cat a dog →"


def test_the_bank_holds_a_hundred_different_pairs_of_each_kind():
    for kind in ("rewriting", "expansion"):
        bank = example_bank(kind)
        assert len(bank) == len({e.source for e in bank}) == len({e.target for e in bank}) == 100
        for example in bank:
            assert example.target.endswith(".")
            assert clean_rewrite(f"{example.source} → {example.target}") == example.target
            assert "\n" not in example.source + example.target
    printed = [e for kind in ("rewriting", "expansion") for e in example_bank(kind) if e.origin == "paper"]
    assert [e.source for e in printed] == [
        "a green python curled up on a branch",
        "two men posing with a fish on a boat",
    ]


@given(seed=st.integers(0, 2**31), key=st.text(max_size=8), draw=st.integers(0, 9), count=st.integers(0, 100))
def test_examples_are_drawn_without_repeats(seed, key, draw, count):
    chosen = draw_examples(seed, key, draw, count, 100)
    assert len(set(chosen)) == len(chosen) == count
    assert set(chosen) <= set(range(100))


def test_examples_are_drawn_uniformly_at_every_place():
    draws = [draw_examples(3, f"{i}.jpg", 1, 5, 100) for i in range(4000)]
    for place in range(5):
        counts = Counter(chosen[place] for chosen in draws)
        assert stats.chisquare([counts[i] for i in range(100)]).pvalue > 1e-3
    pairs = Counter(tuple(sorted(chosen[:2])) for chosen in (draw_examples(4, str(i), 1, 5, 6) for i in range(3000)))
    assert len(pairs) == 15
    assert stats.chisquare(list(pairs.values())).pvalue > 1e-3


def test_examples_differ_between_draws_keys_and_seeds():
    first = draw_examples(0, "a.jpg", 1, 5, 100)
    assert first not in (
        draw_examples(0, "a.jpg", 2, 5, 100),
        draw_examples(0, "b.jpg", 1, 5, 100),
        draw_examples(1, "a.jpg", 1, 5, 100),
    )
    with pytest.raises(InvalidOption, match="7 examples a prompt, the bank holds 6"):
        draw_examples(0, "a", 0, 7, 6)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ("A cat.\nAnother line", "A cat."),
        ("\n\n  “A cat.”", "A cat."),
        ("a cat → 'The cat sits.'", "The cat sits."),
        ("   ", ""),
        ("", ""),
        ("Sure! Here is the new description:\n\nA cat sits.", "A cat sits."),
        ("The sign says:", "The sign says:"),
        ("1. A cat sits.\n2. A dog sits.", "A cat sits."),
        ("- A cat sits.", "A cat sits."),
        ("**A cat sits.**", "A cat sits."),
        ('A sign that reads "stop"', 'A sign that reads "stop"'),
        ('"Stop" is what a sign "reads"', '"Stop" is what a sign "reads"'),
        ('"A dog\'s bowl."', "A dog's bowl."),
        ("'A dog's bowl.'", "A dog's bowl."),
        ("“A dog’s bowl.”", "A dog’s bowl."),
        ('"', ""),
        ('"A cat that was cut', "A cat that was cut"),
        ("<think>Let me see.\nA dog?</think>\n\nA cat sits.", "A cat sits."),
        ("<think>Let me see, and see", ""),
        ("2 cats", "2 cats"),
    ],
)
def test_clean_rewrite(answer, sentence):
    assert clean_rewrite(answer) == sentence


def test_a_line_that_ends_is_no_torso():
    assert read_rewrite("A cat.\na dog →") == ("A cat.", True)
    assert read_rewrite("A cat that si") == ("A cat that si", False)


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
