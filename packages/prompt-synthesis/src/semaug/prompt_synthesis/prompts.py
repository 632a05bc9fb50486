"""The texts that the captioner and the rewriter are asked with (LMM-MPA, sections on semantic extraction and SRP)."""

from __future__ import annotations

from collections.abc import Sequence

SEMANTIC_EXTRACTION_PROMPTS = {
    "question": "Question: What does this picture describe? Answer:",
    "describe": "Please describe the picture in detail.",
    "objects": "What objects are included in this picture?",
}
"""The paper's three prompts for the captioner; ``describe`` is its best and the default."""

ARROW = "→"


def rewriting_prompt(header: str, examples: Sequence[tuple[str, str]], caption: str) -> str:
    """The rewriter's prompt: ``header``, one ``source → target`` line an example, then ``caption →``.

    >>> print(rewriting_prompt("Rewrite.", [("a dog runs", "A running dog.")], "a red car"))
    Rewrite.
    a dog runs → A running dog.
    a red car →
    """
    lines = [f"{source} {ARROW} {target}" for source, target in examples]
    return "\n".join([header, *lines, f"{caption} {ARROW}"])


def clean_rewrite(answer: str) -> str:
    """The sentence in a language model's answer: its first line that says something, after any arrow, unquoted.

    >>> clean_rewrite('a red car → "A car painted red."')
    'A car painted red.'
    """
    for line in answer.splitlines():
        text = line.rsplit(ARROW, 1)[-1].strip().strip("\"'“”‘’").strip()
        if text:
            return text
    return ""
