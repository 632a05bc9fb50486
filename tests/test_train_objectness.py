"""The tool that trains the objectness network: its labels, its losses, and a whole small run that is stopped."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torchvision.ops import generalized_box_iou

sys.path.append(str(Path(__file__).resolve().parents[1] / "tools"))

import objectness_samples as samples
import objectness_training as training
import train_objectness

from semaug.artifacts.draws import generator
from semaug.artifacts.sources import open_source
from semaug.oracles.objectness import ObjectnessDetector
from semaug.oracles.objectness_network import GRID, MASK_GRID, SIDE, ObjectnessMaps


class OneBox:
    """A teacher that sees one box, whatever it looks at."""

    def __init__(self, box: tuple[float, ...], score: float = 0.8) -> None:
        self.box, self.score = box, score

    def dense(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        classes = np.eye(samples.CLASSES, dtype=np.float32)[[7, 3]]
        far = (0.9, 0.9, 0.99, 0.99)
        return np.array([self.box, far], np.float32), np.array([self.score, 0.01], np.float32), classes


def square(x1: float, y1: float, x2: float, y2: float) -> np.ndarray:
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], float)


def photograph(*polygons: np.ndarray, number: int = 0) -> samples.Photograph:
    image = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
    return samples.Photograph(image, samples.Objects(list(polygons), [1] * len(polygons), outlined=True), number)


def test_the_teachers_box_is_written_to_the_cell_of_its_centre() -> None:
    targets = samples.teacher_targets(OneBox((0.2, 0.4, 0.4, 0.8)), np.zeros((SIDE, SIDE, 3), np.uint8))
    y, x = int(0.6 * GRID), int(0.3 * GRID)
    assert targets.scores[y, x] == pytest.approx(0.8)
    assert np.count_nonzero(targets.scores) == 1  # an opinion of 0.01 is none
    np.testing.assert_allclose(targets.boxes[y, x], [0.3, 0.6, 0.2, 0.4], atol=1e-6)
    assert targets.classes[y, x].argmax() == 7
    unknown = targets.mask == samples.UNKNOWN
    assert unknown[int(0.6 * MASK_GRID), int(0.3 * MASK_GRID)]
    assert not unknown[0, 0]


def test_a_small_object_counts_half() -> None:
    targets = samples.teacher_targets(OneBox((0.2, 0.4, 0.25, 0.45), 1.0), np.zeros((SIDE, SIDE, 3), np.uint8))
    assert targets.scores.max() == pytest.approx(0.5)


def test_a_true_object_has_its_tight_box_around_its_middle_and_its_mask() -> None:
    targets = samples.Targets.empty()
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[64:192, 32:96] = 1
    samples.set_object(targets, mask, label=5, outlined=True)
    owned = targets.scores == 1
    np.testing.assert_allclose(targets.boxes[owned], [[0.25, 0.5, 0.25, 0.5]] * int(owned.sum()))
    assert owned[GRID // 2, GRID // 4]
    assert (targets.mask == 1).sum() == MASK_GRID * MASK_GRID / 8
    assert samples.set_object(samples.Targets.empty(), np.zeros_like(mask), 0, outlined=True) is None


def test_objects_that_a_crop_cuts_away_are_gone() -> None:
    polygon = square(0.0, 0.0, 0.5, 0.5)
    assert samples._visible(polygon, (0.4, 0.4, 1.0, 1.0), 100, 100) is None
    kept = samples._visible(polygon, (0.1, 0.1, 1.0, 1.0), 90, 90)
    assert kept is not None
    assert kept.mean() == pytest.approx((0.4 / 0.9) ** 2, rel=0.08)


@pytest.mark.parametrize("number", range(12))
def test_boxes_of_samples_lie_on_the_objects_they_name(number: int) -> None:
    """The objects of the photographs are white on black, so that a label can be checked on the pixels."""
    image = np.zeros((200, 240, 3), np.uint8)
    image[50:120, 60:150] = 255
    photo = samples.Photograph(image, samples.Objects([square(0.25, 0.25, 0.625, 0.6)], [2], outlined=True), 0)
    nothing = samples.Photograph(np.zeros((90, 90, 3), np.uint8), samples.Objects([], [], outlined=True), 1)
    made = samples.make_sample([photo], [nothing], OneBox((0, 0, 0.01, 0.01), 0.0), 0, number)
    white = (made.image > 127).all(axis=2).astype(np.uint8)
    for box in made.targets.boxes[made.targets.scores == 1]:
        x1, y1, x2, y2 = (np.array([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2]).ravel() * SIDE).round().astype(int)
        assert white[y1:y2, x1:x2].mean() > 0.9
    seen = cv2.resize(white.astype(np.float32), (MASK_GRID, MASK_GRID), interpolation=cv2.INTER_AREA) > 0.5
    assert ((made.targets.mask == 1) == seen).mean() > 0.97
    assert set(made.shows) <= {0, 1}


def test_only_pasted_or_shown_photographs_are_named() -> None:
    photos = [photograph(square(0.2, 0.2, 0.8, 0.8), number=k) for k in range(4)]
    plain = samples.Photograph(photos[0].image, None, -1)
    for number in range(20):
        made = samples.make_sample(photos, [plain], OneBox((0.4, 0.4, 0.6, 0.6)), 3, number)
        assert number % 4 in made.shows or not made.shows  # a paste may fail, and then shows nothing of the set


def test_giou_is_torchvisions() -> None:
    random = generator(0, "test", 0, "")
    a, b = (torch.from_numpy(random.uniform(0.05, 0.9, (64, 4))) for _ in range(2))
    corners = [torch.cat([v[:, :2] - v[:, 2:] / 2, v[:, :2] + v[:, 2:] / 2], dim=1) for v in (a, b)]
    expected = 1 - generalized_box_iou(*corners).diagonal()
    torch.testing.assert_close(training.giou_loss(a, b), expected)
    assert float(training.giou_loss(a, a).abs().max()) < 1e-9


def test_a_perfect_answer_costs_nothing_but_the_certainty_it_lacks() -> None:
    truth = {
        "scores": torch.zeros(1, GRID, GRID),
        "boxes": torch.full((1, GRID, GRID, 4), 0.5),
        "classes": torch.zeros(1, GRID, GRID, samples.CLASSES),
        "mask": torch.full((1, MASK_GRID, MASK_GRID), samples.UNKNOWN, dtype=torch.uint8),
    }
    truth["scores"][0, 4, 4] = 1.0
    logits = torch.where(truth["scores"] > 0, 20.0, -20.0)
    maps = ObjectnessMaps(logits, truth["boxes"].clone(), torch.zeros(1, MASK_GRID, MASK_GRID), torch.zeros(1))
    classes = torch.zeros(1, samples.CLASSES, GRID, GRID)
    assert all(float(v) < 1e-6 for v in training.losses(maps, classes, truth).values())
    assert float(training.losses(maps, classes, truth, sharp=True)["ranking"]) < 1e-6


def test_ranking_is_the_cross_entropy_of_the_cells() -> None:
    scores = torch.zeros(2, GRID, GRID, dtype=torch.float64)
    scores[0, 1, 2], scores[0, 3, 3] = 0.8, 0.4
    scores[1, 0, 0] = 0.2  # nothing worth an order
    flat = torch.zeros_like(scores)
    assert float(training.ranking_loss(flat, scores)) == pytest.approx(np.log(GRID * GRID))
    share = 0.4**4 / (0.8**4 + 0.4**4)
    logits = torch.full_like(scores, -50.0)
    logits[0, 1, 2], logits[0, 3, 3] = np.log(1 - share), np.log(share)
    entropy = -share * np.log(share) - (1 - share) * np.log(1 - share)
    assert float(training.ranking_loss(logits, scores)) == pytest.approx(entropy)


def test_sharpened_scores_keep_order_and_ends() -> None:
    scores = torch.linspace(0, 1, 101, dtype=torch.float64)
    sharp = training.sharpened(scores)
    assert bool((sharp[1:] >= sharp[:-1]).all())
    assert float(sharp[0]) == 0
    assert float(sharp[-1]) > 0.999
    assert float(sharp[40]) == pytest.approx(0.5)


def test_mirroring_and_recolouring_keep_labels_on_their_pixels() -> None:
    image = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    image[0, 100:140, 20:60] = 255
    targets = samples.Targets.empty()
    samples.set_object(targets, (image[0, ..., 0] > 0).astype(np.uint8), 0, outlined=True)
    arrays = {"images": image, "shows": np.zeros((1, 1), bool)}
    arrays |= {n: getattr(targets, n)[None] for n in ("scores", "boxes", "classes", "mask")}
    mirrored = set()
    for step in range(8):
        x, truth = training.draw_batch([(arrays, np.arange(1), 1.0)], training.Schedule(9, batch=1), 0, step)
        assert x.is_contiguous(memory_format=torch.channels_last)
        box = truth["boxes"][truth["scores"] == 1][0].double()
        columns = np.nonzero((x[0, 0] > x[0, 0].mean()).numpy().any(axis=0))[0]
        assert float(box[0]) * SIDE == pytest.approx((columns[0] + columns[-1] + 1) / 2, abs=0.6)
        mirrored.add(bool(columns[0] > SIDE / 2))
    assert mirrored == {True, False}


def test_colours_without_change_are_the_usual_normalisation() -> None:
    image = np.random.default_rng(1).integers(0, 256, (1, 4, 5, 3), np.uint8)
    std, mean = np.array(training.STD), np.array(training.MEAN)
    matrix = (np.eye(3) / 255 / std[:, None]).astype(np.float32)[None]
    out = np.empty(image.shape, np.float32)
    low, high = training._LOWEST, training._HIGHEST
    training._recolour(image, np.zeros(1, bool), matrix, (-mean / std).astype(np.float32)[None], low, high, out)
    np.testing.assert_allclose(out, (image / 255 - mean) / std, atol=1e-5)


def test_masks_are_trained_without_touching_what_boxes_depend_on(trained: tuple[Path, Path]) -> None:
    boxes, masks = (torch.load(trained[1] / f"{n}.pt", weights_only=True)["student"] for n in ("sharp", "final"))
    changed = {n for n in boxes if n.startswith("network.") and not torch.equal(boxes[n], masks[n])}
    averaged = torch.load(trained[1] / "sharp.pt", weights_only=True)["averaged"]
    changed = {n for n in changed if not torch.equal(averaged[n], masks[n])}
    assert changed
    assert all(n.split(".")[1] in training.MASK_PARTS for n in changed)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of the whole tool on drawn photographs: work folder and result."""
    root = tmp_path_factory.mktemp("objectness")
    scenes = open_source("scenes:train?items=16")
    for folder in ("photos", "labelled", "boxes"):
        (root / folder).mkdir(parents=True)
    for i in range(16):
        kind = "photos" if i < 8 else "labelled"
        cv2.imwrite(str(root / kind / f"{i:02}.png"), scenes.read(i)[..., ::-1])
        if kind == "labelled":
            x1, y1, x2, y2 = scenes.guidance(i).boxes[0] / scenes.read(i).shape[0]  # type: ignore[attr-defined]
            row = f"0 {(x1 + x2) / 2} {(y1 + y2) / 2} {x2 - x1} {y2 - y1}\n"
            (root / "boxes" / f"{i:02}.txt").write_text(row)
    run(root, "work")
    return root, root / "work"


def run(root: Path, work: str, *more: str) -> None:
    (root / work).mkdir(exist_ok=True)
    given = ["--photos", root / "photos", "--teacher", "saliency", "--labelled", root / "labelled"]
    given += [
        "--boxes",
        root / "boxes",
        "--work",
        root / work,
        "--out",
        root / work,
        "--scale",
        "0.0008",
        *more,
    ]
    train_objectness.main([str(a) for a in given])


def test_the_tool_makes_a_network_that_detects(trained: tuple[Path, Path]) -> None:
    _, work = trained
    boxes = ObjectnessDetector(work / "objectness.safetensors", score=0.001).detect([np.zeros((50, 70, 3), np.uint8)])
    assert boxes[0].shape[1] == 4


def test_each_labelled_photograph_is_held_out_of_one_fold(trained: tuple[Path, Path]) -> None:
    from safetensors import safe_open

    held = []
    for fold in range(train_objectness.FOLDS):
        with safe_open(trained[1] / f"fold-{fold}.safetensors", "pt") as file:
            held += file.metadata()["held_out"].split(",")
    assert sorted(held) == [f"{i:02}.png" for i in range(8, 16)]


def test_a_stopped_run_goes_on_to_the_same_weights(trained: tuple[Path, Path]) -> None:
    root, work = trained
    arrays = train_objectness._sets(work, {"samples": 1.0}, None)
    whole = training.train(arrays, training.Schedule(3, batch=4), root / "whole.pt", seed=0)
    training.train(arrays, training.Schedule(3, batch=4), root / "part.pt", seed=0, every=1, until=2)
    again = training.train(arrays, training.Schedule(3, batch=4), root / "part.pt", seed=0, every=1)
    assert again.step == whole.step == 3
    for name, value in whole.student.state_dict().items():
        assert torch.equal(value, again.student.state_dict()[name]), name
