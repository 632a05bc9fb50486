"""The journal of verdicts: one SQLite file that any number of curators, tabs and servers write at once.

A verdict is committed and flushed before ``judge`` returns. ``verdicts`` holds what stands: at most one a curator and
pair. ``history`` only grows: every verdict and every undo, by the id of the request that asked for it, so that a
request that is sent twice counts once. A pair that is on somebody's screen is leased for some minutes, and nobody else
is given it meanwhile.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast

from semaug.artifacts.draws import draw_key, uniform
from semaug.artifacts.errors import ArtifactError, InvalidOption, OutputError, SemaugError
from semaug.artifacts.files import writing
from semaug.artifacts.schemas import TAGS, SemanticPair, Tag, Verdict
from semaug.pairs_dataset.errors import NoPairs
from semaug.pairs_dataset.pair_table import PairTable

APPLICATION = 0x73656D70
"""Marks the file as ours in its header."""
SCHEMA = 1
LEASE_SECONDS = 600.0
WAIT_SECONDS = 30.0
"""How long a write waits for another one to finish."""

_TABLES = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE classes (
    class TEXT PRIMARY KEY, place INTEGER NOT NULL, pairs INTEGER NOT NULL, judged INTEGER NOT NULL,
    accepted INTEGER NOT NULL, waiting INTEGER NOT NULL, disputed INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE pairs (
    pair_id TEXT PRIMARY KEY, place INTEGER NOT NULL, class TEXT NOT NULL, image_a TEXT NOT NULL,
    image_b TEXT NOT NULL, provenance TEXT NOT NULL, scores TEXT NOT NULL, judges INTEGER NOT NULL DEFAULT 1,
    given INTEGER NOT NULL DEFAULT 0, accepts INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX pairs_of_class ON pairs (class, place, given, judges, accepts);
CREATE INDEX pairs_open ON pairs (class, place) WHERE given < judges;
CREATE INDEX pairs_waiting ON pairs (class, place) WHERE given > 0 AND given < judges;
CREATE TABLE verdicts (
    pair_id TEXT NOT NULL, curator TEXT NOT NULL, verdict TEXT NOT NULL, tags TEXT NOT NULL, time TEXT NOT NULL,
    tab TEXT NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (pair_id, curator)
) WITHOUT ROWID;
CREATE INDEX verdicts_by_curator ON verdicts (curator, verdict, number);
CREATE TABLE history (
    number INTEGER PRIMARY KEY AUTOINCREMENT, request TEXT NOT NULL UNIQUE, pair_id TEXT NOT NULL,
    curator TEXT NOT NULL, verdict TEXT NOT NULL, tags TEXT NOT NULL, time TEXT NOT NULL, tab TEXT NOT NULL
);
CREATE INDEX history_by_curator ON history (curator, number);
CREATE TABLE leases (
    pair_id TEXT NOT NULL, curator TEXT NOT NULL, tab TEXT NOT NULL, until REAL NOT NULL,
    PRIMARY KEY (pair_id, curator)
) WITHOUT ROWID;
"""
_REMEMBER = "INSERT INTO history (request, pair_id, curator, verdict, tags, time, tab) VALUES (?, ?, ?, ?, ?, ?, ?)"
_COUNT_CLASS = """
SELECT count(*), sum(given >= judges), sum(accepts > 0 AND accepts = given), sum(given > 0 AND given < judges),
    sum(accepts > 0 AND accepts < given) FROM pairs WHERE class = ?"""
_NOT_OF_FULL_CLASSES = "AND (given > 0 OR class NOT IN (SELECT class FROM classes WHERE accepted >= :per_class))"
_COUNT_PAIR = """
UPDATE pairs SET (given, accepts) = (SELECT count(*), coalesce(sum(verdict = 'accept'), 0) FROM verdicts
    WHERE pair_id = pairs.pair_id AND verdict != 'skip') WHERE pair_id = ?"""


class VerdictRefused(InvalidOption):
    """A verdict that cannot stand: on a pair that the curator has judged already, or that the journal does not know."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which pairs a curator wants: of a class, with a score part between two bounds, or those skipped before."""

    class_name: str = ""
    score: str = ""
    low: float | None = None
    high: float | None = None
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """One curator's standing verdict on one pair; ``time`` is ISO 8601, UTC."""

    pair_id: str
    curator: str
    verdict: Verdict
    tags: tuple[Tag, ...]
    time: str


@dataclass(frozen=True, slots=True)
class ClassProgress:
    """Numbers of pairs of a class.

    ``judged`` have all the verdicts they need, ``waiting`` some of them; all who judged an ``accepted`` pair accepted
    it, and of a ``disputed`` one only some did. Skips count as no verdict.
    """

    name: str
    pairs: int
    judged: int
    accepted: int
    waiting: int
    disputed: int


class Journal:
    """The verdicts on one set of proposals; any number of threads may share it.

    Raises ``ArtifactError`` for a file that is no journal.
    """

    def __init__(self, path: str | os.PathLike[str], *, lease_seconds: float = LEASE_SECONDS) -> None:
        self.path = Path(path)
        self.lease_seconds = lease_seconds
        if not self.path.is_file():
            raise ArtifactError(f"{path} is no journal of verdicts; `semaug pairs curate` starts one")
        self._lock = threading.Lock()
        self._database = _connect(self.path)

    @classmethod
    def start(
        cls,
        path: str | os.PathLike[str],
        proposals: PairTable,
        *,
        twice: float = 0.0,
        seed: int = 0,
        lease_seconds: float = LEASE_SECONDS,
    ) -> Journal:
        """Open the journal of ``proposals``, creating it or adding the pairs it does not know yet.

        A share ``twice`` of the pairs, drawn by ``seed`` and pair id, needs two curators. Verdicts that the proposals
        bring along are kept. Raises ``NoPairs`` without proposals, ``InvalidOption`` where the journal is of other
        images or knows a pair's id by other images.
        """
        if not len(proposals):
            raise NoPairs("there are no proposals to curate; propose some with `semaug pairs propose`")
        if not 0 <= twice <= 1:
            raise InvalidOption(f"the share of pairs to judge twice is {twice}; give one from 0 to 1")
        _create(Path(path))
        journal = cls(path, lease_seconds=lease_seconds)
        try:
            with journal._writing() as database:
                _require_source(database, proposals.source, Path(path))
                if _is_new(database, f"{proposals.digest} {twice} {seed}"):
                    _add_pairs(database, proposals.rows)
                    _share_out(database, twice, seed)
        except BaseException:
            journal.close()
            raise
        return journal

    def pair(self, pair_id: str) -> SemanticPair:
        """One pair, without verdicts; raises ``VerdictRefused`` for an unknown id."""
        return _pair(_known_pair(self._all("SELECT * FROM pairs WHERE pair_id = ?", pair_id), pair_id))

    def pairs(self) -> list[SemanticPair]:
        """All pairs, in the order of the proposals."""
        return [_pair(row) for row in self._all("SELECT * FROM pairs ORDER BY place")]

    def judgements(self) -> list[Judgement]:
        """Every standing verdict, in the order they were given."""
        return [_judgement(row) for row in self._all("SELECT * FROM verdicts ORDER BY number")]

    @property
    def source(self) -> str:
        """The fingerprint of the images; empty where the proposals did not say."""
        rows = self._all("SELECT value FROM settings WHERE name = 'source'")
        return rows[0]["value"] if rows else ""

    def progress(self) -> list[ClassProgress]:
        """How far each class is, in the order of the proposals."""
        rows = self._all("SELECT * FROM classes ORDER BY place")
        return [ClassProgress(*(r[n] for n in ("class", *ClassProgress.__slots__[1:]))) for r in rows]

    def skipped(self, curator: str) -> int:
        """How many pairs a curator has skipped and not judged since."""
        return self._all("SELECT count(*) AS n FROM verdicts WHERE curator = ? AND verdict = 'skip'", curator)[0]["n"]

    def pace(self, curator: str, last: int = 50, pause: float = 120.0) -> float | None:
        """The median seconds between a curator's last verdicts, pauses left out; None before there are three."""
        rows = self._all("SELECT time FROM history WHERE curator = ? ORDER BY number DESC LIMIT ?", curator, last)
        times = [datetime.fromisoformat(row["time"]).timestamp() for row in rows]
        gaps = sorted(later - earlier for later, earlier in pairwise(times) if 0 <= later - earlier <= pause)
        return gaps[len(gaps) // 2] if len(gaps) >= 3 else None

    def score_ranges(self) -> dict[str, tuple[float, float]]:
        """The least and greatest value of each score part."""
        rows = self._all(
            """SELECT part.key AS name, min(part.value) AS low, max(part.value) AS high
            FROM pairs, json_each(pairs.scores) AS part GROUP BY part.key ORDER BY part.key"""
        )
        return {row["name"]: (row["low"], row["high"]) for row in rows}

    def lease(
        self, curator: str, tab: str, *, count: int = 2, choice: Choice | None = None, per_class: int = 0
    ) -> list[SemanticPair]:
        """Up to ``count`` pairs for one tab: those it holds already, then the next that nobody holds, class by class.

        Left out are pairs that the curator has judged or that have all the verdicts they need. Of a class that has
        ``per_class`` accepted pairs (0: no such limit) only pairs that wait for a second curator are given out, unless
        ``choice`` names it.
        """
        _require_names(curator=curator, tab=tab)
        search = _Search(curator, tab, choice or Choice(), per_class)
        with self._writing() as database:
            now = time.time()
            database.execute("DELETE FROM leases WHERE until < ?", (now,))
            rows = search.run(database, count)
            database.execute("DELETE FROM leases WHERE curator = ? AND tab = ?", (curator, tab))
            leases = [(row["pair_id"], curator, tab, now + self.lease_seconds) for row in rows]
            database.executemany("INSERT INTO leases VALUES (?, ?, ?, ?)", leases)
        return [_pair(row) for row in rows]

    def judge(
        self, pair_id: str, curator: str, verdict: Verdict, tags: Sequence[Tag] = (), *, tab: str, request: str
    ) -> Literal["kept", "repeated"]:
        """Keep a verdict; it is on the disk when this returns. A ``request`` that was kept before is not kept again.

        Raises ``VerdictRefused`` where the curator's verdict on the pair stands already (a skip gives way to another
        verdict), and for an unknown pair; ``InvalidOption`` for what is no verdict.
        """
        _require_names(curator=curator, tab=tab, request=request)
        if verdict not in ("accept", "reject", "skip") or not set(tags) <= set(TAGS):
            raise InvalidOption(f"{verdict!r} with the tags {list(tags)} is no verdict; tags are {', '.join(TAGS)}")
        ordered = " ".join(tag for tag in TAGS if tag in tags)
        with self._writing() as database:
            if _is_known(database, request, (pair_id, curator, verdict, ordered)):
                return "repeated"
            class_name = _require_open(database, pair_id, curator)
            row = (pair_id, curator, verdict, ordered, _now(), tab)
            _keep(database, request, row)
            database.execute("DELETE FROM leases WHERE pair_id = ? AND curator = ?", (pair_id, curator))
            _count(database, pair_id, class_name)
        return "kept"

    def undo(self, curator: str, *, tab: str, request: str) -> SemanticPair | None:
        """Take back the last standing verdict of this tab, or, where it has none, of this curator.

        Returns the pair, leased to the tab again, with the verdict and the tags that were taken back; None where there
        is nothing to undo.
        """
        _require_names(curator=curator, tab=tab, request=request)
        with self._writing() as database:
            known = database.execute("SELECT * FROM history WHERE request = ?", (request,)).fetchone()
            if known is not None:
                return _taken_back(database, known["pair_id"], curator)
            row = database.execute(
                "SELECT * FROM verdicts WHERE curator = ? ORDER BY tab = ? DESC, number DESC LIMIT 1", (curator, tab)
            ).fetchone()
            if row is None:
                return None
            pair = _taken_back(database, row["pair_id"], curator)
            database.execute("DELETE FROM verdicts WHERE pair_id = ? AND curator = ?", (pair.pair_id, curator))
            database.execute(_REMEMBER, (request, pair.pair_id, curator, "undo", row["tags"], _now(), tab))
            until = time.time() + self.lease_seconds
            database.execute("INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?)", (pair.pair_id, curator, tab, until))
            _count(database, pair.pair_id, pair.class_name)
        return pair

    def release(self, curator: str, tab: str) -> None:
        """Let go of what a tab holds."""
        with self._writing() as database:
            database.execute("DELETE FROM leases WHERE curator = ? AND tab = ?", (curator, tab))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _all(self, query: str, *values: object) -> list[sqlite3.Row]:
        with self._lock, _readable(self.path):
            return self._database.execute(query, values).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _readable(self.path), _transaction(self._database, self.path) as database:
            yield database


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what a damaged file makes of SQLite, or of its rows, into an ``ArtifactError``."""
    try:
        yield
    except SemaugError:
        raise
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"{path} cannot be read ({error}); restore a copy, or curate into another --journal"
        ) from error


@dataclass(frozen=True, slots=True)
class _Search:
    """The next pairs of one tab."""

    curator: str
    tab: str
    choice: Choice
    per_class: int

    def run(self, database: sqlite3.Connection, count: int) -> list[sqlite3.Row]:
        name = self.choice.class_name
        limited = "" if name or not self.per_class else _NOT_OF_FULL_CLASSES
        found = self._query(database, f"given < judges {limited} AND pair_id IN", name, count)
        if self.choice.skipped:
            return found + self._query(database, "given < judges AND pair_id NOT IN", name, count - len(found))
        for row in database.execute("SELECT * FROM classes ORDER BY place").fetchall():
            full = self.per_class and row["accepted"] >= self.per_class and not name
            if len(found) >= count:
                break
            if (name and row["class"] != name) or (full and not row["waiting"]):
                continue
            status = "given > 0 AND given < judges" if full else "given < judges"
            found += self._query(database, f"{status} AND pair_id NOT IN", row["class"], count - len(found))
        return found

    def _query(self, database: sqlite3.Connection, status: str, class_name: str, count: int) -> list[sqlite3.Row]:
        """Up to ``count`` pairs; ``status`` ends before the pairs that the tab holds."""
        choice = self.choice
        mine = "(SELECT number FROM verdicts AS v WHERE v.pair_id = p.pair_id AND v.curator = :curator"
        seen = f"{mine} AND v.verdict = 'skip') NOTNULL" if choice.skipped else f"{mine}) ISNULL"
        return database.execute(
            f"""SELECT * FROM pairs AS p WHERE {status}
                (SELECT pair_id FROM leases AS l WHERE l.curator = :curator AND l.tab = :tab)
            {"AND class = :class" if class_name else ""}
            {"AND json_extract(scores, '$.' || :score) BETWEEN :low AND :high" if choice.score else ""}
            AND {seen}
            AND given + (SELECT count(*) FROM leases AS l
                WHERE l.pair_id = p.pair_id AND l.curator != :curator) < judges
            AND NOT EXISTS (SELECT 1 FROM leases AS l
                WHERE l.pair_id = p.pair_id AND l.curator = :curator AND l.tab != :tab)
            ORDER BY {mine + ")," if choice.skipped else ""} p.place LIMIT :count""",
            {
                "curator": self.curator, "tab": self.tab, "class": class_name, "count": count, "score": choice.score,
                "per_class": self.per_class,
                "low": -1e308 if choice.low is None else choice.low,
                "high": 1e308 if choice.high is None else choice.high,
            },
        ).fetchall()  # fmt: skip


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        database.row_factory = sqlite3.Row
        database.execute("PRAGMA trusted_schema = OFF")  # a file from elsewhere may hold views and triggers
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")  # a commit is on the disk before it returns
        found = [database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
        if found != [APPLICATION, SCHEMA]:
            raise ArtifactError(f"{path} is no journal of verdicts of version {SCHEMA}; give another --journal")
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        database.close()
        raise ArtifactError(f"{path} is no journal of verdicts ({error}); give another --journal") from error
    except BaseException:
        database.close()
        raise
    return database


def _create(path: Path) -> None:
    """Make an empty journal, unless there is a file with something in it."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size:
            return
    try:
        database = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None)
    except sqlite3.OperationalError as error:
        raise OutputError(f"cannot write {path}: {error}; choose another --journal") from error
    try:
        with _transaction(database, path):
            if database.execute("PRAGMA user_version").fetchone()[0] == 0:  # another server may have been faster
                for statement in _TABLES.split(";"):
                    database.execute(statement)
                database.execute(f"PRAGMA application_id = {APPLICATION}")
                database.execute(f"PRAGMA user_version = {SCHEMA}")
    finally:
        database.close()


@contextmanager
def _transaction(database: sqlite3.Connection, path: Path) -> Iterator[sqlite3.Connection]:
    """All or nothing; what the disk refuses is told in one line."""
    try:
        database.execute("BEGIN IMMEDIATE")
        try:
            yield database
        except BaseException:
            _roll_back(database)
            raise
        database.execute("COMMIT")
    except sqlite3.OperationalError as error:
        _roll_back(database)
        raise ArtifactError(f"cannot write {path}: {error}; free some space or wait for the other writer") from error


def _roll_back(database: sqlite3.Connection) -> None:
    if database.in_transaction:  # a full disk ends the transaction by itself
        database.execute("ROLLBACK")


def _require_source(database: sqlite3.Connection, source: str, path: Path) -> None:
    row = database.execute("SELECT value FROM settings WHERE name = 'source'").fetchone()
    found = row["value"] if row is not None else ""
    if found and source and found != source:
        raise InvalidOption(f"{path} has verdicts on images {found}, these are {source}; give another --journal")
    database.execute("INSERT OR REPLACE INTO settings VALUES ('source', ?)", (found or source,))


def _is_new(database: sqlite3.Connection, started: str) -> bool:
    """Whether the journal was last started otherwise; from now on it was started like this."""
    row = database.execute("SELECT value FROM settings WHERE name = 'started'").fetchone()
    database.execute("INSERT OR REPLACE INTO settings VALUES ('started', ?)", (started,))
    return row is None or row["value"] != started


def _add_pairs(database: sqlite3.Connection, rows: Sequence[SemanticPair]) -> None:
    known = {row["pair_id"]: row for row in database.execute("SELECT * FROM pairs")}
    place = max((row["place"] for row in known.values()), default=-1) + 1
    for row in rows:
        if row.pair_id in known:
            _require_same(known[row.pair_id], row)
            continue
        database.execute(
            """INSERT INTO pairs (pair_id, place, class, image_a, image_b, provenance, scores)
            VALUES (?, ?, ?, ?, ?, ?, ?)""",
            (row.pair_id, place, row.class_name, row.image_a, row.image_b, row.provenance, _dump(row.scores)),
        )
        place += 1
        if row.verdict:
            curator, when = row.curator or "unknown", row.time or _now()
            values = (row.pair_id, curator, row.verdict, " ".join(row.tags), when, "")
            _keep(database, f"brought along:{row.pair_id}", values)


def _dump(scores: Mapping[str, float]) -> str:
    return json.dumps(dict(scores), sort_keys=True)


def _require_same(known: sqlite3.Row, row: SemanticPair) -> None:
    found = (known["class"], known["image_a"], known["image_b"])
    wanted = (row.class_name, row.image_a, row.image_b)
    if found[0] != wanted[0] or set(found[1:]) != set(wanted[1:]):
        raise InvalidOption(
            f"the journal knows pair {row.pair_id!r} as {' '.join(found)}, the proposals as {' '.join(wanted)}; "
            "give another --journal"
        )


def _share_out(database: sqlite3.Connection, twice: float, seed: int) -> None:
    """Say how many curators each pair needs, and count everything anew."""
    ids = [row["pair_id"] for row in database.execute("SELECT pair_id FROM pairs")]
    judges = [(1 + (uniform(draw_key(seed, "judged-twice", 0, i), 0) < twice), i) for i in ids]
    database.executemany("UPDATE pairs SET judges = ? WHERE pair_id = ?", judges)
    database.executemany(_COUNT_PAIR, [(row["pair_id"],) for row in database.execute("SELECT pair_id FROM verdicts")])
    places = database.execute("SELECT class, min(place) AS place FROM pairs GROUP BY class").fetchall()
    for row in places:
        database.execute("INSERT OR REPLACE INTO classes VALUES (?, ?, 0, 0, 0, 0, 0)", tuple(row))
        _count_class(database, row["class"])


def _keep(database: sqlite3.Connection, request: str, row: tuple[str, str, str, str, str, str]) -> None:
    number = database.execute(_REMEMBER, (request, *row)).lastrowid
    database.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, number))


def _count(database: sqlite3.Connection, pair_id: str, class_name: str) -> None:
    database.execute(_COUNT_PAIR, (pair_id,))
    _count_class(database, class_name)


def _count_class(database: sqlite3.Connection, class_name: str) -> None:
    counts = tuple(database.execute(_COUNT_CLASS, (class_name,)).fetchone())
    database.execute(
        "UPDATE classes SET (pairs, judged, accepted, waiting, disputed) = (?, ?, ?, ?, ?) WHERE class = ?",
        (*counts, class_name),
    )


def _is_known(database: sqlite3.Connection, request: str, wanted: tuple[str, str, str, str]) -> bool:
    row = database.execute("SELECT * FROM history WHERE request = ?", (request,)).fetchone()
    if row is None:
        return False
    found = (row["pair_id"], row["curator"], row["verdict"], row["tags"])
    if found != wanted:
        raise InvalidOption(f"the request {request!r} was {found}, now it is {wanted}; reload the page")
    return True


def _require_open(database: sqlite3.Connection, pair_id: str, curator: str) -> str:
    """The pair's class, where the curator may still judge it."""
    rows = database.execute("SELECT class, pair_id FROM pairs WHERE pair_id = ?", (pair_id,)).fetchall()
    class_name: str = _known_pair(rows, pair_id)["class"]
    row = database.execute(
        "SELECT verdict FROM verdicts WHERE pair_id = ? AND curator = ?", (pair_id, curator)
    ).fetchone()
    if row is not None and row["verdict"] != "skip":
        raise VerdictRefused(
            f"{curator} has judged this pair already ({row['verdict']}), maybe in another tab; undo that first"
        )
    return class_name


def _known_pair(rows: Sequence[sqlite3.Row], pair_id: str) -> sqlite3.Row:
    if not rows:
        raise VerdictRefused(f"the journal has no pair {pair_id!r}; reload the page")
    return rows[0]


def _taken_back(database: sqlite3.Connection, pair_id: str, curator: str) -> SemanticPair:
    pair = database.execute("SELECT * FROM pairs WHERE pair_id = ?", (pair_id,)).fetchone()
    last = database.execute(
        "SELECT * FROM history WHERE pair_id = ? AND curator = ? AND verdict != 'undo' ORDER BY number DESC LIMIT 1",
        (pair_id, curator),
    ).fetchone()
    return _pair(pair, verdict=last["verdict"], tags=_tags(last["tags"]), curator=curator)


def _pair(row: sqlite3.Row, **more: Any) -> SemanticPair:
    try:
        return SemanticPair(
            row["pair_id"], row["class"], row["image_a"], row["image_b"], provenance=row["provenance"],
            scores=json.loads(row["scores"]), **more,
        )  # fmt: skip
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"the journal holds what is no pair ({error}); restore a copy of it") from error


def _judgement(row: sqlite3.Row) -> Judgement:
    return Judgement(row["pair_id"], row["curator"], row["verdict"], _tags(row["tags"]), row["time"])


def _tags(text: str) -> tuple[Tag, ...]:
    if not isinstance(text, str):
        raise ArtifactError(f"the journal holds the tags {text!r}, which are no text; restore a copy of it")
    return tuple(cast("list[Tag]", text.split()))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _require_names(**names: str) -> None:
    for what, name in names.items():
        if not name.strip() or len(name) > 200:
            raise InvalidOption(f"the {what} {name[:20]!r} has {len(name)} characters; give 1 to 200")
