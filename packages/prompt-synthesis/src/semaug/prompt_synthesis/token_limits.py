"""The longest prompt a generator reads: 77 tokens of CLIP with the two that begin and end it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from semaug.artifacts.errors import InvalidOption, MissingWeights
from semaug.prompt_synthesis.model_folders import ModelLocation, check_vocabulary, folder_digest, loading

CLIP_TOKENS = 77
"""CLIP's context, the begin and end tokens included."""

_PIECE = re.compile(r"[^\W\d_]+|\d|[^\w\s]+|_+")
_LETTERS_A_TOKEN = 7


class TokenLimit(Protocol):
    """Counts a prompt's tokens as the generator does."""

    @property
    def limit(self) -> int:
        """How many tokens a prompt may have, the begin and end tokens included."""

    def count(self, text: str) -> int:
        """Tokens of the text, the begin and end tokens included."""

    def identity(self) -> dict[str, Any]:
        """What decides where a text is cut."""


@dataclass(frozen=True, slots=True)
class EstimatedLimit:
    """An estimate without a tokenizer: one token for seven letters begun of a word, for a digit, and for a sign."""

    limit: int = CLIP_TOKENS

    def count(self, text: str) -> int:
        """Tokens of the text by the estimate.

        >>> EstimatedLimit().count("a photo of a caterpillar.")
        9
        """
        return 2 + sum(_tokens_of(piece) for piece in _PIECE.findall(text))

    def identity(self) -> dict[str, Any]:
        """The limit, and that tokens are estimated."""
        return {"limit": self.limit, "tokens": "estimated"}


def _tokens_of(piece: str) -> int:
    if not piece.isascii():
        return len(piece.encode())
    return math.ceil(len(piece) / _LETTERS_A_TOKEN)


@dataclass(frozen=True, slots=True)
class ClipLimit:
    """Exact counts by the generator's own tokenizer; ``open_clip_limit`` makes one. It can be pickled and compared.

    ``source`` is the tokenizer's folder, or a hub id with the ``subfolder`` in it.
    """

    source: str
    subfolder: str = ""
    revision: str | None = None
    limit: int = CLIP_TOKENS
    digest: str | None = None

    def count(self, text: str) -> int:
        """Tokens of the text, begin and end included."""
        tokenizer = _tokenizer(self.source, self.subfolder, self.revision)
        return len(tokenizer(text, add_special_tokens=False, verbose=False).input_ids) + 2

    def identity(self) -> dict[str, Any]:
        """The limit and the digest of the tokenizer's files, or its hub id."""
        return {"limit": self.limit, "tokens": self.digest or self.source}


@cache
def _tokenizer(source: str, subfolder: str, revision: str | None) -> Any:
    folder = Path(source) if Path(source).is_dir() else None
    location = ModelLocation(source, folder, revision)
    with loading(location, "the generator's tokenizer"):
        from transformers import CLIPTokenizer

        tokenizer = CLIPTokenizer.from_pretrained(source, subfolder=subfolder, **location.options())
        check_vocabulary(tokenizer)
    return tokenizer


def open_clip_limit(generator: str | Path, revision: str | None = None) -> ClipLimit:
    """The limit of a generator: the tokenizer in its ``tokenizer`` folder, or in the folder itself; or of a hub id.

    It is 77, or the tokenizer's own where that is less. Raises ``MissingWeights`` where there is none and
    ``InvalidOption`` for one that cannot be read.
    """
    folder = Path(generator)
    if folder.is_dir():
        folder = folder / "tokenizer" if (folder / "tokenizer").is_dir() else folder
        if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            raise MissingWeights(f"there is no CLIP tokenizer in {generator}; give the generator's folder")
        place, digest = (str(folder), ""), folder_digest(folder)
    else:
        place, digest = (str(generator), "tokenizer"), None
    limit = min(CLIP_TOKENS, int(_tokenizer(*place, revision).model_max_length))
    return ClipLimit(*place, revision, limit, digest)


def fit(text: str, limit: TokenLimit) -> tuple[str, bool]:
    """The text, cut after its last whole word that the limit allows, and whether it was cut.

    A first word that is too long by itself is cut inside. Raises ``InvalidOption`` for a limit that allows nothing.
    """
    if limit.count(text) <= limit.limit:
        return text, False
    if limit.limit < 3:
        raise InvalidOption(f"the limit is {limit.limit} tokens, two of them begin and end a prompt; allow 3 or more")
    ends = [match.end() for match in re.finditer(r"\S+", text)]
    kept = _most(text, ends, limit) or _most(text, list(range(1, ends[0] + 1)), limit)
    return text[:kept].rstrip(), True


def _most(text: str, ends: list[int], limit: TokenLimit) -> int:
    """The largest of ``ends`` at which the text fits, 0 for none, if longer beginnings have no fewer tokens."""
    low, high = 0, len(ends)
    while low < high:
        middle = (low + high + 1) // 2
        if limit.count(text[: ends[middle - 1]]) <= limit.limit:
            low = middle
        else:
            high = middle - 1
    return ends[low - 1] if low else 0
