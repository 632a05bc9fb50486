"""What ``check_pairs`` finds, each fault on its own, on real files."""

import numpy as np
import pytest
from PIL import Image

from semaug.artifacts.schemas import SemanticPair
from semaug.artifacts.sources import ScenesSource, open_folder
from semaug.pairs_dataset.checks import check_pairs, counts_text
from semaug.pairs_dataset.class_list import ClassList, SemanticClass
from semaug.pairs_dataset.image_hashes import hash_images
from semaug.pairs_dataset.pair_sets import make_twin
from semaug.pairs_dataset.pair_table import PairTable

SCENES = ScenesSource("train", items=24)


@pytest.fixture
def folder(tmp_path):
    """Two classes of six different pictures each, as PNG."""
    for i in range(12):
        path = tmp_path / "images" / ("cat" if i < 6 else "dog") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(SCENES.read(i)).save(path)
    return tmp_path / "images"


SOUND = [("cat/0.png", "cat/1.png"), ("cat/2.png", "cat/3.png"), ("dog/6.png", "dog/7.png"), ("dog/8.png", "dog/9.png")]


def check(folder, pairs, names=None, **options):
    names = names or [a.split("/")[0] for a, _ in pairs]
    rows = [SemanticPair(f"p{i}", n, a, b) for i, ((a, b), n) in enumerate(zip(pairs, names, strict=True))]
    return check_pairs(PairTable.of(rows), open_folder(folder), **{"per_class": 0, **options})


def kinds(found):
    return [(row.kind, row.about) for row in found.findings]


def test_a_sound_set_has_no_findings(folder):
    found = check(folder, SOUND, per_class=2)
    assert kinds(found) == []
    assert (found.pairs, found.images, found.counts, found.uses) == (4, 8, {"cat": 2, "dog": 2}, {1: 8})
    assert counts_text(found) == "2"


def test_one_image_twice_by_key_by_content_and_by_look(folder):
    (folder / "cat" / "copy.png").write_bytes((folder / "cat" / "0.png").read_bytes())
    small = Image.open(folder / "cat" / "2.png")
    small.resize((small.width // 2, small.height // 2)).save(folder / "cat" / "small.jpg", quality=60)
    pairs = [("cat/1.png", "cat/1.png"), ("cat/0.png", "cat/copy.png"), ("cat/2.png", "cat/small.jpg"), *SOUND[2:]]
    found = check(folder, pairs)
    assert [k for k in kinds(found) if k[0] == "same_image"] == [("same_image", f"p{i}") for i in range(3)]
    assert "shows one picture twice" in found.problems[2].text


def test_other_classes_missing_files_and_unreadable_ones(folder):
    (folder / "dog" / "7.png").write_bytes(b"not an image")
    found = check(folder, [*SOUND[:3], ("cat/4.png", "dog/10.png"), ("cat/5.png", "cat/gone.png")])
    assert set(kinds(found)) == {("different_classes", "p3"), ("missing", "cat/gone.png"), ("unreadable", "dog/7.png")}
    wrong = check(folder, SOUND, names=["cat", "dog", "dog", "dog"])
    assert kinds(wrong) == [("unreadable", "dog/7.png"), ("different_classes", "p1")]


def test_two_unreadable_or_missing_images_are_not_one(folder):
    for name in ("6", "7"):
        (folder / "dog" / f"{name}.png").write_bytes(b"")
    found = check(folder, [SOUND[2], ("cat/gone.png", "cat/lost.png")])
    assert {kind for kind, _ in kinds(found)} == {"unreadable", "missing"}


def test_doubled_pairs_either_way_round_and_under_another_name(folder):
    (folder / "cat" / "copy.png").write_bytes((folder / "cat" / "0.png").read_bytes())
    found = check(folder, [*SOUND, ("cat/1.png", "cat/0.png"), ("cat/1.png", "cat/copy.png")])
    assert [k for k in kinds(found) if k[0] != "reused"] == [("duplicate_pair", "p4"), ("duplicate_pair", "p5")]


def test_counts_and_reuse(folder):
    found = check(folder, [*SOUND, ("cat/0.png", "cat/4.png")], per_class=2)
    assert kinds(found) == [("count", "cat"), ("reused", "cat/0.png")]
    assert found.uses == {1: 8, 2: 1}
    assert [row.kind for row in found.warnings] == ["reused"]
    assert "cat/0.png in 2" in found.warnings[0].text
    assert counts_text(found) == "2 to 3"


def test_leaks_by_content_and_by_look(folder, tmp_path):
    evaluation = tmp_path / "test" / "anything"
    evaluation.mkdir(parents=True)
    (evaluation / "same.png").write_bytes((folder / "cat" / "0.png").read_bytes())
    Image.open(folder / "dog" / "7.png").save(evaluation / "alike.jpg", quality=40)
    Image.fromarray(SCENES.read(20)).save(evaluation / "other.png")
    (evaluation / "broken.png").write_bytes(b"")
    found = check(folder, SOUND, against=[open_folder(tmp_path / "test")])
    assert kinds(found) == [("leak", "cat/0.png"), ("leak", "dog/7.png")]
    assert "is anything/same.png" in found.problems[0].text
    assert "looks like anything/alike.jpg" in found.problems[1].text


def test_controls_are_checked_as_what_they_are(folder):
    rows = [SemanticPair(f"p{i}", a.split("/")[0], a, b) for i, (a, b) in enumerate(SOUND)]
    table, source = PairTable.of(rows), open_folder(folder)
    for kind in ("augmented", "all-images", "random-same-class"):
        assert check_pairs(make_twin(table, kind), source, per_class=2).findings == ()
    wrong = PairTable.of(rows, "augmented")
    assert {f.kind for f in check_pairs(wrong, source, per_class=2).findings} == {"not_same_image"}


def test_a_class_list_translates_and_warns(folder):
    names = ClassList((SemanticClass("feline", "Animals", "cat"), SemanticClass("dog", "Animals")), 3)
    found = check(folder, SOUND, names=["feline", "feline", "dog", "dog"], class_list=names)
    assert [row.kind for row in found.findings] == ["classes"]
    assert "names 2 classes, its source counts 3" in found.warnings[0].text


def test_no_two_of_many_different_pictures_are_alike():
    hashes = hash_images(SCENES, range(len(SCENES)))
    assert sorted(hashes.matches(hashes)) == [(i, i) for i in range(len(SCENES))]


def test_flat_images_are_alike_only_in_colour():
    class Flat(ScenesSource):
        def read(self, index):
            return np.full((40, 40, 3), 60 * index, np.uint8)

    hashes = hash_images(Flat("train", items=4), range(4))
    assert not hashes.alike(0, hashes, 3)
    assert hashes.alike(2, hashes, 2)


def test_images_of_which_all_are_missing_are_told_one_by_one(folder):
    found = check(folder, [("cat/x.png", "cat/y.png")])
    assert kinds(found) == [("missing", "cat/x.png"), ("missing", "cat/y.png")]


def test_pairs_of_another_folder_with_the_same_names_are_told(folder):
    rows = [SemanticPair(f"p{i}", a.split("/")[0], a, b) for i, (a, b) in enumerate(SOUND)]
    source = open_folder(folder)
    assert check_pairs(PairTable.of(rows, source=source.fingerprint), source, per_class=0).problems == ()
    found = check_pairs(PairTable.of(rows, source="0" * 32), source, per_class=0)
    assert [row.kind for row in found.problems] == ["other_images"]
    assert found.bad == ()
