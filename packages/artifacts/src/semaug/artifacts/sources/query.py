"""Specs with options: ``scheme:name?option=value&option=value``."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from urllib.parse import parse_qsl, quote

from semaug.artifacts.errors import SourceError


def parse_spec(spec: str, allowed: Iterable[str]) -> tuple[str, dict[str, str]]:
    """The name and the options of a spec; raises ``SourceError`` for an unknown option or one without a value.

    >>> parse_spec("scenes:train?items=20", ["items", "seed"])
    ('train', {'items': '20'})
    """
    rest = spec.split(":", 1)[1]
    name, _, query = rest.partition("?")
    try:
        options = dict(parse_qsl(query, strict_parsing=bool(query), keep_blank_values=True))
    except ValueError as error:
        raise SourceError(f"{spec}: cannot read {query!r}; write option=value&option=value") from error
    allowed = list(allowed)
    for option in options:
        if option not in allowed:
            near = difflib.get_close_matches(option, allowed, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(allowed)}"
            raise SourceError(f"{spec}: unknown option {option!r}; {hint}")
    return name, options


def write_spec(scheme: str, name: str, options: dict[str, str]) -> str:
    """The spec that ``parse_spec`` reads back."""
    query = "&".join(f"{k}={quote(v, safe='/.:')}" for k, v in options.items())
    return f"{scheme}:{name}?{query}" if query else f"{scheme}:{name}"


def whole_number(spec: str, options: dict[str, str], name: str) -> int | None:
    """An integer option, or None where it is not given; raises ``SourceError`` for anything else."""
    text = options.get(name)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError as error:
        raise SourceError(f"{spec}: {name}={text!r} is not a whole number") from error
