"""Faster and Mask R-CNN on a ResNet of ours, from torchvision's parts.

``c4`` is what the papers train (Res5ROIHeadsExtraNorm of MoCo's detectron2 set-up): regions are proposed on the maps
of stage 4 (conv4, 16 pixels a cell), pooled from there at 14x14 and passed through the ResNet's last stage and one more
norm; their mean goes to one classifier and box regressor, the maps to the mask head. ``fpn`` is torchvision's feature
pyramid, which is not comparable with the papers.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNPredictor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNN, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference, maskrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.models.resnet import ResNet
from torchvision.ops import FrozenBatchNorm2d, roi_align

from semaug.artifacts.draws import draw_key
from semaug.artifacts.errors import InvalidOption

ANCHOR_SIDES = (32, 64, 128, 256, 512)
ANCHOR_RATIOS = (0.5, 1.0, 2.0)
ARCHITECTURES = ("c4", "fpn")
NORMS = ("batch", "frozen")
POOLED = 14
MASK_WIDTH = 256
SAMPLES = 512
PROPOSALS = 1000
_FPN_WIDTH = 256


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """What a detector is built as: ``classes`` without background, ``masks`` for Mask R-CNN.

    ``norm`` is that of the backbone: ``batch`` trains on (synchronised over the ranks of a run on several GPUs),
    ``frozen`` keeps the statistics and weights of pretraining. ``mean`` and ``std`` normalise RGB in [0, 1].
    ``samples`` regions an image are trained on, and ``proposals`` are looked at in a test image: detectron2's numbers,
    which decide what a step costs, since each region passes the last stage.
    """

    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    masks: bool = False
    architecture: str = "c4"
    norm: str = "batch"
    samples: int = SAMPLES
    proposals: int = PROPOSALS

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise InvalidOption(f"architecture {self.architecture!r} is not known; choose {' or '.join(ARCHITECTURES)}")
        if self.norm not in NORMS:
            raise InvalidOption(f"norm {self.norm!r} is not known; choose {' or '.join(NORMS)}")
        if min(self.classes, self.samples, self.proposals) < 1:
            raise InvalidOption(
                f"a detector of {self.classes} classes, {self.samples} samples and {self.proposals} proposals; give at "
                "least 1 of each"
            )

    def describe(self) -> dict[str, Any]:
        """The spec as plain JSON values."""
        return asdict(self)


def build_detector(backbone: nn.Module, spec: DetectorSpec, seed: int = 0) -> GeneralizedRCNN:
    """A detector that starts from the weights of ``backbone``, a ResNet in torchvision's names, which it copies.

    Images are float32 (3, h, w) in [0, 1], resized before (``examples.resized``); answers are in their pixels, masks
    as the head gives them. The new weights depend on ``seed`` alone. Raises ``InvalidOption`` for another backbone.
    """
    resnet = deepcopy(require_resnet(backbone)).train()
    if spec.norm == "frozen":
        _freeze_norms(resnet)
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(draw_key(seed, "detector", 0, "") >> 1)
        return _build_c4(resnet, spec) if spec.architecture == "c4" else _build_fpn(resnet, spec)


def require_resnet(backbone: nn.Module) -> ResNet:
    """``backbone`` where it is a ResNet; raises ``InvalidOption`` in one line where it is not."""
    if not isinstance(backbone, ResNet):
        raise InvalidOption(
            f"the encoder's backbone is {type(backbone).__name__} and detectors are built on a ResNet; pretrain with "
            "--backbone resnet18, resnet34, resnet50 or resnet101"
        )
    return backbone


def cell_side(resnet: ResNet) -> int:
    """Pixels a side of a cell of stage 4's maps: 16, with the small-image stem 4.

    >>> from torchvision.models import resnet18
    >>> cell_side(resnet18())
    16
    """
    stem = resnet.conv1.stride[0]
    pooling = resnet.maxpool.stride if isinstance(resnet.maxpool, nn.MaxPool2d) else 1
    return int(stem * pooling * 4)  # type: ignore[operator]


class ReadyImages(GeneralizedRCNNTransform):
    """Normalises and pads images that were resized before, and leaves answers as they are."""

    def __init__(self, spec: DetectorSpec, multiple: int) -> None:
        super().__init__(800, 1333, list(spec.mean), list(spec.std), size_divisible=multiple)

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        return image, target

    def postprocess(
        self,
        result: list[dict[str, Tensor]],
        image_shapes: list[tuple[int, int]],
        original_image_sizes: list[tuple[int, int]],
    ) -> list[dict[str, Tensor]]:
        return result


class C4Body(nn.Module):
    """A ResNet's stem and its stages up to the fourth (conv4)."""

    def __init__(self, resnet: ResNet) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu, self.maxpool = resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool
        self.layer1, self.layer2, self.layer3 = resnet.layer1, resnet.layer2, resnet.layer3
        self.out_channels = _width(resnet.layer3)

    def forward(self, images: Tensor) -> Tensor:
        """Maps (B, out_channels, h, w) of normalised images (B, 3, H, W)."""
        maps = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        return self.layer3(self.layer2(self.layer1(maps)))


class Conv5Head(nn.Module):
    """The ResNet's last stage over pooled regions, and one more batch norm."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage
        self.out_channels = _width(stage)
        self.norm = nn.BatchNorm2d(self.out_channels)

    def forward(self, regions: Tensor) -> Tensor:
        """Maps (n, out_channels, 7, 7) of regions (n, C, 14, 14)."""
        return self.norm(self.stage(regions))


class PooledRegions(nn.Module):
    """Regions of the one map, 14x14, by RoIAlign with half-pixel offsets and as many samples as a bin needs."""

    def __init__(self, cell: int) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """float32 (n, C, 14, 14) for n boxes over all images."""
        maps = next(iter(features.values()))
        return roi_align(maps, boxes, POOLED, spatial_scale=1 / self.cell, sampling_ratio=0, aligned=True)


class AbsoluteErrorProposals(RegionProposalNetwork):
    """torchvision's proposals with detectron2's box loss: absolute error, over the 256 samples of each image."""

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        positive, negative = (torch.cat(found).bool() for found in self.fg_bg_sampler(labels))
        total = self.fg_bg_sampler.batch_size_per_image * len(labels)
        targets, wanted, scores = torch.cat(regression_targets), torch.cat(labels), objectness.flatten()
        box_loss = F.l1_loss(pred_bbox_deltas[positive], targets[positive], reduction="sum") / total
        sampled = positive | negative
        named = F.binary_cross_entropy_with_logits(scores[sampled], wanted[sampled].float(), reduction="sum") / total
        return named, box_loss


class C4Heads(RoIHeads):
    """torchvision's region heads with the last stage run once for boxes and masks, and detectron2's box loss."""

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Answers for each image (evaluation) or losses by name (training)."""
        if self.training:
            assert targets is not None
            return [], self._losses(features, proposals, image_shapes, targets)
        return self._answers(features, proposals, image_shapes), {}

    def _losses(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        proposals, matched, labels, box_targets = self.select_training_samples(proposals, targets)
        maps = self.box_head(self.box_roi_pool(features, proposals, image_shapes))
        logits, deltas = self.box_predictor(maps.mean((2, 3)))
        wanted = torch.cat(labels)
        losses = {
            "loss_classifier": F.cross_entropy(logits, wanted),
            "loss_box_reg": _box_loss(deltas, torch.cat(box_targets), wanted),  # type: ignore[arg-type]
        }
        if self.mask_predictor is not None:
            objects = [label > 0 for label in labels]
            losses["loss_mask"] = maskrcnn_loss(
                self.mask_predictor(maps[torch.cat(objects)]),
                [p[o] for p, o in zip(proposals, objects, strict=True)],
                [t["masks"] for t in targets],
                [t["labels"] for t in targets],
                [m[o] for m, o in zip(matched, objects, strict=True)],
            )
        return losses

    def _answers(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        maps = self.box_head(self.box_roi_pool(features, proposals, image_shapes))
        found = self.postprocess_detections(*self.box_predictor(maps.mean((2, 3))), proposals, image_shapes)
        answers = [{"boxes": b, "scores": s, "labels": n} for b, s, n in zip(*found, strict=True)]
        if self.mask_predictor is not None:
            maps = self.box_head(self.box_roi_pool(features, [a["boxes"] for a in answers], image_shapes))
            masks = maskrcnn_inference(self.mask_predictor(maps), [a["labels"] for a in answers])
            for answer, mask in zip(answers, masks, strict=True):
                answer["masks"] = mask
        return answers


def _box_loss(deltas: Tensor, targets: Tensor, labels: Tensor) -> Tensor:
    """Absolute error of the boxes of each object's own class, over all samples."""
    objects = labels > 0
    own = deltas.reshape(len(deltas), -1, 4)[objects, labels[objects]]
    return F.l1_loss(own, targets[objects], reduction="sum") / len(labels)


def _build_c4(resnet: ResNet, spec: DetectorSpec) -> GeneralizedRCNN:
    cell = cell_side(resnet)
    body, head = C4Body(resnet), Conv5Head(resnet.layer4)
    anchors = AnchorGenerator((ANCHOR_SIDES,), (ANCHOR_RATIOS,))
    proposals = AbsoluteErrorProposals(
        anchors,
        RPNHead(body.out_channels, anchors.num_anchors_per_location()[0]),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n={"training": 12_000, "testing": 6_000},
        post_nms_top_n={"training": 2 * PROPOSALS, "testing": spec.proposals},
        nms_thresh=0.7,
    )
    regions = PooledRegions(cell)
    heads = C4Heads(
        regions,
        head,
        _box_predictor(head.out_channels, spec.classes),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=spec.samples,
        positive_fraction=0.25,
        bbox_reg_weights=(10.0, 10.0, 5.0, 5.0),
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_img=100,
        mask_roi_pool=regions if spec.masks else None,
        mask_head=head if spec.masks else None,
        mask_predictor=_mask_predictor(head.out_channels, spec.classes) if spec.masks else None,
    )
    return GeneralizedRCNN(body, proposals, heads, ReadyImages(spec, cell))


def _box_predictor(inputs: int, classes: int) -> FastRCNNPredictor:
    """Classifier and box regressor, drawn as detectron2 draws them."""
    predictor = FastRCNNPredictor(inputs, classes + 1)
    for layer, deviation in ((predictor.cls_score, 0.01), (predictor.bbox_pred, 0.001)):
        nn.init.normal_(layer.weight, std=deviation)
        nn.init.zeros_(layer.bias)
    return predictor


def _mask_predictor(inputs: int, classes: int) -> MaskRCNNPredictor:
    predictor = MaskRCNNPredictor(inputs, MASK_WIDTH, classes + 1)
    nn.init.normal_(predictor.mask_fcn_logits.weight, std=0.001)
    return predictor


def _build_fpn(resnet: ResNet, spec: DetectorSpec) -> GeneralizedRCNN:
    widths = [_width(stage) for stage in (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4)]
    stages = {f"layer{number}": str(number - 1) for number in range(1, 5)}
    body = BackboneWithFPN(resnet, stages, widths, _FPN_WIDTH)
    kind = MaskRCNN if spec.masks else FasterRCNN
    detector: GeneralizedRCNN = kind(
        body, spec.classes + 1, box_batch_size_per_image=spec.samples, rpn_post_nms_top_n_test=spec.proposals
    )
    detector.transform = ReadyImages(spec, 32)
    return detector


def _width(stage: nn.Module) -> int:
    """Channels that a ResNet's stage gives."""
    block: Any = list(stage.children())[-1]
    return int((block.conv3 if hasattr(block, "conv3") else block.conv2).out_channels)


def _freeze_norms(module: nn.Module) -> None:
    """Replace every batch norm inside by one that keeps its statistics and weights."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features, eps=child.eps)
            state = {key: value for key, value in child.state_dict().items() if key != "num_batches_tracked"}
            frozen.load_state_dict(state)
            setattr(module, name, frozen)
        else:
            _freeze_norms(child)


def norm_parameters(detector: nn.Module) -> set[str]:
    """Names of the weights and biases of norms: detectron2 does not decay them."""
    norms = {n: m for n, m in detector.named_modules() if isinstance(m, nn.BatchNorm2d | nn.SyncBatchNorm)}
    return {f"{name}.{own}" for name, norm in norms.items() for own, _ in norm.named_parameters(recurse=False)}
