"""Building pairs and their controls, and the class list: sizes, balance, nesting, and nothing made up."""

from collections import Counter

import numpy as np
import pytest

from semaug.artifacts.errors import InvalidOption
from semaug.artifacts.schemas import SemanticPair, pair_id_of
from semaug.artifacts.sources import ScenesSource
from semaug.pairs_dataset.class_list import ClassList, printed_classes
from semaug.pairs_dataset.curation.journal import Journal
from semaug.pairs_dataset.errors import NoPairs
from semaug.pairs_dataset.pair_build import build_pairs
from semaug.pairs_dataset.pair_exchange import write_pair_file
from semaug.pairs_dataset.pair_sets import make_twin, settle
from semaug.pairs_dataset.pair_table import PairTable, write_pairs


def table_of(classes: dict[str, int], form="semantic") -> PairTable:
    rows = [
        SemanticPair(pair_id_of(f"{name}/{i}a", f"{name}/{i}b"), name, f"{name}/{i}a", f"{name}/{i}b")
        for name, count in classes.items()
        for i in range(count)
    ]
    return PairTable.of(rows, form, "f00d")


@pytest.fixture
def journal(tmp_path):
    with Journal.start(tmp_path / "v.sqlite", table_of({"cat": 6}, "proposals")) as journal:
        yield journal


def judge(journal, verdicts: dict[tuple[int, str], str]):
    ids = [pair.pair_id for pair in journal.pairs()]
    for number, ((pair, curator), word) in enumerate(verdicts.items()):
        verdict, *tags = word.split()
        journal.judge(ids[pair], curator, verdict, tags, tab=curator, request=f"{number}")
    return ids


def test_rules_settle_disputes(journal):
    ids = judge(
        journal,
        {
            (0, "c1"): "accept pattern",
            (0, "c2"): "accept background pattern",
            (1, "c1"): "accept",
            (1, "c2"): "reject",
            (2, "c1"): "reject",
            (3, "c1"): "accept",
            (3, "c2"): "accept",
            (3, "cid"): "reject",
            (4, "c1"): "skip",
        },
    )
    kept = {
        rule: [ids.index(r.pair_id) for r in settle(journal, rule).table.rows] for rule in ("all", "majority", "any")
    }
    assert kept == {"all": [0], "majority": [0, 3], "any": [0, 1, 3]}
    found = settle(journal)
    assert (found.rejected, found.disputed, found.open) == (3, 2, 2)
    row = found.table.rows[0]
    assert (row.tags, row.verdict, row.curator, row.image_a) == (
        ("background", "pattern"),
        "accept",
        "c1, c2",
        "cat/0a",
    )
    assert row.time > "2020"
    assert found.table.source == "f00d"


def test_build_from_a_journal_follows_its_verdicts(journal, tmp_path):
    judge(journal, {(0, "c1"): "accept", (1, "c1"): "accept", (2, "c1"): "reject"})
    built = build_pairs(journal.path, tmp_path / "p.zarr", per_class=2)
    assert (built.summary.manifest.items, built.short, built.form) == (2, {}, "semantic")
    assert built.summary.manifest.info["open"] == 3
    assert build_pairs(journal.path, tmp_path / "q.zarr", per_class=5).short == {"cat": 2}
    assert len(PairTable.open(tmp_path / "p.zarr")) == 2


def test_build_without_accepted_pairs_is_refused(journal, tmp_path):
    with pytest.raises(NoPairs, match="no accepted pairs"):
        build_pairs(journal.path, tmp_path / "p.zarr")
    rejected = [SemanticPair("p", "cat", "a", "b", verdict="reject")]
    write_pair_file(rejected, tmp_path / "r.jsonl")
    with pytest.raises(NoPairs, match="none of the 1 pairs is accepted"):
        build_pairs(tmp_path / "r.jsonl", tmp_path / "p.zarr")


def test_subsets_on_disk_are_nested_and_proposals_keep_their_best(tmp_path):
    write_pairs(table_of({"cat": 30, "dog": 30}), tmp_path / "all.zarr", info={"curated": True})
    found = {}
    for count in (5, 10, 20):
        build_pairs(tmp_path / "all.zarr", tmp_path / f"{count}.zarr", per_class=count, seed=1)
        found[count] = {r.pair_id for r in PairTable.open(tmp_path / f"{count}.zarr").rows}
    assert found[5] < found[10] < found[20]
    write_pairs(table_of({"cat": 30}, "proposals"), tmp_path / "ranked.zarr")
    built = build_pairs(tmp_path / "ranked.zarr", tmp_path / "best.zarr", per_class=3, seed=1)
    assert [r.image_a for r in PairTable.open(tmp_path / "best.zarr").rows] == ["cat/0a", "cat/1a", "cat/2a"]
    assert built.summary.manifest.info["curated"] is False
    build_pairs(tmp_path / "best.zarr", tmp_path / "again.zarr")
    assert PairTable.open(tmp_path / "again.zarr").manifest.info["curated"] is False, "copying does not curate"


def test_the_augmented_twin_has_the_same_ids_size_and_balance(tmp_path):
    table = table_of({"cat": 7, "dog": 4})
    twin = make_twin(table, "augmented")
    assert [(r.pair_id, r.class_name) for r in twin.rows] == [(r.pair_id, r.class_name) for r in table.rows]
    assert all(r.image_a == r.image_b for r in twin.rows)
    assert [r.image_a for r in twin.rows] == [r.image_a for r in table.rows]
    write_pairs(twin, tmp_path / "ap.zarr")
    with pytest.raises(InvalidOption, match="holds augmented pairs"):
        build_pairs(tmp_path / "ap.zarr", tmp_path / "x.zarr")


def test_all_images_stand_once():
    rows = [SemanticPair("1", "cat", "a", "b"), SemanticPair("2", "cat", "b", "c")]
    twin = make_twin(PairTable.of(rows), "all-images")
    assert [(r.image_a, r.image_b) for r in twin.rows] == [("a", "a"), ("b", "b"), ("c", "c")]


def test_random_pairs_use_the_same_images_as_often_in_other_company():
    table = table_of({"cat": 40, "dog": 3})
    twin = make_twin(table, "random-same-class", seed=5)
    for name in ("cat", "dog"):
        old, new = table.by_class[name], twin.by_class[name]
        uses = [Counter(k for r in rows for k in (r.image_a, r.image_b)) for rows in (old, new)]
        assert uses[0] == uses[1]
        ends = [{frozenset((r.image_a, r.image_b)) for r in rows} for rows in (old, new)]
        assert not ends[0] & ends[1]
        assert len(ends[1]) == len(new)
        assert all(len(pair) == 2 for pair in ends[1])
    assert twin.rows == make_twin(table, "random-same-class", seed=5).rows
    assert twin.rows != make_twin(table, "random-same-class", seed=6).rows
    alone = make_twin(PairTable.of(table.by_class["dog"]), "random-same-class", seed=5)
    assert alone.rows == twin.by_class["dog"], "a class does not depend on the others"


def test_random_pairs_that_cannot_be_are_refused():
    with pytest.raises(InvalidOption, match="2 images of class cat cannot be paired anew"):
        make_twin(table_of({"cat": 1}), "random-same-class")


def test_random_pairs_from_a_pool_are_of_the_class_and_take_each_image_once_first():
    source = ScenesSource("train", items=60)
    label = {source.key(i): source.class_names[source.label(i)] for i in range(60)}
    keys = {n: [k for k, v in label.items() if v == n] for n in source.class_names}
    rows = [SemanticPair(f"{n}{i}", n, keys[n][i], keys[n][i + 1]) for n in ("star", "ring") for i in range(3)]
    twin = make_twin(PairTable.of(rows), "random-same-class", pool=source)
    assert Counter(r.class_name for r in twin.rows) == {"star": 3, "ring": 3}
    assert all(label[r.image_a] == label[r.image_b] == r.class_name for r in twin.rows)
    assert max(Counter(k for r in twin.rows for k in (r.image_a, r.image_b)).values()) == 1
    with pytest.raises(InvalidOption, match="class cat has 0 images in the pool"):
        make_twin(table_of({"cat": 2}), "random-same-class", pool=source)


def test_printed_classes_are_what_the_paper_prints():
    found = printed_classes()
    groups = Counter(c.group for c in found.classes)
    assert list(groups.values()) == [87, 12, 38, 11, 23, 4]
    assert len({c.name for c in found.classes}) == 175
    assert found.expected == 187
    assert [c.name for c in found.classes if not c.wnid] == ["lemon_shark", "tadpole"]
    assert len({c.wnid for c in found.classes if c.wnid}) == 173
    assert found.find("n02012849").name == found.find("crane").name == "crane"
    assert found.find("triumphal arch") is found.find("triumph_arch") is found.find("n04486054")
    assert found.find("yellow_lady's_slipper") is not None
    assert found.find("n03126707") is None


def test_a_class_list_warns_and_makes_nothing_up(tmp_path):
    told = printed_classes().warnings(["n01817953", "albatross", "unheard_of"])
    assert "names 175 classes, its source counts 187" in told[0]
    assert "1 classes are not in the list: unheard_of" in told[1]
    assert told[2].startswith("173 classes of the list have no pairs: American_alligator")
    (tmp_path / "own.txt").write_text("cat\ndog\n\n")
    assert ClassList.open(tmp_path / "own.txt").warnings(["dog", "cat"]) == []
    (tmp_path / "twice.txt").write_text("cat\ncat\n")
    for bad in ("twice.txt", "none.txt"):
        with pytest.raises(InvalidOption):
            ClassList.open(tmp_path / bad)


def test_random_pairs_are_uniform_over_the_matchings():
    """Three pairs of one class: of the 15 matchings of six images, 8 share no pair with the old one; all come up."""
    table = table_of({"cat": 3})
    seen = Counter(
        frozenset(frozenset((r.image_a, r.image_b)) for r in make_twin(table, "random-same-class", seed=s).rows)
        for s in range(400)
    )
    assert len(seen) == 8
    assert min(seen.values()) > 400 / 8 * 0.4
    assert np.isclose(sum(seen.values()), 400)
