"""The texts that the captioner and the rewriter are asked with (LMM-MPA, sections on semantic extraction and SRP)."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from semaug.artifacts.draws import draw_key, uniforms
from semaug.artifacts.errors import InvalidOption

SEMANTIC_EXTRACTION_PROMPTS = {
    "question": "Question: What does this picture describe? Answer:",
    "describe": "Please describe the picture in detail.",
    "objects": "What objects are included in this picture?",
}
"""The paper's three prompts for the captioner; ``describe`` is its best and the default."""

RewritingKind = Literal["rewriting", "expansion", "none"]
"""``rewriting`` keeps the meaning, ``expansion`` adds things, ``none`` expands without examples."""

_PERSONA = "You are a helpful, respectful and honest assistant."
REWRITING_HEADERS: Mapping[RewritingKind, str] = {
    "rewriting": (
        f"{_PERSONA} You can rewrite the description of a picture in other words and keep its meaning. "
        "Answer with the new description only. I will give you a few examples:"
    ),
    "expansion": (
        f"{_PERSONA} You can imagine what else is in a picture and add it to the description. "
        "Answer with the new description only. I will give you a few examples:"
    ),
    "none": (
        f"{_PERSONA} You can expand the description of a picture to two or three sentences. "
        "Answer with these sentences only, in one line."
    ),
}
"""What the rewriter is told first. The persona is the paper's; the wording of the task is our own."""

ARROW = "→"
EXAMPLES_A_CALL = 5
"""How many of the bank's examples a prompt holds (the paper's number)."""

_THOUGHT = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)
_MARKER = re.compile(r"^(?:[-*•]|\d{1,2}[.)])\s+")
_APOSTROPHE = re.compile(r"(?<=\w)['’](?=\w)")
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "`": "`"}


@dataclass(frozen=True, slots=True)
class Example:
    """One pair that the rewriter is shown; ``origin`` is ``paper`` for a printed one and ``own`` for ours."""

    source: str
    target: str
    origin: str = "own"


@cache
def example_bank(kind: RewritingKind) -> tuple[Example, ...]:
    """The hundred examples of a kind, in a fixed order; none for the kind ``none``.

    >>> len(example_bank("expansion")), example_bank("rewriting")[0].origin
    (100, 'paper')
    """
    if kind == "none":
        return ()
    text = (files("semaug.prompt_synthesis") / "examples.toml").read_text(encoding="utf-8")
    return tuple(Example(**entry) for entry in tomllib.loads(text)[kind])


def draw_examples(seed: int, key: str, draw: int, count: int, of: int) -> tuple[int, ...]:
    """``count`` different numbers below ``of``, in drawn order: a pure function of (seed, key, draw).

    Every ordered choice is equally likely. Raises ``InvalidOption`` where ``count`` exceeds ``of``.

    >>> draw_examples(0, "a.jpg", 1, 5, 100) == draw_examples(0, "a.jpg", 1, 5, 100)
    True
    """
    if not 0 <= count <= of:
        raise InvalidOption(f"{count} examples a prompt, the bank holds {of}; ask for 0 to {of}")
    order = list(range(of))
    for place, number in enumerate(uniforms(draw_key(seed, "rewrite-examples", draw, key), count)):
        chosen = place + int(number * (of - place))
        order[place], order[chosen] = order[chosen], order[place]
    return tuple(order[:count])


def rewriting_prompt(header: str, examples: Sequence[tuple[str, str]], caption: str) -> str:
    """The rewriter's prompt: ``header``, one ``source → target`` line an example, then ``caption →``.

    >>> print(rewriting_prompt("Rewrite.", [("a dog runs", "A running dog.")], "a red car"))
    Rewrite.
    a dog runs → A running dog.
    a red car →
    """
    lines = [f"{source} {ARROW} {target}" for source, target in examples]
    one_line = " ".join(caption.replace(ARROW, " ").split())
    return "\n".join([header, *lines, f"{one_line} {ARROW}"])


def drawn_prompt(
    kind: RewritingKind, caption: str, key: str, draw: int, seed: int, count: int = EXAMPLES_A_CALL
) -> tuple[str, tuple[int, ...]]:
    """The prompt of one (image, draw) and the numbers of the examples in it, which index ``example_bank(kind)``."""
    bank = example_bank(kind)
    chosen = draw_examples(seed, key, draw, count, len(bank)) if bank else ()
    pairs = [(bank[i].source, bank[i].target) for i in chosen]
    return rewriting_prompt(REWRITING_HEADERS[kind], pairs, caption), chosen


def read_rewrite(answer: str) -> tuple[str, bool]:
    """The sentence in a language model's answer, and whether a line end follows it, so that it is no torso.

    It is the first line that says something, after any arrow, without the quotes around it. Thoughts between
    ``<think>`` tags, list markers and an announcing line that ends in a colon are passed over.

    >>> read_rewrite("Sure, here it is:\\n1. a cat → 'The cat.'\\n")
    ('The cat.', True)
    """
    lines = _THOUGHT.sub("", answer).split("\n")
    for number, line in enumerate(lines):
        rest = lines[number + 1 :]
        text = _unquoted(_MARKER.sub("", line.rsplit(ARROW, 1)[-1].strip()))
        if text and not (text.endswith(":") and any(other.strip() for other in rest)):
            return text, bool(rest)
    return "", False


def clean_rewrite(answer: str) -> str:
    """The sentence in a language model's answer (see ``read_rewrite``), empty where there is none.

    >>> clean_rewrite('a red car → "A car painted red."')
    'A car painted red.'
    """
    return read_rewrite(answer)[0]


def _unquoted(text: str) -> str:
    """The text without the quotes around the whole of it; quotes and apostrophes inside stay."""
    text = text.strip("*").strip()
    while text and text[0] in _QUOTES:
        close = _QUOTES[text[0]]
        inside = _APOSTROPHE.sub("", text[1:])
        if inside.find(close) == len(inside) - 1 >= 0:
            text = text[1:-1].strip()
        elif close not in inside:  # the closing one was cut off
            text = text[1:].strip()
        else:
            break
    return text
