"""Spoiling valid input: one edit at a time, on bytes or on what JSON holds."""

from __future__ import annotations

import json
from random import Random
from typing import Any

TEXTS = (
    "", "..", "../../../../etc/passwd", "/etc/passwd", "/dev/zero", "a\0b", "\ud800", "C:\\x", "~", "é" * 40,
    "{x:>9999}", "nan", "inf", "-1", "1e400", "999999999999999999999", "\n", "%s%n", "<x>", "&a;", "=1+1", "hf:x",
    "@x", "x" * 300,
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64 + 1, -(2**63), 10**30, 1e308, -0.0, 0.5, float("nan"),
    float("inf"), [], {}, [[]], [None], [0, -1], {"": None}, *TEXTS,
)  # fmt: skip
TOKENS = (
    *(text.encode("utf-8", "surrogatepass") for text in TEXTS), b"\xff\xfe", b"\x00" * 8, b"\xff" * 8,
    b"\x7f\xff\xff\xff", b"[" * 40, b"{" * 40, b"<a>" * 20, b'"', b",", b"\r", b"0" * 40, b"-", b"1e999", b"]]>",
    b"<!DOCTYPE a [",
    b'<!ENTITY a "b">', b"\x80\x04", b"csystem\n", b"PK\x03\x04",
)  # fmt: skip


def mutated(data: bytes, form: str, random: Random) -> bytes:
    """``data`` after one to four edits; ``form`` is ``json``, ``framed-json`` (a line, then JSON) or ``bytes``."""
    head, body = b"", data
    if form == "framed-json":
        head, _, body = data.partition(b"\n")
        head += b"\n"
    for _ in range(random.randint(1, 4)):
        edit = _edited_json if form != "bytes" and random.random() < 0.7 else _edited_bytes
        body = edit(body, random)
    return head + body


def _edited_json(data: bytes, random: Random) -> bytes:
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return _edited_bytes(data, random)
    return json.dumps(_edited(tree, random), ensure_ascii=random.random() < 0.9).encode("utf-8", "surrogatepass")


def _edited(tree: Any, random: Random) -> Any:
    """``tree`` with one value replaced, removed, doubled or renamed."""
    if not isinstance(tree, list | dict) or not tree or random.random() < 0.1:
        return random.choice(VALUES)
    place = random.choice(sorted(tree)) if isinstance(tree, dict) else random.randrange(len(tree))
    changed: Any = dict(tree) if isinstance(tree, dict) else list(tree)
    if random.random() < 0.75:
        changed[place] = _edited(tree[place], random)
    elif random.random() < 0.4:
        del changed[place]
    elif isinstance(changed, dict):
        changed[random.choice(TEXTS)] = tree[place]
    else:
        changed.insert(place, tree[place])
    return changed


def _edited_bytes(data: bytes, random: Random) -> bytes:
    start = random.randint(0, len(data))
    stop = min(len(data), start + random.choice((0, 1, 1, 2, 4, 16, 64)))
    kind = random.randint(0, 5)
    if kind == 0:
        return data[:start]
    if kind == 1:
        return data[:start] + data[stop:]
    if kind == 2:
        return data[:start] + data[start:stop] * random.choice((2, 3, 20)) + data[stop:]
    if kind == 3:
        return data[:start] + random.choice(TOKENS) + data[stop:]
    if kind == 4:
        return data[:start] + bytes([random.randint(0, 255)]) + data[min(len(data), start + 1) :]
    return data[:start] + random.choice(TOKENS) + data[start:]
