"""The objectness network: its maps, its boxes and masks, its weights on disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torchvision.ops import nms

from semaug.artifacts.errors import InvalidOption, MissingWeights
from semaug.oracles import objectness
from semaug.oracles.catalogue import OracleSpec, open_detector, open_segmenter
from semaug.oracles.objectness import ObjectnessDetector, ObjectnessSegmenter, network_input, open_network, suppress
from semaug.oracles.objectness_network import GRID, MASK_GRID, REACH, SIDE, ObjectnessNetwork, decode_boxes


def images(*sizes: tuple[int, int]) -> list[np.ndarray]:
    """Random photographs, uint8, of these heights and widths."""
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (h, w, 3), np.uint8) for h, w in sizes]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random float16 weights with lived-in batch norms, whose network says something about every cell."""
    torch.manual_seed(0)
    network = ObjectnessNetwork()
    network.cells.bias.data[0] = 0.0
    network(torch.randn(4, 3, SIDE, SIDE))
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file({k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}, path)
    return path


def test_a_raw_zero_is_a_box_of_half_the_image_in_the_middle_of_its_cell() -> None:
    boxes = decode_boxes(torch.zeros(1, GRID, GRID, 4))
    assert torch.allclose(boxes[0, 3, 5], torch.tensor([5.5 / GRID, 3.5 / GRID, 0.5, 0.5]))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-30, 30), min_size=4, max_size=4))
def test_a_boxs_centre_stays_within_reach_of_its_cell(raw: list[float]) -> None:
    boxes = decode_boxes(torch.tensor(raw).expand(1, GRID, GRID, 4))
    middle = (torch.arange(GRID) + 0.5) / GRID
    assert float((boxes[0, :, :, 0] - middle).abs().max()) <= REACH / GRID + 1e-6
    assert float((boxes[0, :, :, 1] - middle[:, None]).abs().max()) <= REACH / GRID + 1e-6
    assert bool(((boxes[..., 2:] >= 0) & (boxes[..., 2:] <= 1)).all())


def test_folded_norms_give_the_same_maps(weights: Path) -> None:
    from safetensors.torch import load_file

    plain = ObjectnessNetwork()
    plain.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(weights).items()})
    plain.eval()
    x = torch.from_numpy(network_input(images((300, 200), (40, 500))))
    folded = open_network(weights)
    assert not [m for m in folded.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    with torch.inference_mode():
        ours, theirs = folded(x), plain(x)
    for name in ("scores", "boxes", "mask"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), atol=1e-3, rtol=1e-3)


def test_a_batch_gives_what_its_images_give_alone(weights: Path) -> None:
    detector = ObjectnessDetector(weights, score=0.4)
    pictures = images(*[(40 + 7 * i, 90 - 3 * i) for i in range(18)])  # more than one batch of the network
    together = detector.detect(pictures)
    assert sum(map(len, together)) > 0
    for picture, boxes in zip(pictures, together, strict=True):
        np.testing.assert_allclose(boxes, detector.detect([picture])[0], atol=0.02)
        assert boxes.dtype == np.float32
        assert (boxes[:, 2] <= picture.shape[1]).all()
        assert (boxes >= 0).all()
    assert detector.detect([]) == []


def test_the_mirror_image_has_mirrored_boxes_and_masks(weights: Path) -> None:
    picture = images((256, 256))[0]  # no resizing, which is not symmetric
    mirror = np.ascontiguousarray(picture[:, ::-1])
    detector, segmenter = ObjectnessDetector(weights, score=0.3), ObjectnessSegmenter(weights, threshold=0.3)
    boxes, found = detector.detect([picture])[0], detector.detect([mirror])[0]
    assert len(boxes)
    np.testing.assert_allclose(found[:, [0, 2]], 256 - boxes[:, [2, 0]], atol=0.05)
    whole = [np.array([[0, 0, 256, 256]], np.float32)]
    mask, turned = (segmenter.segment([p], whole)[0][0] for p in (picture, mirror))
    assert (mask[:, ::-1] == turned).mean() > 0.999


def test_boxes_scale_with_the_image(weights: Path) -> None:
    small = images((64, 96))[0]
    large = small.repeat(4, axis=0).repeat(4, axis=1)
    detector = ObjectnessDetector(weights, score=0.2)
    shape = torch.tensor(np.array(detector.detect([large])[0])), torch.tensor(np.array(detector.detect([small])[0]))
    assert len(shape[0])
    assert abs(float(shape[0].max() / shape[1].max()) - 4) < 0.5


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.floats(0.1, 0.9), st.integers(0, 2**32 - 1))
def test_suppression_is_torchvisions(count: int, iou: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    start = random.uniform(0, 60, (count, 2))
    boxes = np.concatenate([start, start + random.uniform(1, 60, (count, 2))], axis=1).astype(np.float32)
    scores = random.permutation(count).astype(np.float32)
    expected = nms(torch.from_numpy(boxes).double(), torch.from_numpy(scores).double(), iou).numpy()
    np.testing.assert_array_equal(suppress(boxes.astype(np.float64), scores, iou), expected)


def test_masks_stay_in_their_boxes(weights: Path) -> None:
    picture = images((120, 80))[0]
    segmenter = ObjectnessSegmenter(weights, threshold=0.01)
    box = np.array([[10, 20, 50, 90], [-5, -5, 300, 300]], np.float32)
    inside, whole = segmenter.segment([picture], [box])[0]
    assert inside.shape == whole.shape == (120, 80)
    assert inside.any()
    outside = inside.copy()
    outside[20:90, 10:50] = False
    assert not outside.any()
    assert whole[20:90, 10:50].sum() == inside.sum()
    assert segmenter.segment([picture], [np.zeros((0, 4), np.float32)]) == [[]]


def test_masks_without_boxes_are_parts_of_reasonable_size(weights: Path) -> None:
    found = ObjectnessSegmenter(weights, threshold=0.4, max_masks=2).segment(images((90, 90), (60, 200)), None)
    assert all(len(masks) <= 2 for masks in found)
    assert all(0.01 <= m.mean() <= 0.9 for masks in found for m in masks)


def test_the_weights_that_ship_are_the_ones_that_were_signed() -> None:
    size = (Path(objectness.__file__).parent / objectness.WEIGHTS).stat().st_size
    assert 0.7e6 < size < 1.3e6
    assert isinstance(open_detector(OracleSpec("objectness")), ObjectnessDetector)
    assert isinstance(open_segmenter(OracleSpec("objectness")), ObjectnessSegmenter)


@pytest.mark.parametrize("change", ["altered", "missing"])
def test_package_weights_that_were_altered_or_lost_are_refused(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytearray((Path(objectness.__file__).parent / objectness.WEIGHTS).read_bytes())
    content[-1] ^= 1
    if change == "altered":
        (tmp_path / objectness.WEIGHTS).write_bytes(content)
    monkeypatch.setattr(objectness, "files", lambda _: tmp_path)
    objectness._packaged.cache_clear()
    with pytest.raises(MissingWeights, match="reinstall semaug-oracles"):
        ObjectnessDetector()
    objectness._packaged.cache_clear()


def test_files_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match="train some with"):
        ObjectnessDetector(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors here")
    with pytest.raises(InvalidOption, match="does not hold an objectness network"):
        ObjectnessDetector(tmp_path / "text.safetensors")
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(InvalidOption, match="does not hold an objectness network"):
        ObjectnessSegmenter(tmp_path / "other.safetensors")


@pytest.mark.parametrize("options", [{"score": 0.0}, {"score": 1.0}, {"iou": 0.0}, {"max_boxes": 0}])
def test_options_out_of_range_are_refused(options: dict[str, float], weights: Path) -> None:
    with pytest.raises(InvalidOption, match="objectness with"):
        ObjectnessDetector(weights, **options)  # type: ignore[arg-type]


def test_identity_names_the_packages_weights() -> None:
    assert OracleSpec("objectness").identity()["weights"] == objectness.WEIGHTS_DIGEST
    assert "weights" not in OracleSpec("objectness", (("weights", "x"),)).identity()


def test_finding_objects_imports_neither_torchvision_nor_lightning() -> None:
    code = (
        "import sys, numpy as np\n"
        "from semaug.oracles.objectness import ObjectnessDetector\n"
        "ObjectnessDetector().detect([np.zeros((40, 40, 3), np.uint8)])\n"
        "print([m for m in ('torchvision', 'lightning', 'ultralytics') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_masks_have_the_grid_they_say() -> None:
    with torch.inference_mode():
        maps = ObjectnessNetwork().eval()(torch.zeros(2, 3, SIDE, SIDE))
    assert maps.mask.shape == (2, MASK_GRID, MASK_GRID)
