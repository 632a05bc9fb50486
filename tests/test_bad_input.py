"""Bad input through the command line: skips that are listed, one-line errors, no artifact lost or half-written."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import unicodedata
from pathlib import Path

import pytest

from semaug.artifacts.sources import open_source
from semaug.artifacts.testing import READABLE, UNREADABLE, write_difficult_folder, write_image_folder

TINY = ("--steps", "2", "--batch-size", "4", "--size", "16", "--backbone", "small-cnn")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Path:
    return write_difficult_folder(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return write_image_folder(tmp_path_factory.mktemp("photos"), 12, side=32)


def listed(path: Path) -> list[str]:
    """The keys of a list of skipped inputs, each with a reason."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert all(row["reason"] for row in rows)
    return sorted(row["key"] for row in rows)


def is_whole(semaug, path: Path) -> bool:
    return semaug("data", "verify", path).code == 0 and not list(path.rglob("*.partial"))


@pytest.mark.parametrize("verb", [("data", "index"), ("data", "pack"), ("quality", "score"), ("guide", "extract")])
def test_unreadable_files_are_listed_and_the_rest_is_done(semaug, zoo, tmp_path, verb):
    out = tmp_path / "out.zarr"
    done = semaug(*verb, zoo, "--out", out)
    assert done.code == 3
    assert f"4 inputs were skipped, listed in {out / 'skipped.csv'}" in done.err
    assert listed(out / "skipped.csv") == sorted(UNREADABLE)
    assert is_whole(semaug, out)
    assert semaug(*verb, zoo, "--out", out).code == 3  # a rerun still says so


@pytest.fixture
def guidance(semaug, zoo, tmp_path) -> Path:
    path = tmp_path / "guidance.zarr"
    assert semaug("guide", "extract", zoo, "--out", path).code == 3
    return path


def test_materialize_lists_what_the_oracles_could_not_read(semaug, zoo, guidance, tmp_path):
    out = tmp_path / "sdi"
    done = semaug("views", "materialize", zoo, "--guidance", guidance, "--out", out, "--json")
    assert (done.code, done.json["written"]) == (3, len(READABLE))
    assert listed(out / "skipped.csv") == sorted(UNREADABLE)
    assert is_whole(semaug, out)
    assert len(open_source(out)) == len(READABLE)


def test_pretraining_leaves_unreadable_images_out_by_guidance_or_by_a_pack(semaug, zoo, guidance, tmp_path):
    done = semaug("pretrain", "simclr", zoo, "--out", tmp_path / "bare", *TINY, "--steps", "12")
    assert done.refuses("data pack", "remove it")
    assert any(name in done.err for name in UNREADABLE)

    guided = ("--pairs", "guided", "--guidance", guidance, *TINY)
    assert semaug("pretrain", "simclr", zoo, "--out", tmp_path / "run", *guided).code == 0
    assert semaug("data", "pack", zoo, "--out", tmp_path / "pack.zarr").code == 3
    assert semaug("pretrain", "simclr", tmp_path / "pack.zarr", "--out", tmp_path / "packed", *guided).code == 0
    digests = [semaug("data", "verify", tmp_path / run, "--json").json["digest"] for run in ("run", "packed")]
    assert digests[0] == digests[1]
    # The run that failed before its first checkpoint is no obstacle to the remedy.
    assert semaug("pretrain", "simclr", tmp_path / "pack.zarr", "--out", tmp_path / "bare", *TINY).code == 0


def test_views_and_sheets_of_a_folder_with_unreadable_images(semaug, zoo, guidance, tmp_path):
    sheet = tmp_path / "sheet.png"
    assert semaug("views", "show", zoo, "--out", sheet, "--size", "32", "--items", "30").refuses("data pack")
    assert not sheet.exists()
    done = semaug(
        "views", "show", zoo, "--guidance", guidance, "--out", sheet, "--size", "32", "--items", "30", "--json"
    )
    assert (done.code, len(done.json["images"])) == (0, len(READABLE))
    assert semaug("guide", "show", guidance, zoo, "--out", tmp_path / "g.png", "--json").json["items"] == len(READABLE)


def test_evaluation_lists_what_it_left_out(semaug, photos, tmp_path):
    run, folder = tmp_path / "run", tmp_path / "photos"
    assert semaug("pretrain", "simclr", photos, "--out", run, *TINY).code == 0
    shutil.copytree(photos, folder)
    (folder / "cat" / "text.jpg").write_text("this is no image\n")
    for verb, only in (("knn", ()), ("linear", ()), ("all", ("--only", "linear"))):
        done = semaug("eval", verb, run, "--train", folder, "--test", folder, *only, "--json")
        assert done.code == 3, done.err
        assert done.json
        assert listed(run / "eval" / "skipped.csv") == ["cat/text.jpg"]
    assert semaug("eval", "knn", run, "--train", photos, "--test", photos).code == 0
    assert not (run / "eval" / "skipped.csv").exists()


def test_symlink_loops_end_and_are_listed(semaug, photos, tmp_path):
    folder = shutil.copytree(photos, tmp_path / "loop")
    (folder / "cat" / "again").symlink_to("..")
    (folder / "cat" / "self.png").symlink_to("self.png")
    done = semaug("data", "index", folder, "--out", tmp_path / "i.zarr", "--json")
    assert (done.code, done.json["items"]) == (3, 13)
    assert listed(tmp_path / "i.zarr" / "skipped.csv") == ["cat/self.png"]


def reading_verbs(folder: Path, out: Path) -> list[tuple[object, ...]]:
    return [
        ("data", "index", folder, "--out", out),
        ("data", "pack", folder, "--out", out),
        ("quality", "score", folder, "--out", out),
        ("guide", "extract", folder, "--out", out),
        ("views", "show", folder, "--out", out.with_suffix(".png")),
        ("pretrain", "simclr", folder, "--out", out, *TINY),
    ]


def test_duplicate_keys_are_refused_by_name(semaug, tmp_path):
    folder = write_image_folder(tmp_path / "f", 1, (), side=16)
    for form in ("NFC", "NFD"):
        shutil.copy(folder / "image000.png", folder / unicodedata.normalize(form, "é.png"))
    if len(list(folder.iterdir())) < 3:
        pytest.skip("this file system keeps one of the two names")
    for words in reading_verbs(folder, tmp_path / "out.zarr"):
        assert semaug(*words).refuses("have the same key", "rename one"), words
    assert not (tmp_path / "out.zarr").exists()


def test_an_empty_folder_is_refused_and_leaves_nothing(semaug, tmp_path):
    (tmp_path / "empty").mkdir()
    for words in reading_verbs(tmp_path / "empty", tmp_path / "out.zarr"):
        assert semaug(*words).refuses("holds no images"), words
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]


def test_one_image_only(semaug, tmp_path):
    folder, guidance = write_image_folder(tmp_path / "one", 1, (), side=32), tmp_path / "g.zarr"
    for words in reading_verbs(folder, tmp_path / "a.zarr")[:4]:
        assert semaug(*words, "--overwrite").code == 0, words
    assert semaug("guide", "extract", folder, "--out", guidance, "--granularity", "hybrid").code == 0
    for verb, out in (("materialize", tmp_path / "sdi"), ("show", tmp_path / "s.png")):
        assert semaug("views", verb, folder, "--guidance", guidance, "--out", out).code == 0
    assert semaug("pretrain", "simclr", folder, "--out", tmp_path / "run", *TINY).refuses("at least 2", "1 items")


@pytest.fixture
def sealed(tmp_path):
    """A folder that nobody can write below: permissions do not stop root, a file in the way does."""
    (tmp_path / "file").write_text("in the way")
    return tmp_path / "file" / "below"


def test_an_output_that_cannot_be_written_is_one_line(semaug, photos, sealed, tmp_path):
    guidance, run = tmp_path / "g.zarr", tmp_path / "run"
    assert semaug("guide", "extract", photos, "--out", guidance, "--granularity", "object").code == 0
    assert semaug("pretrain", "simclr", photos, "--out", run, *TINY).code == 0
    verbs = [
        *reading_verbs(photos, sealed),
        ("views", "materialize", photos, "--guidance", guidance, "--out", sealed),
        ("guide", "export", guidance, "--out", sealed.with_suffix(".json")),
        ("guide", "export", guidance, "--format", "yolo", "--out", sealed),
        ("guide", "show", guidance, photos, "--out", sealed.with_suffix(".png")),
        *(
            ("eval", v, run, "--train", photos, "--test", photos, "--out", sealed)
            for v in ("knn", "linear", "figures", "all")
        ),
    ]
    for words in verbs:
        done = semaug(*words)
        assert done.refuses("cannot write"), (words, done.err)


def test_a_failed_start_does_not_stand_in_the_way_of_the_corrected_command(semaug, photos, tmp_path):
    out = tmp_path / "g.zarr"
    extract = ("guide", "extract", photos, "--out", out, "--granularity", "object")
    missing = ("--detector", "yolo", "--detector-option", f"weights={tmp_path / 'nowhere.pt'}")
    assert semaug(*extract, *missing).refuses("nowhere.pt")
    assert semaug(*extract).code == 0
    assert is_whole(semaug, out)
    assert semaug(*extract, "--max-boxes", "1").refuses("max_boxes", "--overwrite")  # now there is work to protect


def test_guidance_and_artifacts_of_another_kind_are_refused_by_name(semaug, photos, tmp_path):
    other = write_image_folder(tmp_path / "other", 4, side=24)
    guidance, quality = tmp_path / "g.zarr", tmp_path / "q.zarr"
    assert semaug("guide", "extract", other, "--out", guidance, "--granularity", "object").code == 0
    assert semaug("quality", "score", other, "--out", quality).code == 0
    pretrain = ("pretrain", "simclr", photos, "--out", tmp_path / "run", *TINY, "--pairs", "guided")
    assert semaug(*pretrain).refuses("'guided' need guidance", "guide extract")
    for words in (
        (*pretrain, "--guidance", guidance),
        ("views", "show", photos, "--guidance", guidance, "--out", tmp_path / "s.png"),
        ("views", "materialize", photos, "--guidance", guidance, "--out", tmp_path / "sdi"),
        ("guide", "show", guidance, photos, "--out", tmp_path / "s.png"),
    ):
        assert semaug(*words).refuses("the guidance was made on images", "guide extract"), words
    for words in (
        (*pretrain, "--guidance", quality),
        ("views", "materialize", photos, "--guidance", quality, "--out", tmp_path / "sdi"),
        ("guide", "export", quality, "--out", tmp_path / "b.json"),
    ):
        assert semaug(*words).refuses("is a quality artifact, a guidance artifact is needed"), words
    assert semaug("quality", "report", guidance).refuses("a quality artifact is needed")
    assert semaug("data", "pack", guidance, "--out", tmp_path / "p.zarr").refuses("holds no images")
    assert semaug("eval", "knn", guidance, "--train", other, "--test", other).refuses("semaug pretrain")
    assert not any((tmp_path / name).exists() for name in ("run", "s.png", "sdi", "b.json", "p.zarr"))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 kB, mounted where that is allowed."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(place)]
    if mount is None or os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no tmpfs can be mounted here, so that a full disk cannot be tried")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_one_line_and_the_rerun_goes_on(semaug, small_disk, tmp_path):
    images = write_image_folder(tmp_path / "images", 40, side=96)
    guidance, ballast = tmp_path / "g.zarr", small_disk / "ballast"
    assert semaug("guide", "extract", images, "--out", guidance, "--granularity", "object").code == 0
    out = small_disk / "out"
    assert semaug("data", "pack", images, "--out", out, "--format", "raw").refuses("needs about", "free")
    for words in (
        ("data", "pack", images, "--out", out, "--size", "24", "--format", "raw", "--shard-size", "8"),
        ("guide", "extract", images, "--out", out, "--granularity", "object", "--shard-size", "2"),
        ("views", "materialize", images, "--guidance", guidance, "--out", out, "--no-overlays", "--shard-size", "4"),
        ("pretrain", "simclr", images, "--out", out, *TINY),
    ):
        shutil.rmtree(out, ignore_errors=True)
        free = os.statvfs(small_disk)
        ballast.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - 24 * 1024)))
        done = semaug(*words)
        assert done.refuses("free"), (words, done.err)
        assert not list(small_disk.rglob("*.partial"))
        ballast.unlink()
        shutil.move(out, elsewhere := tmp_path / "moved") if out.exists() else None
        assert semaug(*(elsewhere if word is out else word for word in words)).code == 0, words
        assert is_whole(semaug, elsewhere)
        shutil.rmtree(elsewhere)
