import os
import pickle
import unicodedata

import numpy as np
import pytest
from PIL import Image

from semaug.artifacts.errors import SourceError, UnreadableImage
from semaug.artifacts.sources import ArraySource, ImageSource, files, labels_of, open_source
from semaug.artifacts.sources.base import content_hash, fingerprint_of
from semaug.artifacts.sources.files import FileSource
from semaug.artifacts.testing import ramp, write_image_folder


def save(path, shape=(4, 5)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ramp(*shape)).save(path)


def keys(source):
    return [source.key(i) for i in range(len(source))]


def test_class_folders(tmp_path):
    source = open_source(write_image_folder(tmp_path / "set", 6))
    assert isinstance(source, ImageSource)
    assert source.class_names == ("cat", "dog")
    assert keys(source)[:2] == ["cat/image000.png", "cat/image002.png"]
    assert labels_of(source).tolist() == [0, 0, 0, 1, 1, 1]
    assert source.read(0).shape[2] == 3


def test_flat_folder_has_no_labels(tmp_path):
    source = open_source(write_image_folder(tmp_path, 3, ()))
    assert source.class_names == ()
    assert source.label(0) is None


def test_images_at_the_root_of_class_folders_have_no_label(tmp_path):
    save(tmp_path / "stray.png")
    save(tmp_path / "cat" / "a.png")
    source = open_source(tmp_path)
    assert keys(source) == ["cat/a.png", "stray.png"]
    assert [source.label(0), source.label(1)] == [0, None]
    assert labels_of(source).tolist() == [0, -1]


def test_deeper_folders_belong_to_their_class(tmp_path):
    save(tmp_path / "cat" / "black" / "old" / "a.png")
    save(tmp_path / "dog" / "b.png")
    source = open_source(tmp_path)
    assert source.class_names == ("cat", "dog")
    assert keys(source)[0] == "cat/black/old/a.png"


def test_keys_are_nfc_and_names_may_hold_anything(tmp_path):
    decomposed = unicodedata.normalize("NFD", "été/caf\u00e9 写真 .PNG")
    save(tmp_path / decomposed)
    source = open_source(tmp_path)
    assert source.key(0) == unicodedata.normalize("NFC", decomposed)
    assert source.read(0).shape == (4, 5, 3)


def test_two_names_with_one_key_are_refused_naming_both(tmp_path):
    names = [unicodedata.normalize(form, "caf\u00e9.png") for form in ("NFC", "NFD")]
    for name in names:
        save(tmp_path / name)
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this file system normalises names itself")
    with pytest.raises(SourceError) as caught:
        open_source(tmp_path)
    assert all(ascii(name) in str(caught.value) for name in names)


def test_hidden_and_other_files_are_left_out(tmp_path):
    for name in ("a.png", ".b.png", ".cache/c.png"):
        save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    assert keys(open_source(tmp_path)) == ["a.png"]


def test_link_loops_end(tmp_path):
    save(tmp_path / "set" / "cat" / "a.png")
    (tmp_path / "set" / "cat" / "up").symlink_to(tmp_path / "set", target_is_directory=True)
    (tmp_path / "set" / "self").symlink_to("self")
    assert keys(open_source(tmp_path / "set")) == ["cat/a.png"]


def test_linked_folders_and_broken_links(tmp_path):
    save(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "set" / "gone.png").symlink_to("nowhere.png")
    source = open_source(tmp_path / "set")
    assert keys(source) == ["cat/a.png", "gone.png"]
    with pytest.raises(UnreadableImage, match="cannot be opened"):
        source.read(1)
    assert len(source.fingerprint) == 32


def test_an_image_that_goes_away_after_it_was_hashed_ends_the_step(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    for source in (open_source(tmp_path), pickle.loads(pickle.dumps(open_source(tmp_path)))):
        assert len(source.fingerprint) == 32
        with pytest.raises(UnreadableImage, match="cannot be opened"):  # as it was when it was listed
            source.read(1)
        os.rename(tmp_path / "a.png", tmp_path / "aside")
        with pytest.raises(SourceError, match=r"put it back and run the same command again"):
            pickle.loads(pickle.dumps(source)).read(0)
        os.rename(tmp_path / "aside", tmp_path / "a.png")
        assert source.read(0).ndim == 3


@pytest.mark.parametrize(("make", "message"), [
    (lambda p: p.mkdir(), "holds no images"),
    (lambda p: p.write_text("x"), "no known kind"),
    (lambda p: None, "does not exist"),
])  # fmt: skip
def test_what_is_no_folder_of_images(tmp_path, make, message):
    make(tmp_path / "set")
    with pytest.raises(SourceError, match=message):
        open_source(tmp_path / "set")


def test_a_name_that_is_not_unicode_is_refused(tmp_path):
    try:
        os.mkdir(os.fsencode(tmp_path) + b"/c\xff")
        with open(os.fsencode(tmp_path) + b"/c\xff/a.png", "wb") as file:
            file.write(b"x")
    except OSError:
        pytest.skip("this file system holds Unicode names only")
    with pytest.raises(SourceError, match="not valid UTF-8"):
        open_source(tmp_path)


def test_fingerprint_is_of_keys_and_contents(tmp_path):
    first = open_source(write_image_folder(tmp_path / "a", 4))
    again = open_source(write_image_folder(tmp_path / "b", 4))
    assert first.fingerprint == again.fingerprint
    by_hand = fingerprint_of((k, content_hash((tmp_path / "a" / k).read_bytes())) for k in keys(first))
    assert first.fingerprint == by_hand
    (tmp_path / "b" / "cat" / "image000.png").rename(tmp_path / "b" / "cat" / "renamed.png")
    assert open_source(tmp_path / "b").fingerprint != first.fingerprint
    (tmp_path / "a" / "cat" / "image000.png").write_bytes(b"other")
    assert open_source(tmp_path / "a").fingerprint != first.fingerprint


def test_spec_opens_again_from_another_folder(tmp_path, monkeypatch):
    write_image_folder(tmp_path / "set", 3)
    monkeypatch.chdir(tmp_path)
    source = open_source("set")
    monkeypatch.chdir("/")
    assert open_source(source.spec).fingerprint == source.fingerprint
    assert pickle.loads(pickle.dumps(source)).key(2) == source.key(2)


def test_array_source():
    images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    source = ArraySource(images, labels=[1, -1], class_names=("a", "b"))
    assert open_source(source.spec) is source
    assert [source.label(0), source.label(1)] == [1, None]
    source.read(0)[:] = 0
    assert np.array_equal(source.read(0), images[0])
    assert pickle.loads(pickle.dumps(source)).fingerprint == source.fingerprint


@pytest.mark.parametrize(("arguments", "message"), [
    ({"images": [np.zeros((4, 4), np.uint8)]}, r"shape \(4, 4\)"),
    ({"images": [np.zeros((4, 4, 3))]}, "float64"),
    ({"images": np.zeros((2, 4, 4, 3), np.uint8), "keys": ["a"]}, "1 keys for 2 images"),
    ({"images": np.zeros((2, 4, 4, 3), np.uint8), "keys": ["a", "a"]}, "same key"),
    ({"images": np.zeros((1, 4, 4, 3), np.uint8), "labels": [3], "class_names": ("a",)}, "label 3"),
])  # fmt: skip
def test_array_source_checks_itself(arguments, message):
    with pytest.raises(SourceError, match=message):
        ArraySource(**arguments)


def test_an_array_of_another_process_is_refused():
    with pytest.raises(SourceError, match="another process"):
        open_source("array:0123")


def test_one_process_reads_a_settled_folder_once_and_sees_every_change(tmp_path, monkeypatch) -> None:
    for name in ("a.png", "b.png"):
        save(tmp_path / name)
        os.utime(tmp_path / name, (1_000_000_000, 1_000_000_000))
    monkeypatch.setattr(files, "_SETTLED", -(10**18))  # the time of the last change of state cannot be set back
    first = open_source(tmp_path).fingerprint
    monkeypatch.setattr(FileSource, "content_hash", lambda *_: pytest.fail("read again"))
    assert open_source(tmp_path).fingerprint == first
    monkeypatch.undo()
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[-1] ^= 1  # as long as before, and as old
    (tmp_path / "a.png").write_bytes(data)
    os.utime(tmp_path / "a.png", (1_000_000_000, 1_000_000_000))
    changed = open_source(tmp_path).fingerprint  # just written, so its times are not trusted
    assert changed != first
    monkeypatch.setattr(files, "_SETTLED", -(10**18))
    assert open_source(tmp_path).fingerprint == changed
    (tmp_path / "b.png").rename(tmp_path / "c.png")
    assert open_source(tmp_path).fingerprint not in (first, changed)
