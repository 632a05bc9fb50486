"""Named data sets from fabricated files of their documented layouts."""

import csv
import io
import pickle
import struct
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from semaug.artifacts.decode import encode_png
from semaug.artifacts.describe import describe
from semaug.artifacts.errors import SourceError
from semaug.artifacts.sources import labels_of, open_source
from semaug.artifacts.sources.named import NAMED_SETS, train_and_test
from semaug.artifacts.sources.named.imagenet import imagenet100_classes
from semaug.artifacts.sources.named.lists import flower_names
from semaug.artifacts.testing import ramp

rng = np.random.default_rng(0)


def image(path: Path, side: int = 6) -> Path:
    """An image file of its own pixels; readers go by content, so PNG bytes may be called .jpg."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(rng.integers(0, 256, (side, side + 1, 3), dtype=np.uint8)))
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def keys(source):
    return [source.key(i) for i in range(len(source))]


def pixels(count: int, size: int) -> np.ndarray:
    return rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def cifar_rows(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


class PickledByPython2(pickle._Pickler):  # type: ignore[name-defined]  # the one in Python, whose parts can be replaced
    """Writes texts and bytes alike as Python 2 wrote its strings, which is how CIFAR's files hold them."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_string(self, value: str | bytes) -> None:
        data = value if isinstance(value, bytes) else value.encode()
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string


def python2_pickle(content: dict) -> bytes:
    file = io.BytesIO()
    PickledByPython2(file, protocol=2).dump(content)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def write_cifar10_python(root: Path, images: np.ndarray, labels: list[int]) -> None:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    parts = [(f"data_batch_{i + 1}", slice(2 * i, 2 * i + 2)) for i in range(5)] + [("test_batch", slice(10, 13))]
    for name, rows in parts:
        (folder / name).write_bytes(python2_pickle({"data": cifar_rows(images[rows]), "labels": labels[rows]}))
    names = ["airplane", "automobile", "bird"]
    (folder / "batches.meta").write_bytes(python2_pickle({"label_names": names}))


def write_cifar10_binary(root: Path, images: np.ndarray, labels: list[int]) -> None:
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    records = np.concatenate([np.array(labels, np.uint8)[:, None], cifar_rows(images)], 1)
    for i in range(5):
        records[2 * i : 2 * i + 2].tofile(folder / f"data_batch_{i + 1}.bin")
    records[10:].tofile(folder / "test_batch.bin")
    text(folder / "batches.meta.txt", "airplane\nautomobile\nbird\n\n")


@pytest.mark.parametrize("write", [write_cifar10_python, write_cifar10_binary])
def test_cifar10(tmp_path, write):
    images, labels = pixels(13, 32), [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 2]
    write(tmp_path, images, labels)
    train = open_source(f"cifar10:train?root={tmp_path}")
    test = open_source(f"cifar10:test?root={tmp_path}/{'cifar-10-batches-py' if write is write_cifar10_python else ''}")
    assert train.class_names == ("airplane", "automobile", "bird")
    assert (len(train), len(test), train.key(3), test.key(0)) == (10, 3, "train/000003", "test/000000")
    assert labels_of(train).tolist() == labels[:10]
    assert labels_of(test).tolist() == labels[10:]
    assert np.array_equal(train.read(7), images[7])
    assert np.array_equal(test.read(2), images[12])
    assert open_source(train.spec).fingerprint == train.fingerprint
    assert pickle.loads(pickle.dumps(train)).fingerprint == train.fingerprint


def test_the_two_versions_of_cifar10_are_one_set(tmp_path):
    images, labels = pixels(13, 32), [0, 1, 2] * 4 + [0]
    write_cifar10_python(tmp_path / "py", images, labels)
    write_cifar10_binary(tmp_path / "bin", images, labels)
    found = [open_source(f"cifar10:train?root={tmp_path / kind}").fingerprint for kind in ("py", "bin")]
    assert found[0] == found[1]


def test_torchvision_reads_the_same_cifar10(tmp_path, monkeypatch):
    datasets = pytest.importorskip("torchvision.datasets")
    images, labels = pixels(13, 32), [0, 1, 2] * 4 + [0]
    write_cifar10_python(tmp_path, images, labels)
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(datasets.cifar, "check_integrity", lambda *a: True)
    for split in ("train", "test"):
        theirs = open_source(f"torchvision:CIFAR10?root={tmp_path}&split={split}")
        ours = open_source(f"cifar10:{split}?root={tmp_path}")
        assert ours.fingerprint == theirs.fingerprint
        assert labels_of(ours).tolist() == labels_of(theirs).tolist()
        assert ours.class_names == theirs.class_names


@pytest.mark.parametrize("binary", [False, True])
def test_cifar100_has_its_fine_classes(tmp_path, binary):
    images, fine, coarse = pixels(3, 32), [0, 2, 1], [1, 1, 0]
    names = ["apple", "aquarium_fish", "baby"]
    if binary:
        folder = tmp_path / "cifar-100-binary"
        folder.mkdir()
        both = np.stack([coarse, fine], 1).astype(np.uint8)
        np.concatenate([both, cifar_rows(images)], 1).tofile(folder / "test.bin")
        text(folder / "fine_label_names.txt", "\n".join(names))
    else:
        folder = tmp_path / "cifar-100-python"
        folder.mkdir()
        content = {b"data": cifar_rows(images), b"fine_labels": fine, b"coarse_labels": coarse}
        (folder / "test").write_bytes(pickle.dumps(content))
        (folder / "meta").write_bytes(pickle.dumps({b"fine_label_names": [n.encode() for n in names]}))
    source = open_source(f"cifar100:test?root={tmp_path}")
    assert (source.class_names, labels_of(source).tolist()) == (tuple(names), fine)
    assert np.array_equal(source.read(1), images[1])


class Attack:
    def __reduce__(self):
        return exec, ("raise SystemExit('this ran')",)


def test_a_pickle_that_could_run_code_does_not(tmp_path):
    write_cifar10_python(tmp_path, pixels(13, 32), [0] * 13)
    (tmp_path / "cifar-10-batches-py" / "data_batch_2").write_bytes(pickle.dumps(Attack()))
    with pytest.raises(SourceError, match=r"data_batch_2 is not one of CIFAR's files .*exec, which could run code"):
        open_source(f"cifar10:train?root={tmp_path}")


def write_stl10(root: Path, images: np.ndarray, labels: list[int]) -> Path:
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    images.transpose(0, 3, 2, 1).tofile(folder / "train_X.bin")
    images.transpose(0, 3, 2, 1).tofile(folder / "unlabeled_X.bin")
    np.array(labels, np.uint8).tofile(folder / "train_y.bin")
    text(folder / "class_names.txt", "airplane\nbird\ncar\n")
    return folder


def test_stl10(tmp_path):
    images = pixels(4, 96)
    write_stl10(tmp_path, images, [1, 3, 2, 1])
    source, bare = (open_source(f"stl10:{split}?root={tmp_path}") for split in ("train", "unlabeled"))
    assert (source.class_names, labels_of(source).tolist()) == (("airplane", "bird", "car"), [0, 2, 1, 0])
    assert np.array_equal(source.read(2), images[2])
    assert (bare.class_names, labels_of(bare).tolist(), bare.key(1)) == ((), [-1] * 4, "unlabeled/000001")
    assert np.array_equal(pickle.loads(pickle.dumps(bare)).read(3), images[3])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "compressed"])
@pytest.mark.parametrize(("size", "stem"), [(28, "pathmnist"), (64, "pathmnist_64")])
def test_pathmnist(tmp_path, save, size, stem):
    images, labels = pixels(5, size), np.array([[0], [8], [3], [1], [5]], np.uint8)
    save(tmp_path / f"{stem}.npz", train_images=images, train_labels=labels)
    spec = f"pathmnist:train?root={tmp_path}" + (f"&size={size}" if size != 28 else "")
    source = open_source(spec)
    assert (len(source.class_names), labels_of(source).tolist()) == (9, [0, 8, 3, 1, 5])
    assert source.class_names[source.label(1)] == "colorectal adenocarcinoma epithelium"
    assert all(np.array_equal(source.read(i), images[i]) for i in range(5))
    assert pickle.loads(pickle.dumps(source)).fingerprint == source.fingerprint


def test_pathmnist_through_a_map_and_unpacked(tmp_path, monkeypatch):
    images, labels = pixels(5, 28), np.zeros((5, 1), np.uint8)
    np.savez(tmp_path / "pathmnist.npz", test_images=images, test_labels=labels)
    source = open_source(f"pathmnist:test?root={tmp_path}")
    assert isinstance(source._images, np.memmap)
    fingerprint = source.fingerprint
    np.savez_compressed(tmp_path / "pathmnist.npz", test_images=images, test_labels=labels)
    monkeypatch.setattr("semaug.artifacts.sources.named.arrays.UNPACKED_LIMIT", 1000)
    with pytest.raises(SourceError, match=r"unpacks to 0.0 GB; unpack it once: python -m zipfile -e .*pathmnist.npz"):
        open_source(f"pathmnist:test?root={tmp_path}")
    (tmp_path / "pathmnist.npz").unlink()
    (tmp_path / "pathmnist").mkdir()
    np.save(tmp_path / "pathmnist" / "test_images.npy", images)
    np.save(tmp_path / "pathmnist" / "test_labels.npy", labels)
    assert open_source(f"pathmnist:test?root={tmp_path}").fingerprint == fingerprint


def test_dtd(tmp_path):
    lists = {"train1": ["banded/banded_1.jpg"], "val1": ["woven/woven_2.jpg"], "test1": ["woven/woven_3.jpg"]}
    for name, rows in lists.items():
        text(tmp_path / "dtd" / "labels" / f"{name}.txt", "\n".join(rows) + "\n")
        for row in rows:
            image(tmp_path / "dtd" / "images" / row)
    source = open_source(f"dtd:trainval?root={tmp_path}")
    assert keys(source) == ["banded/banded_1.jpg", "woven/woven_2.jpg"]
    assert (source.class_names, labels_of(source).tolist()) == (("banded", "woven"), [0, 1])
    assert keys(open_source(f"dtd:test?root={tmp_path / 'dtd'}&partition=1")) == ["woven/woven_3.jpg"]
    with pytest.raises(SourceError, match="partition=11; DTD has partitions 1 to 10"):
        open_source(f"dtd:test?root={tmp_path}&partition=11")
    with pytest.raises(SourceError, match=r"test2.txt is missing; expected in .*: dtd with images"):
        open_source(f"dtd:test?root={tmp_path}&partition=2")


def test_flowers102(tmp_path):
    mat = pytest.importorskip("scipy.io")
    folder = tmp_path / "flowers-102"
    for i in range(1, 6):
        image(folder / "jpg" / f"image_{i:05d}.jpg")
    mat.savemat(folder / "imagelabels.mat", {"labels": np.array([[77, 1, 102, 77, 3]], np.uint8)})
    mat.savemat(folder / "setid.mat", {"trnid": [[2, 4]], "valid": [[1]], "tstid": [[5, 3]]})
    source = open_source(f"flowers102:trainval?root={tmp_path}")
    assert keys(source) == ["image_00002.jpg", "image_00004.jpg", "image_00001.jpg"]
    assert [source.class_names[source.label(i)] for i in range(3)] == ["pink primrose", *["passion flower"] * 2]
    assert len(set(flower_names())) == 102
    assert labels_of(open_source(f"flowers102:test?root={tmp_path}")).tolist() == [2, 101]
    mat.savemat(folder / "imagelabels.mat", {"labels": np.array([[77, 1]], np.uint8)})
    with pytest.raises(SourceError, match=r"do not fit together"):
        open_source(f"flowers102:test?root={tmp_path}")
    (folder / "setid.mat").write_bytes(b"nonsense")
    with pytest.raises(SourceError, match=r"setid.mat is not a MATLAB file"):
        open_source(f"flowers102:test?root={tmp_path}")


def test_pets(tmp_path):
    folder = tmp_path / "oxford-iiit-pet"
    rows = "Abyssinian_100 1 1 1\namerican_bulldog_7 2 2 1\n"
    text(folder / "annotations" / "trainval.txt", "#Image CLASS-ID SPECIES BREED ID\n" + rows)
    for name in ("Abyssinian_100", "american_bulldog_7"):
        image(folder / "images" / f"{name}.jpg")
    source = open_source(f"pets?root={tmp_path}")
    assert source.class_names == ("Abyssinian", "American Bulldog")
    assert (keys(source), labels_of(source).tolist()) == (["Abyssinian_100.jpg", "american_bulldog_7.jpg"], [0, 1])
    text(folder / "annotations" / "test.txt", "Abyssinian_100 first\n")
    with pytest.raises(SourceError, match="has the line 'Abyssinian_100 first', not a name and a class number"):
        open_source(f"pets:test?root={tmp_path}")


def test_food101(tmp_path):
    folder = tmp_path / "food-101"
    text(folder / "meta" / "classes.txt", "apple_pie\nwaffles\n")
    text(folder / "meta" / "test.txt", "waffles/12\napple_pie/34\n")
    for name in ("waffles/12", "apple_pie/34"):
        image(folder / "images" / f"{name}.jpg")
    source = open_source(f"food101:test?root={tmp_path}")
    assert keys(source) == ["waffles/12.jpg", "apple_pie/34.jpg"]
    assert (source.class_names, labels_of(source).tolist()) == (("apple_pie", "waffles"), [1, 0])
    text(folder / "meta" / "test.txt", "ramen/12\n")
    with pytest.raises(SourceError, match=r"lists 'ramen/12', whose class is not in meta/classes.txt"):
        open_source(f"food101:test?root={tmp_path}")


@pytest.mark.parametrize("count", [1, 3])
def test_cars(tmp_path, count):
    mat = pytest.importorskip("scipy.io")
    folder = tmp_path / "stanford_cars"
    fields = [("bbox_x1", "O"), ("class", "O"), ("fname", "O")]
    rows = np.array([(1, 1 + i % 2, f"{i + 1:05d}.jpg") for i in range(count)], fields)
    (folder / "devkit").mkdir(parents=True)
    mat.savemat(folder / "devkit" / "cars_train_annos.mat", {"annotations": rows[None]})
    mat.savemat(folder / "cars_test_annos_withlabels.mat", {"annotations": rows[None]})
    names = np.array([["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]], object)
    mat.savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})
    for i in range(count):
        image(folder / "cars_train" / f"{i + 1:05d}.jpg")
    source = open_source(f"cars:train?root={tmp_path}")
    assert source.class_names == ("AM General Hummer SUV 2000", "Acura RL Sedan 2012")
    assert labels_of(source).tolist() == [i % 2 for i in range(count)]
    assert keys(source) == [f"{i + 1:05d}.jpg" for i in range(count)]
    with pytest.raises(SourceError, match="cars_test is missing"):
        open_source(f"cars:test?root={tmp_path}")


def write_aptos(root: Path, grades: list[int]) -> None:
    with open(root / "train.csv", "w", newline="") as file:
        csv.writer(file).writerows([("id_code", "diagnosis"), *((f"id{i:03d}", g) for i, g in enumerate(grades))])
    for i in range(len(grades)):
        image(root / "train_images" / f"id{i:03d}.png", side=3)


def test_aptos2019_holds_a_fifth_of_each_grade_out(tmp_path):
    grades = [0] * 20 + [1] * 10 + [4] * 5 + [2]
    write_aptos(tmp_path, grades)
    train, test, whole = (open_source(f"aptos2019:{split}?root={tmp_path}") for split in ("train", "test", "all"))
    assert np.bincount(labels_of(test), minlength=5).tolist() == [4, 2, 0, 0, 1]
    assert np.bincount(labels_of(train), minlength=5).tolist() == [16, 8, 1, 0, 4]
    assert sorted(keys(train) + keys(test)) == keys(whole)
    assert train.class_names == ("No DR", "Mild", "Moderate", "Severe", "Proliferative DR")
    again = open_source(f"aptos2019:test?root={tmp_path}&seed=0")
    assert keys(again) == keys(test)
    assert keys(open_source(f"aptos2019:test?root={tmp_path}&seed=1")) != keys(test)
    text(tmp_path / "train.csv", "id_code,diagnosis\na,7\n")
    with pytest.raises(SourceError, match="gives 'a' the diagnosis '7', not 0 to 4"):
        open_source(f"aptos2019:test?root={tmp_path}")


def write_class_folders(folder: Path, classes: list[str], count: int) -> None:
    for name in classes:
        for i in range(count):
            image(folder / name / f"{name}_{i}.JPEG", side=3)


def test_imagenet100_is_the_list_whatever_else_is_there(tmp_path):
    classes = imagenet100_classes()
    assert (len(classes), classes[0], classes[-1]) == (100, "n01558993", "n13040303")
    write_class_folders(tmp_path / "val", [*classes, "n01440764", "n99999999"], 1)
    source = open_source(f"imagenet100:val?root={tmp_path}")
    assert source.class_names == classes
    assert (len(source), source.key(0)) == (100, "n01558993/n01558993_0.JPEG")
    with pytest.raises(SourceError, match="has no split 'test'; it has train, val"):
        open_source(f"imagenet100:test?root={tmp_path}")


def test_imagenet100_by_another_list(tmp_path):
    write_class_folders(tmp_path / "train", ["n01440764", "n02102040", "n99999999"], 2)
    chosen = text(tmp_path / "classes.txt", "n02102040\nn01440764\n")
    source = open_source(f"imagenet100:train?root={tmp_path}&classes={chosen}")
    assert (source.class_names, len(source)) == (("n01440764", "n02102040"), 4)
    with pytest.raises(SourceError, match="has 0 of the 100 classes and not n01558993; give another list of classes"):
        open_source(f"imagenet100:train?root={tmp_path}")


def test_a_full_set_of_class_folders_fits_guidance_of_its_folder(tmp_path):
    write_class_folders(tmp_path / "imagenette2-160" / "train", ["n01440764", "n02102040"], 2)
    source = open_source(f"imagenette:train?root={tmp_path}")
    assert source.fingerprint == open_source(tmp_path / "imagenette2-160" / "train").fingerprint
    write_class_folders(tmp_path / "train", ["n01440764"], 2)
    assert open_source(f"imagenet:train?root={tmp_path}").class_names == ("n01440764",)


def test_imagenet50k_draws_as_many_of_each_class(tmp_path):
    classes = ["n01440764", "n02102040"]
    write_class_folders(tmp_path / "train", classes, 12)
    spec = f"imagenet50k:train?root={tmp_path}&per_class=5"
    source = open_source(spec)
    assert np.bincount(labels_of(source)).tolist() == [5, 5]
    assert keys(open_source(spec + "&seed=0")) == keys(source) == sorted(keys(source))
    assert keys(open_source(spec + "&seed=1")) != keys(source)
    with pytest.raises(SourceError, match="n01440764 has 12 images for per_class=50; lower it"):
        open_source(f"imagenet50k:train?root={tmp_path}")


def test_imagenet50k_of_images_with_boxes(tmp_path):
    write_class_folders(tmp_path / "train", ["n01440764"], 12)
    boxed = [f"n01440764_{i}" for i in (1, 4, 7)]
    for stem in boxed:
        text(tmp_path / "boxes" / "n01440764" / f"{stem}.xml", "<annotation/>")
    spec = f"imagenet50k:train?root={tmp_path}&boxes={tmp_path / 'boxes'}&per_class="
    assert keys(open_source(spec + "3")) == [f"n01440764/{stem}.JPEG" for stem in boxed]
    with pytest.raises(SourceError, match="has 3 images with a box annotation for per_class=4"):
        open_source(spec + "4")


def test_sketch1k(tmp_path):
    write_class_folders(tmp_path / "sketch", ["n01440764", "n02102040"], 10)
    train, test, whole = (open_source(f"sketch1k:{split}?root={tmp_path}") for split in ("train", "test", "all"))
    assert (len(train), np.bincount(labels_of(test)).tolist(), len(whole)) == (16, [2, 2], 20)
    assert sorted(keys(train) + keys(test)) == keys(whole)
    assert all(key.startswith(test.class_names[test.label(i)]) for i, key in enumerate(keys(test)))


def write_tiny_imagenet(root: Path) -> Path:
    folder = root / "tiny-imagenet-200"
    text(folder / "wnids.txt", "n02124075\nn01443537\n")
    for name in ("n02124075", "n01443537"):
        image(folder / "train" / name / "images" / f"{name}_0.JPEG")
        text(folder / "train" / name / f"{name}_boxes.txt", f"{name}_0.JPEG\t0\t0\t3\t3\n")
    for i in range(2):
        image(folder / "val" / "images" / f"val_{i}.JPEG")
    image(folder / "test" / "images" / "test_0.JPEG")
    rows = "val_0.JPEG\tn02124075\t0\t32\t44\t62\nval_1.JPEG\tn01443537\t52\t55\t57\t59\n"
    text(folder / "val" / "val_annotations.txt", rows)
    return folder


def test_tiny_imagenet(tmp_path):
    folder = write_tiny_imagenet(tmp_path)
    train, val, test = (open_source(f"tiny-imagenet:{split}?root={tmp_path}") for split in ("train", "val", "test"))
    assert train.class_names == val.class_names == ("n01443537", "n02124075")
    assert keys(train)[0] == "train/n01443537/images/n01443537_0.JPEG"
    assert (keys(val), labels_of(val).tolist()) == (["val/images/val_0.JPEG", "val/images/val_1.JPEG"], [1, 0])
    assert (labels_of(test).tolist(), test.class_names) == ([-1], ())
    text(folder / "val" / "val_annotations.txt", "val_0.JPEG\tn00000000\n")
    with pytest.raises(SourceError, match=r"not a file and one of the classes of wnids.txt"):
        open_source(f"tiny-imagenet:val?root={tmp_path}")


def test_data_info_works_on_them(tmp_path):
    write_tiny_imagenet(tmp_path)
    found = describe(f"tiny-imagenet:val?root={tmp_path}")
    assert (found["items"], found["classes"], found["images_per_class"]) == (2, 2, [1, 1])
    assert found["spec"] == f"tiny-imagenet:val?root={tmp_path}"


@pytest.mark.parametrize("name", NAMED_SETS)
def test_an_empty_root_is_one_line_with_the_layout(tmp_path, name):
    with pytest.raises(SourceError) as caught:
        open_source(f"{name}?root={tmp_path}")
    assert NAMED_SETS[name].layout in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(SourceError, match="needs root=FOLDER, a folder with"):
        open_source(name)
    with pytest.raises(SourceError, match="is not a folder; give the one with"):
        open_source(f"{name}?root={tmp_path / 'gone'}")
    with pytest.raises(SourceError, match="has no split 'nonsense'"):
        open_source(f"{name}:nonsense?root={tmp_path}")
    with pytest.raises(SourceError, match="unknown option 'rot'; did you mean 'root'"):
        open_source(f"{name}?rot={tmp_path}")


def test_broken_files_are_one_line(tmp_path):
    folder = write_stl10(tmp_path, pixels(2, 96), [1, 2, 3])
    with pytest.raises(SourceError, match="has 2 images and 3 labels"):
        open_source(f"stl10?root={tmp_path}")
    (folder / "train_X.bin").write_bytes(b"12345")
    with pytest.raises(SourceError, match=r"train_X.bin has 5 bytes, not a multiple of the 27648 of one image"):
        open_source(f"stl10?root={tmp_path}")
    (tmp_path / "pathmnist.npz").write_bytes(b"nonsense")
    with pytest.raises(SourceError, match=r"pathmnist.npz has no readable train_images"):
        open_source(f"pathmnist?root={tmp_path}")
    np.savez(tmp_path / "pathmnist.npz", train_images=pixels(2, 14), train_labels=np.zeros((2, 1), np.uint8))
    with pytest.raises(SourceError, match=r"holds train_images uint8 \(2, 14, 14, 3\), not 28 px RGB"):
        open_source(f"pathmnist?root={tmp_path}")
    np.savez(tmp_path / "pathmnist.npz", train_images=pixels(2, 28), train_labels=np.full((2, 1), 9, np.uint8))
    with pytest.raises(SourceError, match="has label 9 and 9 class names"):
        open_source(f"pathmnist?root={tmp_path}")
    with pytest.raises(SourceError, match="size=32; PathMNIST comes in 28, 64, 128, 224"):
        open_source(f"pathmnist?root={tmp_path}&size=32")
    binary = tmp_path / "cifar-10-batches-bin"
    binary.mkdir()
    (binary / "data_batch_1.bin").write_bytes(b"1" * 100)
    with pytest.raises(SourceError, match=r"data_batch_1.bin has 100 bytes, not whole records of 3073"):
        open_source(f"cifar10?root={tmp_path}")


def test_a_folder_wins_over_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image(tmp_path / "cars" / "red" / "a.png")
    assert open_source("cars").class_names == ("red",)
    assert ramp(2, 2).shape == (2, 2, 3)


def test_train_and_test_splits():
    assert train_and_test("pathmnist?root=/d&size=64") == (
        "pathmnist:train?root=/d&size=64",
        "pathmnist:test?root=/d&size=64",
    )
    assert train_and_test("imagenette") == ("imagenette:train", "imagenette:val")
    with pytest.raises(SourceError, match="no data set is called 'cifar'; did you mean 'cifar10'"):
        train_and_test("cifar")
    with pytest.raises(SourceError, match="names the split 'train' and both are used; write dtd"):
        train_and_test("dtd:train")
