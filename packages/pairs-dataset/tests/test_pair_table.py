"""Pairs as an artifact, as JSON lines and as CSV: the same rows come back, and bad rows are named."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from semaug.artifacts.errors import ArtifactError, ArtifactMismatch, InvalidOption
from semaug.artifacts.schemas import TAGS, VERDICTS, SemanticPair, pair_id_of
from semaug.artifacts.verify import verify
from semaug.pairs_dataset.errors import NoPairs
from semaug.pairs_dataset.pair_exchange import read_pairs, write_pair_file
from semaug.pairs_dataset.pair_table import PairTable, write_pairs

NAMES = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
SCORES = st.dictionaries(
    st.sampled_from(["object_similarity", "context", "rank2"]), st.floats(allow_nan=False, allow_infinity=False)
)
PAIRS = st.builds(
    SemanticPair,
    pair_id=NAMES,
    class_name=NAMES,
    image_a=NAMES,
    image_b=NAMES,
    tags=st.sets(st.sampled_from(TAGS)).map(lambda chosen: tuple(t for t in TAGS if t in chosen)),
    verdict=st.sampled_from(VERDICTS),
    curator=TEXTS,
    time=TEXTS,
    provenance=TEXTS,
    scores=SCORES,
)
ROWS = st.lists(PAIRS, min_size=1, max_size=5, unique_by=lambda pair: pair.pair_id)


def numbered(classes: dict[str, int]) -> list[SemanticPair]:
    return [
        SemanticPair(f"{name}-{i}", name, f"{name}/{i}a", f"{name}/{i}b")
        for name, n in classes.items()
        for i in range(n)
    ]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, layout=st.sampled_from(["jsonl", "csv"]))
def test_files_keep_every_field(rows, layout, tmp_path):
    path = tmp_path / f"pairs.{layout}"
    assert write_pair_file(rows, path, layout) == len(rows)
    assert read_pairs(path) == rows


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS)
def test_an_artifact_keeps_every_field(rows, tmp_path):
    table = PairTable.of(rows, "proposals", "f00d")
    write_pairs(table, tmp_path / "pairs.zarr", overwrite=True)
    found = PairTable.open(tmp_path / "pairs.zarr")
    assert (found.rows, found.form, found.source) == (table.rows, "proposals", "f00d")
    assert verify(tmp_path / "pairs.zarr").problems == ()


def test_artifact_to_files_and_back_is_the_same_artifact(tmp_path):
    table = PairTable.of(numbered({"cat": 3, "dog": 2}))
    write_pairs(table, tmp_path / "a.zarr")
    for layout in ("jsonl", "csv"):
        write_pair_file(PairTable.open(tmp_path / "a.zarr").rows, tmp_path / f"a.{layout}", layout)
        write_pairs(PairTable.open(tmp_path / f"a.{layout}"), tmp_path / f"{layout}.zarr")
        assert PairTable.open(tmp_path / f"{layout}.zarr").digest == PairTable.open(tmp_path / "a.zarr").digest


def test_other_rows_are_another_artifact(tmp_path):
    write_pairs(PairTable.of(numbered({"cat": 3})), tmp_path / "a.zarr")
    write_pairs(PairTable.of(numbered({"cat": 3})), tmp_path / "a.zarr")
    with pytest.raises(ArtifactMismatch, match="--overwrite"):
        write_pairs(PairTable.of(numbered({"cat": 2})), tmp_path / "a.zarr")


def test_no_pairs_and_pairs_of_other_images_are_refused(tmp_path):
    with pytest.raises(NoPairs, match="accept some"):
        write_pairs(PairTable.of([]), tmp_path / "a.zarr")
    with pytest.raises(ArtifactError, match="made of images abc, these are def"):
        PairTable.of(numbered({"cat": 1}), source="abc").require_source("def")
    with pytest.raises(InvalidOption, match="'cat-0' stands twice"):
        PairTable.of([*numbered({"cat": 1}), *numbered({"cat": 2})])


def test_subsets_are_nested_balanced_and_look_at_ids_alone():
    rows = numbered({"cat": 40, "dog": 30, "eel": 4})
    table = PairTable.of(rows)
    ids = {n: {r.pair_id for r in table.subset(n, seed=3).rows} for n in (4, 10, 20)}
    assert ids[4] < ids[10] < ids[20]
    assert {name: len(group) for name, group in table.subset(10).by_class.items()} == {"cat": 10, "dog": 10, "eel": 4}
    assert {r.pair_id for r in PairTable.of(rows[::-1]).subset(10, seed=3).rows} == ids[10]
    cats = PairTable.of(r for r in rows if r.class_name == "cat")
    assert {r.pair_id for r in cats.subset(10, seed=3).rows} == {i for i in ids[10] if i.startswith("cat")}
    assert {r.pair_id for r in table.subset(10, seed=4).rows} != ids[10]


def test_a_list_without_ids_gets_the_same_ids_either_way_round(tmp_path):
    (tmp_path / "a.csv").write_text("class,image_a,image_b\ncat,x.jpg,y.jpg\n")
    (tmp_path / "b.jsonl").write_text('{"class": "cat", "image_a": "y.jpg", "image_b": "x.jpg"}\n\n')
    assert read_pairs(tmp_path / "a.csv")[0].pair_id == read_pairs(tmp_path / "b.jsonl")[0].pair_id
    assert read_pairs(tmp_path / "a.csv")[0].pair_id == pair_id_of("x.jpg", "y.jpg")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"class": "c", "image_a": "x"}', r"line 1: image_b: field required"),
        ("a.jsonl", '{"class": "c", "image_a": "x", "image_b": "y", "tag": []}', r"'tag'; did you mean 'tags'"),
        ("a.jsonl", '\n{"class": "", "image_a": "x", "image_b": "y"}', r"line 2: .*no class_name"),
        ("a.jsonl", "[1]", r"line 1 is no JSON object"),
        ("a.jsonl", "{", r"line 1 is not JSON"),
        ("a.jsonl", '{"class": "c", "image_a": "x", "image_b": "y", "verdict": "yes"}', r"line 1: verdict"),
        ("a.jsonl", '{"class": "c", "image_a": "x", "image_b": "y", "scores": {"s": Infinity}}', r"line 1: scores.s"),
        ("a.csv", "class,image_a,image_b\nc,x", r"line 2 has not the header's 3 cells"),
        ("a.csv", "class,image_a,image_b,score:s\nc,x,y,high", r"line 2: .*'high'"),
        ("a.csv", 'class,image_a,image_b\nc,x,"y', r"is not CSV: unexpected end"),
        ("a.csv", "class,image_a,image_b,tags\nc,x,y,background weather", r"line 2: tags.1"),
    ],
)
def test_bad_lines_are_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidOption, match=message):
        read_pairs(tmp_path / name)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"class\xff")
    with pytest.raises(InvalidOption, match="not UTF-8 at byte 5"):
        read_pairs(tmp_path / "a.csv")
    with pytest.raises(InvalidOption, match="cannot read"):
        read_pairs(tmp_path / "none.csv")


@pytest.mark.parametrize(
    "fields",
    [{"tags": ("pattern", "background")}, {"verdict": "yes"}, {"image_b": ""}, {"scores": {"s": float("nan")}}],
)
def test_a_pair_checks_itself(fields):
    with pytest.raises(ValueError, match="pair 'p'"):
        SemanticPair(**{"pair_id": "p", "class_name": "c", "image_a": "x", "image_b": "y", **fields})
