"""Panoptic models: transformers' real classes with small random weights, and exported graphs of known outcome."""

from __future__ import annotations

import json
import os
import pickle
import socket
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semaug.artifacts.errors import InvalidOption, MissingDependency, MissingWeights
from semaug.prompt_synthesis import tiny_panoptic_models as tiny
from semaug.prompt_synthesis.ade20k import UNLABELLED, class_names, class_of, coco_panoptic_names, palette, to_classes
from semaug.prompt_synthesis.exported_panoptic import panoptic_map
from semaug.prompt_synthesis.mask_maps import PanopticMap, Segment, open_panoptic, palette_image
from semaug.prompt_synthesis.tiny_language_models import tiny_tokenizer

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
DATA = Path(os.environ.get("SEMAUG_TEST_DATA", Path(__file__).parents[4] / "shared")) / "data" / "coco128"


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("panoptic")
    tiny.save_mask2former(folder / "mask2former")
    tiny.save_oneformer(folder / "oneformer", tiny_tokenizer())
    tiny.save_eomt(folder / "eomt")
    return folder


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a network connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def photographs() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (h, w, 3)).astype(np.uint8) for h, w in ((40, 60), (64, 64), (40, 60), (50, 30))]


ANYTHING = {"threshold": 0.0, "mask_threshold": 0.0, "overlap": 0.0}


@pytest.mark.parametrize("family", ["mask2former", "oneformer", "eomt"])
def test_maps_are_those_of_the_library_and_become_colours(models, family):
    found = open_panoptic(models / family, batch_size=2, **ANYTHING).segment(photographs())
    assert [m.ids.shape for m in found] == [(40, 60), (64, 64), (40, 60), (50, 30)]
    assert {s.label for m in found for s in m.segments} <= set(tiny.LABELS)
    assert sum(len(m.segments) for m in found) > 4
    for image, one in zip(photographs(), found, strict=True):
        expected, labels = bare(models / family, family, image)
        np.testing.assert_array_equal(one.ids, np.where(np.isin(expected, list(labels)), expected, -1))
        assert {s.id: s.label for s in one.segments} == {k: tiny.LABELS[v] for k, v in labels.items()}
        assert palette_image(one).shape == (*one.ids.shape, 3)
        wanted = {class_of(s.label) for s in one.segments} | {UNLABELLED}
        assert set(to_classes(palette_image(one)).ravel()) <= wanted


def bare(folder: Path, family: str, image: np.ndarray) -> tuple[np.ndarray, dict[int, int]]:
    """One image by the library's own classes: its ids, and id -> label number."""
    import transformers as hf

    model = {"mask2former": hf.Mask2FormerForUniversalSegmentation, "eomt": hf.EomtForUniversalSegmentation}.get(
        family, hf.OneFormerForUniversalSegmentation
    )
    network = model.from_pretrained(folder).eval()
    kind = {"mask2former": hf.Mask2FormerImageProcessorPil, "eomt": hf.EomtImageProcessorPil}.get(
        family, hf.OneFormerImageProcessorPil
    )
    images = kind.from_pretrained(folder, **({"class_info_file": None} if family == "oneformer" else {}))
    inputs: dict[str, Any] = (
        {"pixel_values": images([image], return_tensors="pt")["pixel_values"]}
        if (family != "oneformer")
        else dict(
            hf.OneFormerProcessor(images, hf.AutoTokenizer.from_pretrained(folder))(
                [image], ["panoptic"], return_tensors="pt"
            )
        )
    )
    with torch.inference_mode():
        out = network(**inputs)
    fused = {} if family == "eomt" else {"label_ids_to_fuse": set()}
    result = images.post_process_panoptic_segmentation(
        out, threshold=0.0, mask_threshold=0.0, overlap_mask_area_threshold=0.0, target_sizes=[image.shape[:2]], **fused
    )[0]
    return result["segmentation"].numpy().astype(np.int32), {s["id"]: s["label_id"] for s in result["segments_info"]}


def test_a_sure_threshold_finds_nothing_and_gives_black(models):
    panoptic = open_panoptic(models / "mask2former", threshold=1.0)
    found = panoptic.segment(photographs())
    assert all(not m.segments and (m.ids == -1).all() for m in found)
    assert not palette_image(found[0]).any()
    assert panoptic.identity()["thresholds"]["threshold"] == 1.0
    assert str(models) not in json.dumps(panoptic.identity())
    panoptic.close()
    with pytest.raises(ValueError, match="closed"):
        panoptic.segment(photographs())


def test_models_that_give_no_maps_are_one_line(models, tmp_path):
    from transformers import SwinConfig, SwinModel

    config = {k: v for k, v in tiny._SWIN.items() if k != "out_features"}
    SwinModel(SwinConfig(**config)).save_pretrained(tmp_path / "swin")
    with pytest.raises(InvalidOption, match="swin is a swin model, which gives no panoptic maps; use one of mask2"):
        open_panoptic(tmp_path / "swin")
    with pytest.raises(MissingWeights, match="there is no folder"):
        open_panoptic(tmp_path / "absent")
    with pytest.raises(InvalidOption, match="leave out labels and side"):
        open_panoptic(models / "eomt", labels="coco")
    with pytest.raises(InvalidOption, match="threshold is 2"):
        open_panoptic(models / "eomt", threshold=2.0)
    with pytest.raises(InvalidOption, match="batch size is 0"):
        open_panoptic(models / "eomt", batch_size=0)


def test_labels_of_no_known_set_are_refused_unless_mapped(models, tmp_path):
    import shutil

    folder = shutil.copytree(models / "eomt", tmp_path / "own")
    config = json.loads((folder / "config.json").read_text())
    config["id2label"]["0"] = "Kfz"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidOption, match="'Kfz' is neither"):
        open_panoptic(folder)
    panoptic = open_panoptic(folder, more_labels={"Kfz": "car"}, **ANYTHING)
    assert panoptic.segment(photographs()[:1])[0].ids.shape == (40, 60)


COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
NAMES = ["sky", "tree", "person"]


class OfColours(torch.nn.Module):
    """Four queries: red is sky, green tree, blue person, and one that is sure of nothing."""

    def forward(self, images: Any) -> tuple[Any, Any]:
        masks = (images - 127.5) / 10
        scores = 12.0 * torch.eye(4).expand(images.shape[0], 4, 4)
        return scores, torch.cat([masks, masks.amax(1, keepdim=True) + 5], 1)


def save_torchscript(path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(OfColours(), torch.zeros(2, 3, 8, 8)).save(str(path))
    return path


def save_onnx(path: Path, batch: int | str = "batch", side: int | str = "side") -> Path:
    """The same graph, written node by node."""
    from onnx import TensorProto, checker, helper, numpy_helper, save

    weights = np.zeros((4, 3, 1, 1), np.float32)
    weights[[0, 1, 2], [0, 1, 2]] = 0.1
    constants = {
        "w": weights,
        "b": np.array([-12.75, -12.75, -12.75, -30], np.float32),
        "zero": np.zeros((16, 3, 1, 1), np.float32),
        "scores_flat": 12 * np.eye(4, dtype=np.float32).ravel(),
        "shape": np.array([0, 4, 4], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["images", "w", "b"], ["masks"]),
        helper.make_node("GlobalAveragePool", ["images"], ["mean"]),
        helper.make_node("Conv", ["mean", "zero", "scores_flat"], ["flat"]),
        helper.make_node("Reshape", ["flat", "shape"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "of-colours",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, side, side])],
        [
            helper.make_tensor_value_info("masks", TensorProto.FLOAT, [batch, 4, side, side]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 4, 4]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    save(model, path)
    return path


def striped(order: list[int], height: int = 30, width: int = 60) -> np.ndarray:
    """Vertical stripes of equal width in these colours."""
    return np.repeat(COLOURS[order], width // len(order), 0)[None].repeat(height, 0)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(NAMES))
    return path


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_exported_models_find_the_colours_they_look_for(kind, fixed, tmp_path, labels):
    if kind == "onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
        path = save_onnx(tmp_path / "m.onnx", *((2, 60) if fixed else ()))
    else:
        path = save_torchscript(tmp_path / "m.pt")
    panoptic = open_panoptic(path, labels=labels, side=None if fixed else 60, batch_size=3)
    orders = [[0, 1, 2], [2, 0], [1]]
    found = panoptic.segment([striped(order) for order in orders])
    for order, one in zip(orders, found, strict=True):
        stripes = np.repeat([class_of(NAMES[i]) for i in order], 60 // len(order))
        classes = one.classes()
        assert (classes == stripes).mean() > 0.95  # a pixel at a border is shared by its neighbours
        for column in range(0, 60, 60 // len(order)):
            inner = slice(column + 2, column + 60 // len(order) - 2)
            np.testing.assert_array_equal(classes[:, inner], np.broadcast_to(stripes[inner], classes[:, inner].shape))
        assert sorted(s.label for s in one.segments) == sorted(NAMES[i] for i in order)
    assert panoptic.identity()["labels"] == NAMES


def test_a_query_that_others_cover_is_dropped_and_uncertain_ones_are_not_counted():
    masks = np.full((3, 8, 8), -20, np.float32)
    masks[0, :, :] = 20
    masks[1, :, :4] = 20
    masks[2, :2, :2] = 20
    scores = np.zeros((3, 3), np.float32)
    scores[0, 0], scores[1, 1], scores[2, 0] = 6, 9, 0.3
    found = panoptic_map(scores, masks, (8, 8), ["wall", "sky"], 0.8, 0.5, 0.4)
    expected = np.full((8, 8), class_of("wall"))
    expected[:, :4] = class_of("sky")
    np.testing.assert_array_equal(found.classes(), expected)
    strict = panoptic_map(scores, masks, (8, 8), ["wall", "sky"], 0.8, 0.5, 0.6)
    assert [s.label for s in strict.segments] == ["sky"]
    np.testing.assert_array_equal(strict.classes()[:, 4:], UNLABELLED)


def test_pickles_and_what_is_no_export_are_refused(tmp_path, labels):
    pickled, zipped, bare_pickle = tmp_path / "a.pt", tmp_path / "b.pt", tmp_path / "c.pt"
    torch.save({"weight": torch.zeros(2)}, pickled)
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("x/code/a.py", "")
        archive.writestr("x/constants.pkl", b"torn")

    class Evil:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "ran"),))

    bare_pickle.write_bytes(pickle.dumps(Evil()))
    for path in (pickled, bare_pickle):
        with pytest.raises(InvalidOption, match="is no TorchScript file; a pickled checkpoint is never loaded"):
            open_panoptic(path, labels=labels)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(InvalidOption, match="is no TorchScript model that can be run") as caught:
        open_panoptic(zipped, labels=labels)
    assert "\n" not in str(caught.value)
    (tmp_path / "d.onnx").write_bytes(b"no graph")
    pytest.importorskip("onnxruntime")
    with pytest.raises(InvalidOption, match="is no ONNX model"):
        open_panoptic(tmp_path / "d.onnx", labels=labels)
    with pytest.raises(MissingWeights, match="there is no file"):
        open_panoptic(tmp_path / "absent.onnx")


def test_an_onnx_file_without_its_runtime_names_the_extra(tmp_path, labels, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "m.onnx").write_bytes(b"graph")
    with pytest.raises(
        MissingDependency, match=r"^m\.onnx needs onnxruntime; pip install 'semaug-prompt-synth.*\[onnx\]'"
    ):
        open_panoptic(tmp_path / "m.onnx", labels=labels)


def test_labels_that_do_not_fit_an_export_are_refused(tmp_path, labels):
    path = save_torchscript(tmp_path / "m.ts")
    with pytest.raises(InvalidOption, match="3 classes and one for nothing, but 150 labels"):
        open_panoptic(path).segment([striped([0])])
    with pytest.raises(InvalidOption, match="labels is 'cityscapes'; give ade20k, coco"):
        open_panoptic(path, labels="cityscapes")
    labels.write_text('{"0": "sky"}')
    with pytest.raises(InvalidOption, match="holds no list of names"):
        open_panoptic(path, labels=labels)


def test_a_map_checks_itself():
    ids = np.zeros((2, 2), np.int32)
    with pytest.raises(ValueError, match="holds the id 0, which no segment has"):
        PanopticMap(ids, ())
    with pytest.raises(ValueError, match=r"the ids \[0, 0\]"):
        PanopticMap(ids, (Segment(0, "sky"), Segment(0, "tree")))
    with pytest.raises(ValueError, match="0 or more"):
        PanopticMap(ids - 2, (Segment(-2, "sky"),))
    with pytest.raises(ValueError, match="expected int32"):
        PanopticMap(ids.astype(np.int64), (Segment(0, "sky"),))


def test_real_annotations_of_coco_become_maps_and_are_read_back():
    from PIL import Image

    if not DATA.is_dir():
        pytest.skip(f"{DATA} is not there; set SEMAUG_TEST_DATA")
    panoptic = json.loads((DATA / "panoptic.json").read_text())
    names = {row["id"]: row["name"] for row in panoptic["categories"]}
    assert tuple(names.values()) == coco_panoptic_names()
    for annotation in panoptic["annotations"][:20]:
        pixels = np.asarray(Image.open(DATA / "panoptic" / annotation["file_name"]).convert("RGB")).astype(np.int32)
        ids = pixels @ np.array([1, 256, 65536], np.int32)
        segments = tuple(Segment(s["id"], names[s["category_id"]]) for s in annotation["segments_info"])
        found = PanopticMap(np.where(ids == 0, -1, ids), segments)
        colours = palette_image(found)
        for segment in annotation["segments_info"]:
            wanted = class_of(names[segment["category_id"]])
            drawn = colours[ids == segment["id"]]
            assert len(drawn) == segment["area"]
            assert (drawn == palette()[wanted]).all()
        assert {class_names()[c] for c in np.unique(to_classes(colours)) if c != UNLABELLED}
