"""What fuzzing found, as small plain tests: each input once crashed, hung, took gigabytes or left its folder."""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import pickle
import sqlite3
import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from tests.fuzzing.annotations import VOC, coco
from tests.fuzzing.guard import watched
from tests.fuzzing.images import PIXELS, encoded
from tests.fuzzing.models import header_of
from tests.fuzzing.texts import pairs

from semaug.artifacts.decode import decode_image
from semaug.artifacts.errors import ArtifactError, InvalidOption, SemaugError, SourceError, UnreadableImage
from semaug.artifacts.masks import decode_mask, encode_mask, mask_area, mask_box
from semaug.artifacts.ragged import pack_strings
from semaug.artifacts.reader import Artifact
from semaug.artifacts.schemas import Manifest, Rle
from semaug.artifacts.sources import labels_of, open_source
from semaug.artifacts.store import ArtifactWriter
from semaug.artifacts.tables import open_table
from semaug.artifacts.testing import write_image_folder
from semaug.artifacts.verify import verify
from semaug.eval.detection.detectron2 import read_detectron2
from semaug.eval.detection.door import open_detection_set
from semaug.eval.report.stored import load_section
from semaug.oracles.annotations import AnnotationSegmenter, open_annotations
from semaug.oracles.errors import AnnotationError
from semaug.oracles.sam import open_sam
from semaug.pairs_dataset.curation.journal import Journal
from semaug.pairs_dataset.pair_table import PairTable
from semaug.prompt_synthesis.endpoint import ChatEndpoint, EndpointError, Patience, Sampling
from semaug.prompt_synthesis.store import MapTable
from semaug.ssl_methods.cards import ENCODER_CARD, load_encoder, save_encoder
from semaug.ssl_methods.encoder import build_encoder
from semaug.ssl_methods.errors import WeightsMismatch
from semaug.ssl_methods.initialise import read_checkpoint
from semaug.studies.study.catalogue import filled, open_preset

MEGABYTE = 1 << 20


@contextmanager
def memory_below(most: float) -> Iterator[None]:
    """Fail where Python and NumPy take more bytes than this."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


# images


def test_a_bomb_of_few_bytes_is_refused_before_it_is_unpacked():
    webp = io.BytesIO()
    Image.new("RGB", (4200, 4200)).save(webp, "WEBP", lossless=True, quality=0, method=0)
    header = b"IHDR" + struct.pack(">IIBBBBB", 9000, 9000, 1, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    png += struct.pack(">I", 50) + b"IDAT" + bytes(54)
    for data in (webp.getvalue(), png):
        assert len(data) < 2000
        with memory_below(MEGABYTE), pytest.raises(UnreadableImage, match="decompression bomb"):
            decode_image(data)


def test_a_large_blank_image_is_read_where_its_file_is_not_tiny(monkeypatch):
    monkeypatch.setattr("semaug.artifacts.decode.FREE_PIXELS", 100)
    blank = np.full((300, 400, 3), 255, np.uint8)
    assert np.array_equal(decode_image(encoded(blank, "JPEG")), blank)


@pytest.mark.parametrize("limit", ["1000", "no number", "-5"])
def test_the_environment_sets_the_limit_of_pixels(monkeypatch, limit):
    from semaug.artifacts.decode import _most_pixels

    monkeypatch.setenv("SEMAUG_MAX_PIXELS", limit)
    if limit == "1000":
        assert _most_pixels() == 1000
    else:
        with pytest.raises(InvalidOption, match="SEMAUG_MAX_PIXELS"):
            _most_pixels()


@pytest.mark.parametrize("mode", ["I;16", "F", "RGBA", "P"])
def test_conversion_by_bands_is_that_of_the_whole_and_takes_little_memory(mode, monkeypatch):
    rng = np.random.default_rng(0)
    if mode == "P":
        image = Image.fromarray(rng.integers(0, 256, (200, 300), np.uint8), "P")
        image.putpalette(rng.integers(0, 256, 768, np.uint8).tobytes())
        file = io.BytesIO()
        image.save(file, "PNG", transparency=bytes(range(256)))
        data = file.getvalue()
    else:
        values = {
            "I;16": rng.integers(0, 65536, (200, 300), np.uint16),
            "F": rng.random((200, 300), np.float32),
            "RGBA": rng.integers(0, 256, (200, 300, 4), np.uint8),
        }[mode]
        data = encoded(values, "TIFF" if mode == "F" else "PNG")
    whole = decode_image(data)
    monkeypatch.setattr("semaug.artifacts.decode._BAND", 2000)
    with memory_below(4 * whole.nbytes):  # Pillow's own pixels are not counted
        banded = decode_image(data)
    assert np.array_equal(whole, banded)


@pytest.mark.parametrize("name", ["/dev/zero", "pipe"])
def test_a_list_that_names_a_device_or_a_pipe_does_not_hang(tmp_path, name):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "list.csv").write_text(f"path\n{name}\n")
    source = open_source(tmp_path / "list.csv")
    with watched(tmp_path), pytest.raises(UnreadableImage, match="regular file"):
        source.read(0)
    assert source.fingerprint


def test_a_pipe_in_a_folder_of_images_is_skipped(tmp_path):
    write_image_folder(tmp_path, 1, (), side=8)
    os.mkfifo(tmp_path / "pipe.png")
    with watched(tmp_path), pytest.raises(UnreadableImage, match="regular file"):
        open_source(tmp_path).read(1)


@pytest.mark.parametrize("text", ["x" * 5000, "a\0b.png", "scenes:" + "y" * 300, "\udcff"])
def test_names_that_no_file_can_have_are_one_line(text):
    with pytest.raises(SourceError):
        open_source(text)


# masks


@pytest.mark.parametrize(
    ("size", "counts", "said"),
    [
        ((0, 5), b"1", "run"),  # pycocotools divides by the height
        ((4, 4), b"oooooooo0", "run"),  # 2 ** 44 pixels
        ((4, 4), b"oo", "within a number"),
        ((4, 4), b"o" * 40 + b"0", "no COCO code"),
        ((4, 4), b"\x00\xff", "within a number|no COCO code"),
        ((4, 4), b"Po0", "run"),
        ((1 << 20, 1 << 20), b"0", "at most"),
        ((-1, -16), b"@0", "says it is"),
    ],
)
def test_run_lengths_are_checked_before_anything_is_made_of_them(size, counts, said):
    for use in (decode_mask, mask_area, mask_box):
        with pytest.raises(ArtifactError, match=said):
            use(Rle(size, counts))


def test_area_and_box_of_good_masks_stay(tmp_path):
    for mask in (np.zeros((3, 4), bool), np.ones((3, 4), bool), np.eye(3, 4, dtype=bool)):
        assert mask_area(encode_mask(mask)) == mask.sum()
    assert mask_box(encode_mask(np.eye(3, 4, dtype=bool))).tolist() == [0, 0, 3, 3]
    assert not mask_box(encode_mask(np.zeros((3, 4), bool))).any()


# annotations


def test_coco_polygons_that_leave_their_image_far_behind_are_refused(tmp_path):
    for far in (1e9, -1e9, math.inf, math.nan):
        content = coco()
        content["annotations"][0]["segmentation"] = [[0, 0, far, 0, 3, 3]]
        (tmp_path / "a.json").write_text(json.dumps(content))
        with pytest.raises(AnnotationError, match="polygon"):
            open_annotations(tmp_path / "a.json")
        (tmp_path / "a.png").write_bytes(encoded(PIXELS, "PNG"))
        with pytest.raises(SemaugError, match=r"polygon|finite"):
            open_detection_set(f"coco:{tmp_path / 'a.json'}", outlines=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["images"][0].update(height=1e400),
        lambda c: c["images"][0].update(height=10**9, width=10**9),
        lambda c: c["annotations"][0].update(bbox=[0, 0, math.inf, 1]),
        lambda c: c["annotations"][1].update(segmentation={"size": [8, 6], "counts": "o" * 50}),
        lambda c: c["annotations"][1].update(segmentation={"size": [10**6, 10**6], "counts": "0"}),
        lambda c: c["annotations"][2].update(segmentation={"size": [8, 6], "counts": [2**62, -1]}),
        lambda c: c["annotations"][2].update(segmentation={"size": [8, 6], "counts": [0.5, 47.5]}),
    ],
)
def test_coco_with_values_that_cannot_be_is_refused(tmp_path, change):
    content = coco()
    change(content)
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(AnnotationError, match="COCO JSON"):
        open_annotations(tmp_path / "a.json")


LAUGHS = b'<!DOCTYPE a [<!ENTITY a0 "ha">' + b"".join(
    f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">'.encode() for i in range(1, 12)
) + b"]><annotation>&a11;</annotation>"  # fmt: skip
OUTSIDE = b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + VOC.replace(b">cat<", b">&x;<")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (LAUGHS, "entity"),
        (OUTSIDE, "entity"),
        (b"<a>" * 5000 + b"</a>" * 5000, "deep"),
        (VOC.replace(b">8<", b">1e400<"), "size|image|infinity"),
        (VOC.replace(b">8<", b">999999999999<"), "image"),
        (VOC.replace(b">5<", b">nan<"), "corners|box"),
    ],
)
def test_xml_bombs_and_entities_are_refused(tmp_path, content, said):
    (tmp_path / "a.xml").write_bytes(content)
    with watched(tmp_path) as watch:
        with pytest.raises(AnnotationError, match=said):
            AnnotationSegmenter(tmp_path).segment_keyed(["a.png"], [PIXELS], None)
        for folder in ("Annotations", "JPEGImages"):
            (tmp_path / folder).mkdir()
        (tmp_path / "Annotations" / "a.xml").write_bytes(content)
        (tmp_path / "JPEGImages" / "a.png").write_bytes(encoded(PIXELS, "PNG"))
        with pytest.raises(SemaugError, match=said):
            open_detection_set(f"voc:{tmp_path}")
    assert not watch.seen


def test_a_bomb_given_to_a_verb_is_one_line(semaug, tmp_path):
    images = write_image_folder(tmp_path / "images", 2, (), side=16)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "image000.xml").write_bytes(LAUGHS)
    words = ("guide", "import", tmp_path / "labels", images, "--out", tmp_path / "g.zarr")
    assert semaug(*words).refuses("declares the entity 'a0'", "image000.xml")


# artifacts


def written(path: Path, kind, columns, **settings) -> Path:
    rows = len(columns["key_offsets"]) - 1
    manifest = Manifest(kind=kind, items=rows, shard_size=rows, inputs={"source": "0" * 32}, **settings)
    with ArtifactWriter.open(path, manifest) as writer:
        writer.write(0, columns)
        writer.finish()
    return path


def a_pack(path: Path, **changes) -> Path:
    columns = {
        **pack_strings("key", ["a.png", "b.png"]),
        "label": np.array([0, 1], np.int32),
        "pixels": np.stack([PIXELS, PIXELS]),
        **changes,
    }
    return written(path, "images", columns, config={"class_names": ["cat", "dog"]})


@pytest.mark.parametrize(
    "changes",
    [
        {"items": 10**30},
        {"items": 1 << 40, "shard_size": 1},
        {"items": -1},
        {"shard_size": 0},
        {"config": {"class_names": 7}},
        {"config": [1]},
        {"inputs": {}},
    ],
)
def test_a_manifest_with_absurd_values_neither_hangs_nor_crashes(tmp_path, changes):
    path = a_pack(tmp_path / "a.zarr")
    meta = json.loads((path / "zarr.json").read_text())
    meta["attributes"]["semaug"].update(changes)
    (path / "zarr.json").write_text(json.dumps(meta))
    with watched(tmp_path):
        with pytest.raises(ArtifactError):
            assert open_source(path).fingerprint
        with suppress(ArtifactError):
            assert not verify(path).problems or changes.get("items") == 1 << 40


@pytest.mark.parametrize("marker", [{"shard": 7}, {"shard": -1}, {"items": 10**12}, {"items": -3}, {"items": 1}])
def test_a_marker_that_lies_is_found_out(tmp_path, marker):
    path = a_pack(tmp_path / "a.zarr")
    file = path / "ledger" / "000000.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | marker))
    with pytest.raises(ArtifactError):
        assert Artifact.open(path).keys


@pytest.mark.parametrize(
    "changes",
    [
        {"label": np.array([0, 2**31 - 1], np.int32)},  # counting classes would take gigabytes
        {"label": np.array([0.0, 1.0])},
        {"label": np.array([0], np.int32)},
        {"key_offsets": np.array([0, 5, 4000], np.int64)},
        {"key_offsets": np.array([0, -5, 10], np.int64)},
        {"key": np.full(10, 255, np.uint8)},
        {"pixels": np.zeros((2, 8, 6, 3), np.float64)},
        {"pixels": np.zeros((2, 8, 6), np.uint8)},
        {"pixels": np.zeros((1, 8, 6, 3), np.uint8)},
    ],
)
def test_columns_that_do_not_fit_each_other_are_found_out(tmp_path, changes):
    path = a_pack(tmp_path / "a.zarr", **changes)
    with watched(tmp_path), pytest.raises(ArtifactError):
        read_whole(path)


def read_whole(path: Path) -> None:
    source = open_source(path)
    assert len({source.key(i) for i in range(2)}) == 2
    labels_of(source)
    for index in range(2):
        source.read(index)


def test_a_deflated_map_is_unpacked_no_further_than_its_size(tmp_path):
    bomb = zlib.compress(bytes(8 * MEGABYTE), 1)
    columns = {
        **pack_strings("key", ["a.png"]),
        "classes": np.frombuffer(bomb, np.uint8),
        "classes_offsets": np.array([0, len(bomb)], np.int64),
        "size": np.array([[8, 6]], np.int32),
    }
    table = MapTable.open(written(tmp_path / "m.zarr", "mask_maps", columns))
    with memory_below(MEGABYTE), pytest.raises(ArtifactError, match="damaged"):
        table.classes("a.png")


# tables


def test_a_parquet_file_that_claims_more_than_it_holds_is_refused(tmp_path, monkeypatch):
    import pyarrow
    import pyarrow.parquet as parquet

    monkeypatch.setattr("semaug.artifacts.tables.checks.FREE_CELLS", 1000)
    monkeypatch.setattr("semaug.artifacts.tables.checks.CELLS_PER_BYTE", 100)
    parquet.write_table(pyarrow.table({"path": np.zeros(1_000_000, np.int8)}), tmp_path / "x.parquet")
    assert (tmp_path / "x.parquet").stat().st_size < 10_000
    for opener in (open_table, open_source):
        with pytest.raises(SourceError, match="cells a byte"):
            opener(tmp_path / "x.parquet")


def test_h5ad_data_kept_in_other_files_are_not_read(tmp_path):
    import h5py

    (tmp_path / "secret").write_bytes(b"12345678" * 4)
    for how in ("link", "storage"):
        path = tmp_path / f"{how}.h5ad"
        with h5py.File(path, "w") as file:
            file.create_group("obs"), file.create_group("var")
            if how == "link":
                file["X"] = h5py.ExternalLink("elsewhere.h5", "/X")
            else:
                file.create_dataset("X", (2, 2), "f8", external=[(str(tmp_path / "secret"), 0, 32)])
        with pytest.raises(SourceError, match="another file"):
            open_table(path)


def test_an_h5ad_matrix_without_data_is_no_memory(tmp_path):
    import anndata
    import h5py
    import pandas

    path = tmp_path / "x.h5ad"
    anndata.AnnData(np.eye(2, dtype=np.float32), obs=pandas.DataFrame(index=["a", "b"])).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        del file["X"]
        file.create_dataset("X", (1 << 20, 1 << 20), "f4", chunks=(1024, 1024))
    with pytest.raises(SourceError, match="cells a byte"):
        open_table(path)


@pytest.mark.parametrize(
    "header", [b"{'descr': '|O', 'shape': (1,), 'fortran_order': False}", b"__import__('os').abort()", b"(" * 300]
)
def test_headers_of_npy_files_run_and_unpickle_nothing(tmp_path, header):
    body = pickle.dumps([os.getcwd])
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body)
    with watched(tmp_path) as watch, pytest.raises(SourceError, match=r"x\.npy"):
        open_table(tmp_path / "x.npy")
    assert not watch.seen


def test_an_archive_called_npy_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.eye(2))
    (tmp_path / "x.npz").rename(tmp_path / "x.npy")
    with pytest.raises(SourceError, match="archive"):
        open_table(tmp_path / "x.npy")


# cards and weights


@pytest.mark.parametrize(
    "projector", [{"hidden": 2**30}, {"out": 2**40}, {"layers": 10**9}, {"hidden": 2**18}, {"unknown": 1}, {"out": "a"}]
)
def test_a_card_of_any_size_takes_no_memory(tmp_path, projector):
    save_encoder(tmp_path, build_encoder("small-cnn", input_size=16), method="simclr", seed=0, steps=1)
    card = json.loads((tmp_path / ENCODER_CARD).read_text())
    card["config"]["projector"].update(projector)
    (tmp_path / ENCODER_CARD).write_text(json.dumps(card))
    with watched(tmp_path), pytest.raises((ArtifactError, WeightsMismatch)):
        load_encoder(tmp_path)


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<Q", 2**63),
        header_of(b'{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]}}', bytes(8)),
        header_of(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,80]}}', bytes(8)),
        header_of(b'{"a":{"dtype":"X","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
        header_of(b"[" * 5000),
    ],
)
def test_headers_of_safetensors_are_checked_by_their_reader(tmp_path, data):
    (tmp_path / "w.safetensors").write_bytes(data)
    with watched(tmp_path), pytest.raises(WeightsMismatch, match="not a safetensors file"):
        read_checkpoint(tmp_path / "w.safetensors")


def test_a_tensor_of_any_size_stored_as_one_number_is_refused(tmp_path):
    torch.save({"conv1.weight": torch.zeros(1).expand(100_000, 100_000)}, tmp_path / "w.pth")
    assert (tmp_path / "w.pth").stat().st_size < 4000
    with pytest.raises(WeightsMismatch, match="cannot be read"):
        read_checkpoint(tmp_path / "w.pth")
    with pytest.raises(InvalidOption, match="claims the shape"):
        open_sam(tmp_path / "w.pth")


class Runs:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickles_are_never_run(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Runs()}, tmp_path / "w.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"model": Runs()}, protocol))
    with watched(tmp_path) as watch:
        for name in ("w.pth", "plain.pth"):
            with pytest.raises(WeightsMismatch):
                read_checkpoint(tmp_path / name)
        with pytest.raises(ArtifactError):
            read_detectron2(tmp_path / "plain.pth")
    assert not watch.seen
    assert not (tmp_path / "ran").exists()


# texts


def test_a_preset_cannot_ask_for_text_of_any_width():
    assert filled("{variant:>9999999999} {variant.__class__} {0} {", variant="x") == (
        "{variant:>9999999999} {variant.__class__} {0} {"
    )
    assert filled("{variant} at {measure}", variant="SDI", measure="top 1") == "SDI at top 1"


@pytest.mark.parametrize(
    "text",
    [
        'extends = "../../secret"',
        "extends = 7",
        'extends = "compare"\nwithout = 3',
        "a = " + "[" * 9000,
        "a = " + "9" * 9000,
    ],
)
def test_a_preset_that_leads_elsewhere_or_nests_is_refused(tmp_path, text):
    (tmp_path / "own.toml").write_text(text)
    with watched(tmp_path), pytest.raises(InvalidOption):
        open_preset(str(tmp_path / "own.toml"))


def answered(response: httpx.Response):
    hurried = Patience(attempts=1, first_wait_s=0.001, longest_wait_s=0.001, largest_answer=4096)
    endpoint = ChatEndpoint("http://127.0.0.1:9", "tiny", patience=hurried)
    endpoint._client = httpx.Client(transport=httpx.MockTransport(lambda request: response))
    try:
        return endpoint.answer(["rewrite"], [1], Sampling(1.0, 1.0, 8))[0]
    finally:
        endpoint.close()


def test_a_compressed_answer_is_not_unpacked():
    bomb = gzip.compress(bytes(MEGABYTE))
    response = httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=httpx.ByteStream(bomb[:2000]))
    with pytest.raises(EndpointError, match="compressed by 'gzip'"):
        answered(response)


def test_half_a_character_in_an_answer_can_be_written_down():
    body = b'{"choices": [{"message": {"content": "a \\ud800 cat"}, "finish_reason": "stop"}]}'
    assert answered(httpx.Response(200, stream=httpx.ByteStream(body))).text == "a ? cat"


@pytest.mark.parametrize("content", [b"[" * 3000, b'{"choices": [{"message": ' + b'{"a":' * 700, b"9" * 4000, b"NaN"])
def test_answers_that_are_none_are_one_line(content):
    with pytest.raises(EndpointError, match="no usable answer"):
        answered(httpx.Response(200, stream=httpx.ByteStream(content)))


def test_an_endless_answer_is_cut_off():
    class Endless(httpx.SyncByteStream):
        def __iter__(self):
            while True:
                yield b" " * 1024

    with pytest.raises(EndpointError, match="more than 4096 bytes"):
        answered(httpx.Response(200, stream=Endless()))


@pytest.mark.parametrize("file", ["../secret.png", "/etc/passwd", "a\0b"])
def test_a_stored_report_shows_no_file_but_its_own(tmp_path, file):
    (tmp_path / "secret.png").write_bytes(encoded(PIXELS, "PNG"))
    (tmp_path / "section").mkdir()
    for block in (
        {"kind": "Figure", "file": file, "caption": "", "alt": "", "data": {}, "wide": False},
        {"kind": "Sheet", "caption": "", "columns": [], "rows": [{"label": "", "images": [file]}]},
    ):
        (tmp_path / "section" / "section.json").write_text(json.dumps({"title": "T", "blocks": [block]}))
        with pytest.raises(ArtifactError, match="leads out"):
            load_section(tmp_path / "section")


def test_a_journal_with_rows_that_are_none_is_one_line(tmp_path):
    Journal.start(tmp_path / "j.sqlite", PairTable.of(pairs())).close()
    with sqlite3.connect(tmp_path / "j.sqlite") as database:
        database.execute("UPDATE pairs SET scores = '[1]' WHERE pair_id = 'p1'")
    database.close()
    journal = Journal(tmp_path / "j.sqlite")
    with pytest.raises(ArtifactError, match="no pair"):
        journal.pairs()
    journal.close()
