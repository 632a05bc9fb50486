"""Detectors on a ResNet: their parts, their losses, training that stops and goes on, and detectron2's names."""

from __future__ import annotations

import json
import os
import pickle
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18, resnet50
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.ops import FrozenBatchNorm2d

from semaug.artifacts.decode import encode_png
from semaug.artifacts.draws import draw_key
from semaug.artifacts.errors import ArtifactError, ArtifactMismatch, InvalidOption
from semaug.artifacts.progress import Progress
from semaug.eval.detection.data import DetectionDataError, DetectionSet
from semaug.eval.detection.detectron2 import detectron2_weights, export_detectron2, read_detectron2
from semaug.eval.detection.door import open_detection_set
from semaug.eval.detection.examples import Draw, draws_by_step, make_batch
from semaug.eval.detection.fine_tuning import CHECKPOINT, fine_tune
from semaug.eval.detection.model import C4Heads, DetectorSpec, build_detector, cell_side, norm_parameters
from semaug.eval.detection.prediction import predict
from semaug.eval.detection.ranks import Ranks
from semaug.eval.detection.schedules import SCHEDULES, Schedule, schedule_of
from semaug.eval.detection.scores import score_detections
from semaug.eval.errors import EvaluationError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TINY = Schedule("tiny", 4, (3,), 1, (64, 72), test_side=64, batch_size=2, lr=0.01, precise_batches=1)


class NarrowResNet(ResNet):
    """A ResNet of a block a stage and a quarter of the channels, for tests that train."""

    def __init__(self) -> None:
        super().__init__(BasicBlock, [1, 1, 1, 1])
        self.inplanes = 16
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 7, 2, 3, bias=False), nn.BatchNorm2d(16)
        for stage in range(4):
            made = self._make_layer(BasicBlock, 16 * 2**stage, 1, stride=2 if stage else 1)
            setattr(self, f"layer{stage + 1}", made)


def spec(**more) -> DetectorSpec:
    return DetectorSpec(2, MEAN, STD, **{"samples": 8, "proposals": 10, **more})


@pytest.fixture(scope="module")
def backbone() -> nn.Module:
    torch.manual_seed(0)
    return NarrowResNet()


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> DetectionSet:
    """Six grey images, each with a red square (class 0) or a green one (class 1), with outlines."""
    root = tmp_path_factory.mktemp("squares")
    images, rows = [], []
    for number in range(6):
        rng = np.random.default_rng(number)
        size = (64, 80) if number % 2 else (80, 64)
        x, y, side = (*rng.integers(2, 30, 2).tolist(), 24)
        picture = np.full((*size, 3), 100, np.uint8)
        picture[y : y + side, x : x + side] = [(220, 30, 30), (30, 220, 30)][number % 2]
        (root / f"{number}.png").write_bytes(encode_png(picture))
        images.append({"id": number, "file_name": f"{number}.png", "height": size[0], "width": size[1]})
        outline = [x, y, x + side, y, x + side, y + side, x, y + side]
        rows.append(
            {"image_id": number, "category_id": number % 2, "bbox": [x, y, side, side], "segmentation": [outline]}
        )
    content = {
        "images": images,
        "annotations": rows,
        "categories": [{"id": 0, "name": "red"}, {"id": 1, "name": "green"}],
    }
    (root / "all.json").write_text(json.dumps(content))
    return open_detection_set(f"coco:{root}/all.json", outlines=True)


def train(backbone: nn.Module, data: DetectionSet, folder: Path, schedule: Schedule = TINY, **more) -> nn.Module:
    detector = build_detector(backbone, spec(masks=more.get("masks", False)), seed=1)
    fine_tune(detector, data, schedule, folder, identity={"encoder": "x"}, seed=1, **more)
    return detector


def test_the_parts_of_c4(backbone):
    before = {name: t.clone() for name, t in backbone.state_dict().items()}
    detector = build_detector(backbone, spec(masks=True)).eval()
    maps = detector.backbone(torch.zeros(1, 3, 64, 96))
    assert maps.shape == (1, 64, 4, 6)  # stage 4, 16 pixels a cell
    head = detector.roi_heads.box_head(torch.zeros(3, 64, 14, 14))
    assert head.shape == (3, 128, 7, 7)
    assert detector.roi_heads.mask_predictor(head).shape == (3, 3, 14, 14)
    assert detector.roi_heads.box_predictor.bbox_pred.out_features == 4 * 3  # a box a class, background included
    anchors = detector.rpn.anchor_generator
    assert anchors.num_anchors_per_location() == [15]
    areas = [np.prod((a[2:] - a[:2]).numpy()) ** 0.5 for a in anchors.cell_anchors[0]]
    assert sorted({32 * round(a / 32) for a in areas}) == [32, 64, 128, 256, 512]
    for name in ("conv1.weight", "layer3.0.conv2.weight", "layer4.0.downsample.1.running_var"):
        part = detector.roi_heads.box_head.stage if name.startswith("layer4.") else detector.backbone
        torch.testing.assert_close(part.state_dict()[name.removeprefix("layer4.")], before[name])
    with torch.no_grad():
        detector.backbone.conv1.weight.add_(1)
    torch.testing.assert_close(backbone.state_dict()["conv1.weight"], before["conv1.weight"])  # a copy was changed


def test_the_new_weights_follow_the_seed_and_disturb_no_other_draws(backbone):
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    first, second, third = (build_detector(backbone, spec(), seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), wanted)
    name = "rpn.head.conv.0.0.weight"
    assert torch.equal(first.state_dict()[name], second.state_dict()[name])
    assert not torch.equal(first.state_dict()[name], third.state_dict()[name])


def test_norms_frozen_or_trained_and_never_decayed(backbone):
    trained, frozen = (build_detector(backbone, spec(norm=norm)) for norm in ("batch", "frozen"))
    assert len(norm_parameters(trained)) == 2 * 13  # the twelve of the ResNet and the extra one
    assert norm_parameters(frozen) == {"roi_heads.box_head.norm.weight", "roi_heads.box_head.norm.bias"}
    assert sum(isinstance(m, FrozenBatchNorm2d) for m in frozen.modules()) == 12
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(trained.eval().backbone(images), frozen.train().backbone(images))


def test_a_small_stem_has_finer_cells(backbone):
    small = resnet18()
    small.conv1, small.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    assert (cell_side(small), cell_side(resnet18())) == (4, 16)
    assert build_detector(small, spec()).backbone(torch.zeros(1, 3, 32, 32)).shape == (1, 256, 8, 8)


def test_box_losses_are_absolute_errors_over_all_samples(backbone):
    """Against the sums written out, on regions whose samples are all taken."""
    heads = build_detector(backbone, spec(samples=64)).roi_heads.train()
    assert isinstance(heads, C4Heads)
    boxes = torch.tensor([[4.0, 4, 40, 40], [10, 8, 30, 60]])
    proposals = torch.tensor([[5.0, 4, 42, 41], [60, 60, 70, 70], [11, 8, 30, 57]])
    targets = [{"boxes": boxes, "labels": torch.tensor([1, 2])}]
    features = {"0": torch.rand(1, 64, 5, 5)}
    _, losses = heads(features, [proposals.clone()], [(80, 80)], targets)
    rows = torch.cat([proposals, boxes])  # the objects themselves are proposals too
    labels, matched = torch.tensor([1, 0, 2, 1, 2]), torch.tensor([0, 0, 1, 0, 1])
    maps = heads.box_head(heads.box_roi_pool(features, [rows], [(80, 80)]))
    logits, deltas = (t.detach() for t in heads.box_predictor(maps.mean((2, 3))))
    named = -torch.log_softmax(logits.double(), 1)[torch.arange(5), labels].mean()
    total = 0.0
    for row, label, which in zip(range(5), labels.tolist(), matched.tolist(), strict=True):
        if label:
            wanted = offsets(rows[row].double(), boxes[which].double())
            total += float((deltas[row, 4 * label : 4 * label + 4].double() - wanted).abs().sum())
    torch.testing.assert_close(losses["loss_classifier"].double(), named, atol=1e-5, rtol=1e-5)
    assert float(losses["loss_box_reg"].detach()) == pytest.approx(total / 5, rel=1e-4)


def offsets(box: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Fast R-CNN's regression targets, weighted 10, 10, 5, 5."""
    (w, h), (v, u) = box[2:] - box[:2], target[2:] - target[:2]
    x, y = (box[:2] + box[2:]) / 2
    s, t = (target[:2] + target[2:]) / 2
    return torch.stack([10 * (s - x) / w, 10 * (t - y) / h, 5 * torch.log(v / w), 5 * torch.log(u / h)])


class MeanOver(nn.Module):
    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.mean((2, 3))


def test_heads_answer_and_learn_as_torchvisions_own_with_the_same_parts(backbone):
    """torchvision's region heads pool and run the last stage anew for masks; with its norms at rest all is the same."""
    ours = build_detector(backbone, spec(masks=True)).roi_heads
    ours.score_thresh = 0.1  # so that something is found
    torch.manual_seed(5)
    theirs = RoIHeads(
        ours.box_roi_pool, nn.Sequential(ours.box_head, MeanOver()), ours.box_predictor,
        0.5, 0.5, 8, 0.25, None, 0.1, 0.5, 100,
        mask_roi_pool=ours.box_roi_pool, mask_head=ours.box_head, mask_predictor=ours.mask_predictor,
    )  # fmt: skip
    start = 50 * torch.rand(12, 2)
    proposals = [torch.cat([start, start + 10 + 20 * torch.rand(12, 2)], 1)]
    features, shapes = {"0": torch.rand(1, 64, 5, 5)}, [(80, 80)]
    found, wanted = (heads.eval()(features, proposals, shapes)[0][0] for heads in (ours, theirs))
    assert len(wanted["boxes"]) > 0
    for name in ("boxes", "scores", "labels", "masks"):
        torch.testing.assert_close(found[name], wanted[name])

    targets = [{"boxes": proposals[0][:2] + 1, "labels": torch.tensor([1, 2]), "masks": torch.zeros(2, 80, 80).byte()}]
    targets[0]["masks"][:, 10:60, 10:60] = 1
    losses = []
    for heads in (ours, theirs):
        heads.train()
        heads.box_head.eval()
        torch.manual_seed(0)
        losses.append(heads(features, [proposals[0].clone()], shapes, targets)[1])
    for name in ("loss_classifier", "loss_mask"):
        torch.testing.assert_close(losses[0][name], losses[1][name])


def test_proposal_losses_are_over_256_samples_an_image(backbone):
    rpn = build_detector(backbone, spec()).rpn
    labels = [torch.tensor([1.0, 0, 0, -1]), torch.tensor([0.0, 0, 0, 0])]
    scores, deltas = torch.randn(8, 1), torch.randn(8, 4)
    wanted = [torch.zeros(4, 4), torch.zeros(4, 4)]
    named, boxes = rpn.compute_loss(scores, deltas, labels, wanted)
    sampled = [0, 1, 2, 4, 5, 6, 7]
    truth = torch.tensor([1.0, 0, 0, 0, 0, 0, 0])
    loss = nn.functional.binary_cross_entropy_with_logits(scores[sampled, 0], truth, reduction="sum") / 512
    torch.testing.assert_close(named, loss)
    torch.testing.assert_close(boxes, deltas[0].abs().sum() / 512)


def test_other_backbones_and_options_are_refused(backbone):
    with pytest.raises(InvalidOption, match="Sequential and detectors are built on a ResNet"):
        build_detector(nn.Sequential(), spec())
    for options in ({"architecture": "c5"}, {"norm": "group"}):
        with pytest.raises(InvalidOption, match="is not known"):
            spec(**options)


def test_examples_are_resized_mirrored_and_addressed(squares):
    first, again = (make_batch(squares.images, [Draw(0, 0), Draw(1, 3)], TINY, 0, True) for _ in range(2))
    for image, other in zip(first.images, again.images, strict=True):
        assert torch.equal(image, other)
    seen = set()
    for epoch in range(12):
        batch = make_batch(squares.images, [Draw(0, epoch)], TINY, 0, True)
        image, target = batch.images[0], batch.targets[0]
        assert min(image.shape[1:]) in TINY.train_sides
        assert target["labels"].tolist() == [1]
        (x1, y1, x2, y2) = (int(v) for v in target["boxes"][0].round())
        assert image[0, y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].min() > 0.8  # the red square is where its box says
        mask = target["masks"][0].bool()
        assert image[0, mask].mean() > 0.8
        assert image[0, ~mask].mean() < 0.45
        seen.add((image.shape[1], x1))
    assert len(seen) == 4  # two sizes, mirrored and not


def test_batches_hold_wide_or_tall_images_and_every_epoch_all(squares):
    sizes = [image.size for image in squares.images]
    steps = draws_by_step(sizes, 2, seed=0)
    draws = [next(steps) for _ in range(12)]
    assert all(len({sizes[d.index] < (70, 0) for d in step}) == 1 for step in draws)
    epochs = [[d.index for step in draws for d in step if d.epoch == epoch] for epoch in range(3)]
    assert all(sorted(e) == list(range(6)) for e in epochs)
    assert epochs[0] != epochs[1]


class Stopped(Exception):
    pass


def stop_after(steps: int):
    def listen(event: Progress) -> None:
        if event.done == steps:
            raise Stopped

    return listen


@pytest.mark.parametrize("masks", [False, True], ids=["boxes", "masks"])
def test_a_stopped_run_goes_on_bit_for_bit(backbone, squares, tmp_path, masks):
    whole = train(backbone, squares, tmp_path / "whole", masks=masks)
    options = {"masks": masks, "checkpoint_every": 2, "workers": 1}
    with pytest.raises(Stopped):
        train(backbone, squares, tmp_path / "parts", on_progress=stop_after(3), **options)
    parts = train(backbone, squares, tmp_path / "parts", **options)
    for (name, a), b in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    names = ["whole", "parts"]
    assert len({(tmp_path / n / "losses.csv").read_text() for n in names}) == 1
    answers = predict(parts, squares.images, side=64, max_side=107)
    assert all((len(a.masks) == len(a.boxes)) is masks or not len(a.boxes) for a in answers)
    result = score_detections(squares, answers, masks=masks)
    assert all(m.value is None or 0 <= m.value <= 1 for m in result)


def test_another_run_and_a_damaged_checkpoint_are_refused(backbone, squares, tmp_path):
    one = replace(TINY, steps=1, milestones=(), precise_batches=0, batch_size=1)
    train(backbone, squares, tmp_path, one)
    with pytest.raises(ArtifactMismatch, match=r"schedule.lr = 0.01, this run has 0.02"):
        train(backbone, squares, tmp_path, replace(one, lr=0.02))
    (tmp_path / CHECKPOINT).write_bytes(pickle.dumps(Path("x")))
    with pytest.raises(ArtifactError, match="cannot be read"):
        train(backbone, squares, tmp_path, one)


def test_a_loss_that_is_not_finite_ends_the_run_in_one_line(backbone, squares, tmp_path):
    broken = NarrowResNet()
    broken.conv1.weight.data.fill_(torch.nan)
    with pytest.raises(EvaluationError, match="the loss is nan at step 0"):
        train(broken, squares, tmp_path)


def test_nothing_to_train_on(backbone, squares, tmp_path):
    empty = replace(
        squares, images=tuple(replace(i, objects=i.objects.take(np.zeros(1, bool))) for i in squares.images)
    )
    with pytest.raises(DetectionDataError, match="no object to train on"):
        train(backbone, empty, tmp_path)


def test_precise_norms_are_the_mean_over_batches(backbone, squares, tmp_path):
    """With one batch, the statistics of the stem's norm are those of what the stem makes of that batch."""
    one = replace(TINY, steps=1, milestones=(), warmup=0, lr=1e-12, batch_size=1)
    detector = train(backbone, squares, tmp_path, one)
    draws = draws_by_step([i.size for i in squares.images], 1, 1)
    next(draws)
    batch = make_batch(squares.images, next(draws), one, 1, False)
    with torch.no_grad():
        seen = detector.backbone.conv1(detector.transform(batch.images)[0].tensors)
    torch.testing.assert_close(detector.backbone.bn1.running_mean, seen.mean((0, 2, 3)), atol=1e-4, rtol=1e-4)


def test_fpn_is_torchvisions(backbone):
    detector = build_detector(backbone, spec(architecture="fpn", masks=True)).eval()
    assert set(detector.backbone(torch.zeros(1, 3, 64, 64))) == {"0", "1", "2", "3", "pool"}
    assert set(detector([torch.zeros(3, 64, 70)])[0]) == {"boxes", "labels", "scores", "masks"}


def test_schedules_are_the_papers(tmp_path):
    voc, coco = SCHEDULES["voc"], SCHEDULES["coco-2x"]
    assert (voc.steps, voc.milestones, voc.warmup, voc.batch_size, voc.lr) == (24_000, (18_000, 22_000), 100, 16, 0.02)
    assert (voc.train_sides[0], voc.train_sides[-1], len(voc.train_sides), voc.max_side) == (480, 800, 11, 1333)
    assert (coco.steps, coco.milestones, coco.train_sides[0]) == (180_000, (120_000, 160_000), 640)
    assert schedule_of("voc") == voc
    for options in ({"steps": 0}, {"batch_size": 0}, {"lr": -1.0}, {"sides": (8,)}):
        with pytest.raises(InvalidOption):
            schedule_of("voc", **options)
    with pytest.raises(InvalidOption, match="choose one of voc, coco-1x, coco-2x"):
        schedule_of("lvis")


def detectron2_names(blocks: tuple[int, ...]) -> set[str]:
    """The tensors of detectron2's R50-C4 backbone and box head, counted out from its modules."""
    norm = ("weight", "bias", "running_mean", "running_var")
    names = {"backbone.stem.conv1.weight"} | {f"backbone.stem.conv1.norm.{n}" for n in norm}
    for stage, count in enumerate(blocks, 2):
        place = "roi_heads" if stage == 5 else "backbone"
        for block in range(count):
            for part in ("conv1", "conv2", "conv3", *(["shortcut"] if block == 0 else [])):
                one = f"{place}.res{stage}.{block}.{part}"
                names |= {f"{one}.weight"} | {f"{one}.norm.{n}" for n in norm}
    return names


def test_detectron2s_names_and_shapes():
    theirs, ours = detectron2_names((3, 4, 6, 3)), detectron2_weights(resnet50())
    assert len(theirs) == len(ours) == 5 * 53
    met = {name: [own for own in ours if name.endswith(f".{own}")] for name in theirs}  # its matching by suffix
    assert all(len(own) == 1 for own in met.values())
    assert {own[0] for own in met.values()} == set(ours)
    assert ours["stem.conv1.weight"].shape == (64, 3, 7, 7)
    assert ours["res2.0.shortcut.weight"].shape == (256, 64, 1, 1)
    assert ours["res3.0.conv2.weight"].shape == (128, 128, 3, 3)
    assert ours["res5.2.conv3.norm.running_var"].shape == (2048,)


def test_the_export_is_read_without_running_anything(backbone, tmp_path):
    notes = export_detectron2(backbone, tmp_path / "r18.pkl")
    assert "STRIDE_IN_1X1 False" in notes[0]
    content = pickle.loads((tmp_path / "r18.pkl").read_bytes())
    assert (content["matching_heuristics"], set(content)) == (True, {"model", "__author__", "matching_heuristics"})
    safe = read_detectron2(tmp_path / "r18.pkl")
    name = "res5.0.conv2.weight"
    for read in (content, safe):
        np.testing.assert_array_equal(read["model"][name], backbone.state_dict()["layer4.0.conv2.weight"].numpy())
        assert torch.from_numpy(read["model"][name]).dtype == torch.float32
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps({"model": Path("x")}))
    with pytest.raises(ArtifactError, match="could run code"):
        read_detectron2(tmp_path / "bad.pkl")
    with pytest.raises(InvalidOption, match=r"end --out in \.pkl"):
        export_detectron2(backbone, tmp_path / "r18.pth")
    small = resnet18()
    small.conv1 = nn.Conv2d(3, 64, 3, bias=False)
    with pytest.raises(InvalidOption, match="small-image stem"):
        detectron2_weights(small)


@pytest.mark.slow
def test_an_untrained_network_learns_to_find_and_outline_shapes(tmp_path):
    """200 steps on 36 pictures of squares and discs; on 12 others every one is found, and most of its outline."""
    spec_text = f"coco:{draw_shapes(tmp_path, 48)}/all.json"
    train_set = open_detection_set(f"{spec_text}?first=36", outlines=True)
    test_set = open_detection_set(f"{spec_text}?after=36", outlines=True)
    torch.manual_seed(0)
    detector = build_detector(NarrowResNet(), spec(masks=True, samples=16, proposals=20))
    schedule = Schedule("shapes", 200, (160,), 10, (64,), test_side=64, batch_size=4, lr=0.02, precise_batches=20)
    answers = predict(detector, test_set.images, side=64, max_side=107)
    before = {m.metric: m.value for m in score_detections(test_set, answers, masks=True)}
    fine_tune(detector, train_set, schedule, tmp_path / "run", identity={}, masks=True)
    answers = predict(detector, test_set.images, side=64, max_side=107)
    after = {m.metric: m.value for m in score_detections(test_set, answers, masks=True)}
    assert before["segment/box/AP50"] < 0.3
    assert after["segment/box/AP50"] > 0.9
    assert after["segment/box/AP"] > 0.5
    assert after["segment/mask/AP"] > 0.6


def draw_shapes(root: Path, count: int) -> Path:
    """Pictures of noise with one red square or green disc each, of 24 to 43 pixels."""
    images, rows = [], []
    for number in range(count):
        rng = np.random.default_rng(number)
        height, width = (64, 80) if number % 2 else (80, 64)
        side = int(rng.integers(24, 44))
        x, y = int(rng.integers(0, width - side)), int(rng.integers(0, height - side))
        picture = rng.integers(80, 120, (height, width, 3)).astype(np.uint8)
        disc, turn, half = int(rng.integers(2)), np.linspace(0, 2 * np.pi, 24, endpoint=False), side / 2
        down, right = np.mgrid[:side, :side] + 0.5 - half
        inside = down**2 + right**2 <= half**2 if disc else np.ones((side, side), bool)
        picture[y : y + side, x : x + side][inside] = [(220, 30, 30), (30, 220, 30)][disc]
        circle = np.stack([x + half + half * np.cos(turn), y + half + half * np.sin(turn)], 1).ravel().tolist()
        square = [x, y, x + side, y, x + side, y + side, x, y + side]
        (root / f"{number:02}.png").write_bytes(encode_png(picture))
        images.append({"id": number, "file_name": f"{number:02}.png", "height": height, "width": width})
        outline = [circle if disc else square]
        rows.append({"image_id": number, "category_id": disc, "bbox": [x, y, side, side], "segmentation": outline})
    content = {
        "images": images,
        "annotations": rows,
        "categories": [{"id": 0, "name": "square"}, {"id": 1, "name": "disc"}],
    }
    (root / "all.json").write_text(json.dumps(content))
    return root


RANK = """
import sys
from pathlib import Path
import torch
from torchvision.models.resnet import BasicBlock, ResNet
from semaug.eval.detection.door import open_detection_set
from semaug.eval.detection.fine_tuning import fine_tune
from semaug.eval.detection.model import DetectorSpec, build_detector
from semaug.eval.detection.ranks import started_ranks
from semaug.eval.detection.schedules import Schedule

torch.set_num_threads(1)
spec, out = sys.argv[1:]
torch.manual_seed(0)
detector = build_detector(ResNet(BasicBlock, [1, 1, 1, 1]), DetectorSpec(2, (0.5,) * 3, (0.2,) * 3, samples=8), seed=1)
schedule = Schedule("tiny", 1, (), 0, (64,), test_side=64, batch_size=4, lr=0.01, precise_batches=0)
with started_ranks("cpu") as (ranks, device):
    fine_tune(detector, open_detection_set(spec), schedule, Path(out), identity={}, seed=1, device=device, ranks=ranks)
    torch.save({name: p.detach() for name, p in detector.named_parameters()}, f"{out}/rank{ranks.rank}.pth")
"""


@pytest.mark.slow
def test_two_ranks_take_the_mean_of_their_gradients(squares, tmp_path):
    """Against both halves of the batch in one process: gradients averaged, one step of SGD by hand."""
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-c", RANK, squares.spec, str(tmp_path)]
    ranks = [subprocess.Popen(command, env={**os.environ, **place, "RANK": r, "LOCAL_RANK": r}) for r in "01"]
    assert [rank.wait(timeout=500) for rank in ranks] == [0, 0]
    first, second = (torch.load(tmp_path / f"rank{r}.pth", weights_only=True) for r in (0, 1))

    torch.manual_seed(0)
    start = ResNet(BasicBlock, [1, 1, 1, 1])
    detector = build_detector(start, DetectorSpec(2, (0.5,) * 3, (0.2,) * 3, samples=8), seed=1).train()
    schedule = Schedule("tiny", 1, (), 0, (64,), test_side=64, batch_size=4, lr=0.01, precise_batches=0)
    draws = next(draws_by_step([i.size for i in squares.images], 4, 1))
    plain, gradients = norm_parameters(detector), dict[str, torch.Tensor]()
    for rank in (0, 1):
        batch = make_batch(squares.images, draws[rank::2], schedule, 1, False)
        torch.manual_seed(draw_key(1, "detection-step", 0, "", view=rank) >> 1)
        detector.zero_grad()
        sum(detector(batch.images, batch.targets).values()).backward()
        for name, p in detector.named_parameters():
            gradients[name] = gradients.get(name, 0) + p.grad / 2
    for name, p in detector.named_parameters():
        wanted = p.detach() - 0.01 * (gradients[name] + (0 if name in plain else 1e-4) * p.detach())
        torch.testing.assert_close(first[name], wanted, atol=1e-6, rtol=1e-4)
        assert torch.equal(first[name], second[name]), name


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def test_a_batch_is_dealt_evenly_or_not_at_all(backbone, squares, tmp_path):
    with pytest.raises(InvalidOption, match="batch of 2 images cannot be dealt to 3 processes"):
        train(backbone, squares, tmp_path, ranks=Ranks(1, 3))
