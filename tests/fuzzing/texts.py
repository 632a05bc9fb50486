"""Targets: pairs, presets, configuration, a language model's answers, and requests to the curation page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import httpx
from tests.fuzzing.target import Target

from semaug.artifacts.errors import SemaugError
from semaug.artifacts.schemas import SemanticPair
from semaug.artifacts.sources import open_source
from semaug.artifacts.testing import write_image_folder
from semaug.cli.console import load_config
from semaug.cli.main import root
from semaug.eval.report.model import Paragraph, Section
from semaug.eval.report.stored import SECTION, load_section, store_section
from semaug.pairs_dataset.class_list import ClassList
from semaug.pairs_dataset.curation.images import ShownImages
from semaug.pairs_dataset.curation.journal import Journal
from semaug.pairs_dataset.curation.server import Desk, make_app
from semaug.pairs_dataset.pair_exchange import read_pairs, write_pair_file
from semaug.pairs_dataset.pair_table import PairTable
from semaug.prompt_synthesis.endpoint import ChatEndpoint, Patience, Sampling
from semaug.studies.study.catalogue import FOLDER, open_preset
from semaug.studies.study.plan import study_of

KEYS = ("cat/image000.png", "cat/image002.png", "dog/image001.png")
_TOKEN, _HOST = "t" * 43, b"127.0.0.1:1"
_HURRIED = Patience(timeout_s=5, connect_s=1, attempts=1, first_wait_s=0.001, longest_wait_s=0.001, largest_answer=4096)


def pairs() -> list[SemanticPair]:
    """Two pairs, one with every field."""
    full = SemanticPair(
        "p1", "cat", KEYS[0], KEYS[1], ("background",), "accept", "me", "2026-01-01", "x", {"light": 0.5}
    )
    return [full, SemanticPair("p2", "dog", KEYS[2], KEYS[0])]


def _pair_seeds(layout: Any) -> Any:
    def prepare(place: Path) -> tuple[bytes, ...]:
        write_pair_file(pairs(), place / f"seed.{layout}", layout)
        return ((place / f"seed.{layout}").read_bytes(),)

    def parse(data: bytes, place: Path) -> None:
        (place / f"pairs.{layout}").write_bytes(data)
        found = read_pairs(place / f"pairs.{layout}")
        assert PairTable.of(found).by_class is not None

    return prepare, parse


def _parse_classes(data: bytes, place: Path) -> None:
    (place / "classes.txt").write_bytes(data)
    found = ClassList.open(place / "classes.txt")
    found.warnings(["cat", found.classes[0].name])


def _prepare_journal(place: Path) -> tuple[bytes, ...]:
    Journal.start(place / "seed.sqlite", PairTable.of(pairs())).close()
    return ((place / "seed.sqlite").read_bytes(),)


def _parse_journal(data: bytes, place: Path) -> None:
    for old in place.glob("journal.sqlite*"):
        old.unlink()
    (place / "journal.sqlite").write_bytes(data)
    journal = Journal(place / "journal.sqlite")
    try:
        journal.pairs(), journal.judgements(), journal.progress(), journal.score_ranges()
        journal.lease("me", "tab")
    finally:
        journal.close()


def _preset_seeds(place: Path) -> tuple[bytes, ...]:
    names = ("sdi-table-7", "diffaug-table-3")
    found = [path for path in sorted(FOLDER.glob("*.toml")) if path.stem in names]
    return tuple(path.read_bytes() for path in found or sorted(FOLDER.glob("[a-z]*.toml"))[:2])


def _parse_preset(data: bytes, place: Path) -> None:
    (place / "own.toml").write_bytes(data)
    open_preset(str(place / "own.toml"))


def _config_seeds(place: Path) -> tuple[bytes, ...]:
    return b'device = "cpu"\n[data.pack]\nsize = 32\nformat = "jpeg"\n', b"[quality.score]\nworkers = 1\n"


def _parse_config(data: bytes, place: Path) -> None:
    (place / "own.toml").write_bytes(data)
    context = click.Context(root, info_name="semaug")
    load_config(context, click.Option(["--config"]), str(place / "own.toml"))


def _answer_seeds(place: Path) -> tuple[bytes, ...]:
    answer = {"choices": [{"message": {"role": "assistant", "content": "a cat"}, "finish_reason": "stop"}]}
    return (json.dumps(answer).encode(),)


def _parse_answer(data: bytes, place: Path) -> None:
    endpoint = ChatEndpoint("http://127.0.0.1:9", "tiny", patience=_HURRIED)
    transport = httpx.MockTransport(lambda request: httpx.Response(200, stream=httpx.ByteStream(data)))
    endpoint._client = httpx.Client(transport=transport)
    try:
        endpoint.answer(["rewrite: a cat"], [1], Sampling(1.0, 1.0, 8))
    finally:
        endpoint.close()


def _head_seeds(place: Path) -> tuple[bytes, ...]:
    return (
        b"200\nRetry-After: 1\n",
        b"429\nRetry-After: Wed, 21 Oct 2015 07:28:00 GMT\n",
        b"500\nContent-Encoding: gzip\n",
    )


def _parse_head(data: bytes, place: Path) -> None:
    status, *lines = data.split(b"\n")
    code = int(status) if status.isdigit() and len(status) == 3 and 199 < int(status) < 600 else 200
    pairs_of = [tuple(part.strip() for part in line.partition(b":")[::2]) for line in lines if b":" in line]
    headers = [(name, value) for name, value in pairs_of if name]
    endpoint = ChatEndpoint("http://127.0.0.1:9", "tiny", patience=_HURRIED)
    content = b'{"choices": [{"message": {"content": "a"}}]}'
    transport = httpx.MockTransport(
        lambda request: httpx.Response(code, headers=headers, stream=httpx.ByteStream(content))
    )
    endpoint._client = httpx.Client(transport=transport)
    try:
        endpoint.answer(["rewrite: a cat"], [1], Sampling(1.0, 1.0, 8))
    except SemaugError:
        pass
    finally:
        endpoint.close()


def _answers_seeds(place: Path) -> tuple[bytes, ...]:
    return (json.dumps({"request": "0" * 32, "text": "a cat", "ended": True}).encode() + b"\n",)


def _parse_answers(data: bytes, place: Path) -> None:
    (place / "answers.jsonl").write_bytes(data)
    ChatEndpoint("http://127.0.0.1:9", "tiny", journal=place / "answers.jsonl").close()


class Curation:
    """The curation page's application, asked in this process: an input is a whole request, head and body."""

    def __init__(self) -> None:
        self._app: Any = None

    def prepare(self, place: Path) -> tuple[bytes, ...]:
        """Start the journal; the seeds are one request of every kind."""
        source = open_source(write_image_folder(place / "images", 3, side=8))
        table = PairTable.of(pairs(), source=source.fingerprint)
        journal = Journal.start(place / "journal.sqlite", table)
        desk = Desk(journal, ShownImages(source, table.images), per_class=2)
        self._app = make_app(desk, token=_TOKEN, hosts=(_HOST.decode(),))
        asking = {"curator": "me", "tab": "1", "choice": {"class_name": "", "score": "light", "low": 0.1}}
        judging = {**asking, "request": "r1", "pair_id": "p1", "verdict": "accept", "tags": ["background"]}
        bodies = {"next": asking, "verdict": judging, "undo": {**asking, "request": "r2"}, "release": asking}
        got = (_request("GET", path) for path in ("/", "/api/about", "/image/0", "/image/1?whole=1", "/curate.js"))
        return (*got, *(_request("POST", f"/api/{name}", json.dumps(body)) for name, body in bodies.items()))

    def parse(self, data: bytes, place: Path) -> None:
        """Send a request; nothing but an answer below 500 may come of it."""
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        words = first.split(b" ")
        method, target = [*words, b"GET", b"/"][:2]
        path, _, query = target.partition(b"?")
        headers = [(n.strip().lower(), v.strip()) for n, _, v in (line.partition(b":") for line in lines)]
        scope = {
            "type": "http", "http_version": "1.1", "asgi": {"version": "3.0"}, "method": method.decode("latin-1"),
            "path": _text(path), "raw_path": path, "query_string": query, "headers": headers, "scheme": "http",
            "root_path": "", "client": ("127.0.0.1", 2), "server": ("127.0.0.1", 1),
        }  # fmt: skip
        status = asyncio.run(_ask(self._app, scope, body))
        assert 200 <= status < 500 or status == 503, status


def _text(path: bytes) -> str:
    return path.decode("utf-8", "replace")


def _request(method: str, path: str, body: str = "") -> bytes:
    lines = [f"{method} /{_TOKEN}{path} HTTP/1.1", f"Host: {_HOST.decode()}"]
    if method == "POST":
        lines += ["Origin: http://127.0.0.1:1", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    return ("\r\n".join(lines) + f"\r\n\r\n{body}").encode()


async def _ask(app: Any, scope: Mapping[str, Any], body: bytes) -> int:
    said: list[int] = []
    given = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Mapping[str, Any]:
        return next(given, {"type": "http.disconnect"})

    async def send(message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            said.append(message["status"])

    await app(scope, receive, send)
    return said[0]


def _section_seeds(place: Path) -> tuple[bytes, ...]:
    store_section(Section("Title", (Paragraph("text"),)), place / "seed")
    png = {"kind": "Figure", "file": "../seed/section.json", "caption": "c", "alt": "a", "data": {}, "wide": False}
    sheet = {"kind": "Sheet", "caption": "c", "columns": ["a"], "rows": [{"label": "l", "images": [None]}]}
    table = {
        "kind": "Table",
        "caption": "c",
        "columns": [],
        "rows": [[1, {"kind": "Missing", "reason": "r"}]],
        "note": "",
    }
    blocks = {"title": "T", "blocks": [{"kind": "Paragraph", "text": "x"}, sheet, table, png]}
    return (place / "seed" / SECTION).read_bytes(), json.dumps(blocks).encode()


def _parse_section(data: bytes, place: Path) -> None:
    (place / "section").mkdir(exist_ok=True)
    (place / "section" / SECTION).write_bytes(data)
    load_section(place / "section")


def _study_seeds(place: Path) -> tuple[bytes, ...]:
    identity = {"scale_name": "tiny", "data": {}, "weights": {}, "made": {}}
    preset = open_preset("sdi-table-7").model_dump(mode="json")
    return (json.dumps({"identity": identity, "preset": preset, "seeds": [0], "only": []}).encode(),)


def _parse_study(data: bytes, place: Path) -> None:
    (place / "study.json").write_bytes(data)
    study_of(place)


TARGETS = (
    Target("pairs-jsonl", *_pair_seeds("jsonl"), form="json"),
    Target("pairs-csv", *_pair_seeds("csv")),
    Target("class-list", lambda place: (b"cat\ndog\n",), _parse_classes),
    Target("journal", _prepare_journal, _parse_journal),
    Target("preset", _preset_seeds, _parse_preset),
    Target("config", _config_seeds, _parse_config, allowed=(SemaugError, click.ClickException)),
    Target("chat-answer", _answer_seeds, _parse_answer, "json"),
    Target("chat-head", _head_seeds, _parse_head),
    Target("chat-journal", _answers_seeds, _parse_answers, "json"),
    Target("curation", (_curation := Curation()).prepare, _curation.parse),
    Target("report-section", _section_seeds, _parse_section, "json"),
    Target("study-record", _study_seeds, _parse_study, "json"),
)
