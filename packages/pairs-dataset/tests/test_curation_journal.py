"""The journal of verdicts: nothing is lost or doubled, whoever writes, whatever dies."""

import collections
import itertools
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from semaug.artifacts.errors import ArtifactError, InvalidOption, OutputError
from semaug.artifacts.schemas import SemanticPair
from semaug.pairs_dataset.curation.agreement import agreements, cohen_kappa
from semaug.pairs_dataset.curation.journal import Choice, Journal, Judgement, VerdictRefused
from semaug.pairs_dataset.errors import NoPairs
from semaug.pairs_dataset.pair_table import PairTable

REQUESTS = itertools.count()


def proposals(classes: dict[str, int], source: str = "f00d") -> PairTable:
    rows = [
        SemanticPair(f"{name}-{i:03d}", name, f"{name}/{i}a", f"{name}/{i}b", scores={"context": i / 10})
        for name, n in classes.items()
        for i in range(n)
    ]
    return PairTable.of(rows, "proposals", source)


def judge(journal, pair_id, curator="c1", verdict="accept", tags=(), tab="t1"):
    return journal.judge(pair_id, curator, verdict, tags, tab=tab, request=f"r{next(REQUESTS)}")


def undo(journal, curator="c1", tab="t1"):
    return journal.undo(curator, tab=tab, request=f"r{next(REQUESTS)}")


def ids(pairs):
    return [pair.pair_id for pair in pairs]


@pytest.fixture
def journal(tmp_path):
    with Journal.start(tmp_path / "verdicts.sqlite", proposals({"cat": 4, "dog": 3})) as journal:
        yield journal


def test_a_verdict_stands_and_the_next_pair_comes(journal):
    assert ids(journal.lease("c1", "t1")) == ["cat-000", "cat-001"]
    assert judge(journal, "cat-000", tags=("illumination", "background")) == "kept"
    assert ids(journal.lease("c1", "t1")) == ["cat-001", "cat-002"]
    found = journal.judgements()
    assert [(j.pair_id, j.curator, j.verdict, j.tags) for j in found] == [
        ("cat-000", "c1", "accept", ("background", "illumination"))
    ]
    cat = journal.progress()[0]
    assert (cat.name, cat.pairs, cat.judged, cat.accepted) == ("cat", 4, 1, 1)


def test_a_verdict_is_there_for_another_process_at_once(journal):
    judge(journal, "cat-000")
    code = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('SELECT * FROM verdicts').fetchall())"
    told = subprocess.run([sys.executable, "-c", code, journal.path], capture_output=True, text=True, check=True)
    assert "cat-000" in told.stdout


def test_nobody_is_given_what_another_holds(journal):
    assert ids(journal.lease("c1", "t1")) == ["cat-000", "cat-001"]
    assert ids(journal.lease("c1", "t2")) == ["cat-002", "cat-003"]
    assert ids(journal.lease("c2", "t3", count=9)) == ["dog-000", "dog-001", "dog-002"]
    assert journal.lease("cid", "t4") == []
    journal.release("c1", "t1")
    assert ids(journal.lease("cid", "t4")) == ["cat-000", "cat-001"]
    assert ids(journal.lease("c1", "t2")) == ["cat-002", "cat-003"], "what a tab holds it is given again"


def test_a_lease_ends(tmp_path):
    with Journal.start(tmp_path / "j", proposals({"cat": 2}), lease_seconds=0.05) as journal:
        assert len(journal.lease("c1", "t1")) == 2
        assert journal.lease("c2", "t2") == []
        time.sleep(0.06)
        assert ids(journal.lease("c2", "t2")) == ["cat-000", "cat-001"]
        judge(journal, "cat-000", "c2", "reject", tab="t2")
        judge(journal, "cat-000", "c1", "accept")  # slow, but not lost
        assert {(j.curator, j.verdict) for j in journal.judgements()} == {("c1", "accept"), ("c2", "reject")}
        assert journal.progress()[0].disputed == 1


def test_a_request_that_is_sent_twice_counts_once(journal):
    for outcome in ("kept", "repeated", "repeated"):
        assert journal.judge("cat-000", "c1", "accept", tab="t1", request="same") == outcome
    assert len(journal.judgements()) == 1
    with pytest.raises(InvalidOption, match="'same'"):
        journal.judge("cat-001", "c1", "accept", tab="t1", request="same")
    for _ in range(2):
        assert journal.undo("c1", tab="t1", request="back").pair_id == "cat-000"
    assert journal.judgements() == []


def test_a_curator_judges_a_pair_once(journal):
    judge(journal, "cat-000", tab="t1")
    with pytest.raises(VerdictRefused, match=r"c1 has judged this pair already \(accept\)"):
        judge(journal, "cat-000", verdict="reject", tab="t2")
    assert [j.verdict for j in journal.judgements()] == ["accept"]


def test_undo_takes_back_this_tabs_verdicts_then_the_curators(journal):
    judge(journal, "cat-000", tab="t1", tags=("pattern",))
    judge(journal, "cat-001", verdict="reject", tab="t2")
    judge(journal, "cat-002", "c2", tab="t9")
    pair = undo(journal, tab="t1")
    assert (pair.pair_id, pair.verdict, pair.tags) == ("cat-000", "accept", ("pattern",))
    assert ids(journal.lease("c2", "t9")) == ["cat-003", "dog-000"], "the pair is on c1's screen again"
    assert undo(journal, tab="t1").pair_id == "cat-001"
    assert undo(journal, tab="t1") is None
    assert ids(journal.judgements()) == ["cat-002"], "nobody undoes what another curator said"
    assert [c.judged for c in journal.progress()] == [1, 0]


def test_skipped_pairs_wait_apart_and_go_to_others(journal):
    judge(journal, "cat-000", verdict="skip")
    judge(journal, "cat-001", verdict="skip")
    assert ids(journal.lease("c1", "t1")) == ["cat-002", "cat-003"]
    assert journal.skipped("c1") == 2
    assert ids(journal.lease("c1", "t1", choice=Choice(skipped=True))) == ["cat-000", "cat-001"]
    judge(journal, "cat-000", verdict="skip")
    assert ids(journal.lease("c1", "t1", choice=Choice(skipped=True))) == ["cat-001", "cat-000"], "the last comes last"
    judge(journal, "cat-001", verdict="reject")
    assert journal.skipped("c1") == 1
    journal.release("c1", "t1")
    assert ids(journal.lease("c2", "t2", count=1)) == ["cat-000"]


def test_choices_of_class_and_score(journal):
    assert ids(journal.lease("c1", "t1", choice=Choice("dog"))) == ["dog-000", "dog-001"]
    choice = Choice(score="context", low=0.15)
    assert ids(journal.lease("c1", "t1", choice=choice, count=9)) == ["cat-002", "cat-003", "dog-002"]
    assert ids(journal.lease("c1", "t1", choice=Choice("cat", "context", 0.05, 0.25))) == ["cat-002", "cat-001"]
    assert journal.lease("c1", "t1", choice=Choice(score="none", low=0)) == []
    assert journal.lease("c1", "t1", choice=Choice(score="x') OR 1 --", low=0)) == []
    assert journal.score_ranges() == {"context": (0.0, 0.3)}


def test_full_classes_are_left_out_unless_chosen(journal):
    judge(journal, "cat-000")
    judge(journal, "cat-001", verdict="reject")
    assert ids(journal.lease("c1", "t1", per_class=2)) == ["cat-002", "cat-003"]
    judge(journal, "cat-002")
    assert ids(journal.lease("c1", "t1", per_class=2)) == ["dog-000", "dog-001"]
    assert ids(journal.lease("c1", "t1", per_class=2, choice=Choice("cat"))) == ["cat-003"]


def test_a_share_is_judged_by_two(tmp_path):
    table = proposals({"cat": 400})
    with Journal.start(tmp_path / "j", table, twice=0.25, seed=1) as journal:
        twice = journal._all("SELECT pair_id FROM pairs WHERE judges = 2")
        assert 70 < len(twice) < 130
        chosen = twice[0]["pair_id"]
        judge(journal, chosen)
        assert journal.progress()[0].waiting == 1
        assert chosen not in ids(journal.lease("c1", "t1", count=400))
        assert chosen in ids(journal.lease("c2", "t2", count=400))
        judge(journal, chosen, "c2", "reject")
        progress = journal.progress()[0]
        assert (progress.judged, progress.waiting, progress.disputed, progress.accepted) == (1, 0, 1, 0)
    with Journal.start(tmp_path / "j", table, twice=0.5, seed=1) as journal:
        more = {r["pair_id"] for r in journal._all("SELECT pair_id FROM pairs WHERE judges = 2")}
        assert {r["pair_id"] for r in twice} < more, "a larger share holds the smaller"


def test_another_day_goes_on_and_new_proposals_are_added(tmp_path):
    with Journal.start(tmp_path / "j", proposals({"cat": 2})) as journal:
        judge(journal, "cat-000")
        journal.lease("c1", "t1")
    with Journal.start(tmp_path / "j", proposals({"cat": 3, "dog": 1})) as journal:
        assert ids(journal.lease("c2", "t2", count=9)) == ["cat-002", "dog-000"], "cat-001 is still on c1's screen"
        assert ids(journal.lease("c1", "t1")) == ["cat-001"]
        assert journal.source == "f00d"
        assert len(journal.pairs()) == 4


def test_other_images_and_other_pairs_are_refused(tmp_path):
    Journal.start(tmp_path / "j", proposals({"cat": 2})).close()
    with pytest.raises(InvalidOption, match="on images f00d, these are beef"):
        Journal.start(tmp_path / "j", proposals({"cat": 2}, "beef"))
    changed = PairTable.of([SemanticPair("cat-000", "cat", "cat/0a", "cat/9b")], "proposals", "f00d")
    with pytest.raises(InvalidOption, match="'cat-000' as cat cat/0a cat/0b"):
        Journal.start(tmp_path / "j", changed)
    with pytest.raises(NoPairs):
        Journal.start(tmp_path / "new", PairTable.of([]))
    with pytest.raises(InvalidOption, match="from 0 to 1"):
        Journal.start(tmp_path / "new", proposals({"cat": 1}), twice=2)
    assert not (tmp_path / "new").exists()


def test_verdicts_that_proposals_bring_along_are_kept(tmp_path):
    row = SemanticPair("p", "cat", "a", "b", ("pattern",), "accept", "zoe", "2026-01-02T03:04:05+00:00")
    with Journal.start(tmp_path / "j", PairTable.of([row])) as journal:
        assert journal.judgements() == [Judgement("p", "zoe", "accept", ("pattern",), row.time)]
        assert journal.progress()[0].accepted == 1
    with Journal.start(tmp_path / "j", PairTable.of([row])) as journal:
        assert len(journal.judgements()) == 1


def test_what_is_no_journal_is_refused(tmp_path):
    (tmp_path / "text").write_text("not a database" * 100)
    sqlite3.connect(tmp_path / "other").execute("CREATE TABLE t (x)").connection.close()
    for name in ("text", "other", "none"):
        with pytest.raises(ArtifactError, match="no journal"):
            Journal(tmp_path / name)
    with pytest.raises(ArtifactError, match="no journal"):
        Journal.start(tmp_path / "text", proposals({"cat": 1}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"verdict": "maybe"}, "no verdict"),
        ({"tags": ("weather",)}, "no verdict"),
        ({"curator": " "}, "the curator"),
        ({"tab": "x" * 201}, "the tab"),
        ({"pair_id": "none"}, "no pair 'none'"),
    ],
)
def test_bad_verdicts_are_refused(journal, change, message):
    with pytest.raises(InvalidOption, match=message):
        judge(journal, **{"pair_id": "cat-000", **change})
    assert journal.judgements() == []


def test_many_clients_over_two_servers_lose_and_double_nothing(tmp_path):
    """Four curators with two tabs each, half of them on a second connection, every request sent up to three times."""
    table, path = proposals({"cat": 60, "dog": 60}), tmp_path / "j"
    servers = [Journal.start(path, table, twice=0.3), Journal(path)]
    told: list[tuple[str, str, str]] = []
    errors: list[BaseException] = []

    def work(curator: str, tab: str, server: Journal) -> None:
        rng = random.Random(tab)
        try:
            while found := server.lease(curator, tab):
                verdict, request = rng.choice(["accept", "reject"]), f"{tab}/{found[0].pair_id}/{rng.random()}"
                for _ in range(rng.randint(1, 3)):
                    server.judge(found[0].pair_id, curator, verdict, tab=tab, request=request)
                if rng.random() < 0.1:
                    back = server.undo(curator, tab=tab, request=request + "/undo")
                    assert back.pair_id == found[0].pair_id
                    continue
                told.append((found[0].pair_id, curator, verdict))
        except BaseException as error:
            errors.append(error)

    names = [(c, f"{c}-{t}") for c in ("c1", "c2", "cid", "dan") for t in (1, 2)]
    threads = [threading.Thread(target=work, args=(*name, servers[i % 2])) for i, name in enumerate(names)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    kept = [(j.pair_id, j.curator, j.verdict) for j in servers[0].judgements()]
    assert sorted(kept) == sorted(told)
    needed = {r["pair_id"]: r["judges"] for r in servers[0]._all("SELECT pair_id, judges FROM pairs")}
    assert collections.Counter(pair for pair, _, _ in kept) == needed, (
        "each pair has the verdicts it needs, and no more"
    )
    assert [(c.judged, c.waiting) for c in servers[1].progress()] == [(60, 0), (60, 0)]
    for server in servers:
        server.close()


def test_a_full_disk_refuses_a_verdict_whole(tmp_path):
    with Journal.start(tmp_path / "j", proposals({"cat": 400})) as journal:
        pages = journal._all("PRAGMA page_count")[0][0]
        journal._all(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(ArtifactError, match="full; free some space"):
            collections.deque((judge(journal, f"cat-{i:03d}") for i in range(400)), maxlen=0)
        kept = len(journal.judgements())
        assert 0 < kept == journal.progress()[0].judged < 400
        journal._all("PRAGMA max_page_count = 100000")
        assert judge(journal, f"cat-{kept:03d}") == "kept"


def test_a_journal_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises((OutputError, ArtifactError), match="folder"):
        Journal.start(tmp_path / "folder", proposals({"cat": 1}))


KILLED = """
import sys
from semaug.pairs_dataset.curation.journal import Journal
journal = Journal(sys.argv[1])
for number in range(10_000):
    pair = journal.lease("c1", "t1", count=1)[0]
    print("asked", pair.pair_id, flush=True)
    journal.judge(pair.pair_id, "c1", "accept", tab="t1", request=f"{sys.argv[2]}-{number}")
    print("kept", pair.pair_id, flush=True)
"""


def test_kill_9_in_the_middle_of_a_verdict_loses_nothing(tmp_path):
    path = tmp_path / "j"
    Journal.start(path, proposals({"cat": 3000})).close()
    told: list[str] = []
    for run in range(3):
        process = subprocess.Popen([sys.executable, "-c", KILLED, path, str(run)], stdout=subprocess.PIPE, text=True)
        lines = [process.stdout.readline() for _ in range(20 + 7 * run)]
        os.kill(process.pid, signal.SIGKILL)
        lines += process.stdout.read().splitlines()
        process.wait()
        process.stdout.close()
        told += [line.split()[1] for line in lines if line.startswith("kept")]
        with Journal(path) as journal:
            kept = ids(journal.judgements())
            assert len(kept) == len(set(kept))
            assert set(told) <= set(kept), "what was told as kept is kept"
            assert len(kept) - len(told) <= run + 1, "at most the verdict under way is kept untold"
            progress = journal.progress()[0]
            assert progress.judged == progress.accepted == len(kept), "counts and verdicts go together"
            journal.release("c1", "t1")


def test_pace_is_the_median_without_pauses(journal):
    assert journal.pace("c1") is None
    for second, pair in ((0, 0), (4, 1), (10, 2), (1000, 3), (1005, 4)):
        minutes, seconds = divmod(second, 60)
        when = f"2026-01-01T10:{minutes:02d}:{seconds:02d}+00:00"
        row = (str(pair), f"p{pair}", "c1", "accept", "", when, "t1")
        with journal._writing() as database:
            database.execute(
                "INSERT INTO history (request, pair_id, curator, verdict, tags, time, tab) VALUES (?,?,?,?,?,?,?)", row
            )
    assert journal.pace("c1") == pytest.approx(5)


def test_agreement_and_kappa():
    verdicts = {"c1": "aaaaaaaaaarrrrrrrrrr", "c2": "aaaaaaaarrarrrrrrrrr", "cid": "a" * 20}
    words = {"a": "accept", "r": "reject"}
    told = [
        Judgement(f"p{i}", name, words[letter], (), "")
        for name, row in verdicts.items()
        for i, letter in enumerate(row)
    ]
    told += [Judgement("p99", "c1", "skip", (), ""), Judgement("p99", "c2", "accept", (), "")]
    ann_bob, ann_cid, bob_cid = agreements(told)
    assert (ann_bob.curators, ann_bob.pairs, ann_bob.share) == (("c1", "c2"), 20, pytest.approx(0.85))
    assert ann_bob.kappa == pytest.approx((0.85 - (0.5 * 0.45 + 0.5 * 0.55)) / (1 - 0.5))
    assert ann_cid.kappa == 0, "one who accepts everything agrees by chance alone"
    assert bob_cid.pairs == 20
    alone = agreements([Judgement("p", "c1", "accept", (), ""), Judgement("p", "c2", "accept", (), "")])[0]
    assert alone.kappa is None
    assert "throughout" in alone.reason
    assert agreements(told[:5]) == []
    assert cohen_kappa(0, 0, 0, 0) is None
    assert cohen_kappa(0, 10, 10, 0) == -1
