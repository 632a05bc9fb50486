"""YOLO: the real class with random weights, saved to a disk and loaded by the user's path."""

from __future__ import annotations

import os
import socket
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from semaug.artifacts.errors import InvalidOption, MissingWeights
from semaug.oracles.catalogue import OracleSpec, open_detector

torch = pytest.importorskip("torch")
if find_spec("ultralytics") is None:  # not imported here: that would patch other tests' Pillow
    pytest.skip("ultralytics is not installed", allow_module_level=True)

LOOSE = ["conf=0.0001", "imgsz=128", "max_det=7"]
"""Random weights are never sure: keep what they find anyway."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from semaug.oracles.yolo import import_yolo

    torch.manual_seed(0)
    model = import_yolo()("yolov8n.yaml", task="detect", verbose=False)
    path = tmp_path_factory.mktemp("yolo") / "random.pt"
    model.save(str(path))
    return path


def photographs() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (h, w, 3)).astype(np.uint8) for h, w in ((120, 160), (200, 90), (64, 64))]


def test_batch_of_mixed_sizes_equals_single_and_boxes_are_pixels_of_the_image(weights: Path) -> None:
    detector = open_detector(OracleSpec.parse(f"yolo?weights={weights}", LOOSE))
    together = detector.detect(photographs())  # type: ignore[union-attr]
    for image, boxes in zip(photographs(), together, strict=True):
        alone = detector.detect([image])[0]  # type: ignore[union-attr]
        np.testing.assert_allclose(boxes, alone, atol=1e-3)
        assert boxes.dtype == np.float32
        assert 0 < len(boxes) <= 7
        assert boxes.shape[1] == 4
        assert (boxes[:, 2] <= image.shape[1]).all()
        assert (boxes[:, 3] <= image.shape[0]).all()
    assert any((boxes[:, 2] > 100).any() or (boxes[:, 3] > 100).any() for boxes in together)


def test_images_arrive_as_the_model_expects_them(weights: Path) -> None:
    """RGB arrays through the adapter equal what ultralytics finds in the same picture read from a file."""
    from PIL import Image

    from semaug.oracles.yolo import import_yolo

    image = photographs()[0]
    path = weights.with_name("picture.png")
    Image.fromarray(image).save(path)
    options = {"conf": 0.0001, "imgsz": 128, "max_det": 7, "iou": 0.7}
    theirs = import_yolo()(str(weights)).predict(
        str(path), **options, rect=False, agnostic_nms=True, verbose=False, save=False
    )
    ours = open_detector(OracleSpec.parse(f"yolo?weights={weights}", LOOSE)).detect([image])  # type: ignore[union-attr]
    np.testing.assert_allclose(ours[0], theirs[0].boxes.xyxy.numpy(), atol=1e-3)


def test_no_detection_is_an_empty_box_list(weights: Path) -> None:
    detector = open_detector(OracleSpec.parse(f"yolo?weights={weights}&conf=0.999&imgsz=64"))
    assert [b.shape for b in detector.detect(photographs())] == [(0, 4)] * 3  # type: ignore[union-attr]
    assert detector.detect([]) == []  # type: ignore[union-attr]


def test_safetensors_with_their_yaml_equal_the_pt(weights: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from semaug.oracles.yolo import import_yolo

    model = import_yolo()(str(weights))
    save_file({k: v.contiguous() for k, v in model.model.state_dict().items()}, tmp_path / "random.safetensors")
    spec = OracleSpec.parse(f"yolo?weights={tmp_path / 'random.safetensors'}", [*LOOSE, "model=yolov8n.yaml"])
    first = open_detector(OracleSpec.parse(f"yolo?weights={weights}", LOOSE)).detect(photographs())  # type: ignore[union-attr]
    second = open_detector(spec).detect(photographs())  # type: ignore[union-attr]
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, atol=0.02)  # the .pt is stored in half precision


def test_safetensors_without_a_yaml_ask_for_it(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"")
    with pytest.raises(InvalidOption, match=r"model=yolov8n\.yaml"):
        open_detector(OracleSpec.parse(f"yolo?weights={tmp_path / 'x.safetensors'}"))


def test_missing_weights_say_where_to_get_them_without_a_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a network connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingWeights, match=r"no YOLO weights at yolov8n\.pt.*https://") as caught:
        open_detector(OracleSpec.parse("yolo?weights=yolov8n.pt"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a model"])
def test_a_file_that_is_no_model_is_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.pt"
    path.write_bytes(content)
    with pytest.raises(InvalidOption, match=r"broken\.pt is not a YOLO model") as caught:
        open_detector(OracleSpec.parse(f"yolo?weights={path}"))
    assert "\n" not in str(caught.value)


def test_importing_leaves_the_process_as_it_was(weights: Path) -> None:
    import subprocess
    import sys

    code = (
        "import os, cv2, PIL.Image, numpy as np; cv2.setNumThreads(2); os.environ.pop('OMP_NUM_THREADS', None);"
        "from semaug.oracles.yolo import import_yolo; import_yolo();"
        "print(cv2.getNumThreads(), np.get_printoptions()['linewidth'], os.environ.get('OMP_NUM_THREADS'),"
        "PIL.Image.open.__module__)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert found.stdout.split() == ["2", "75", "None", "PIL.Image"]
