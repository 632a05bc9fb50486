"""``objectness``: boxes and coarse masks by a small network of our own, whose weights ship with the package.

Trained by ``tools/train_objectness.py``; what it was trained on and what it cannot do stands beside the weights, in
``objectness.md``. It has one class, `object`: nothing else could leave it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import InvalidOption, MissingWeights
from semaug.oracles.protocols import NO_BOXES, Boxes, Image, Mask
from semaug.oracles.selection import rank_masks

if TYPE_CHECKING:
    from semaug.oracles.objectness_network import ObjectnessMaps, ObjectnessNetwork

WEIGHTS = "objectness.safetensors"
WEIGHTS_DIGEST = "blake2b:2fc02d2493c652c28713d7cab1101c08"
"""Of the file that ships with the package: altered weights are refused, not used."""
_BATCH = 16


class ObjectnessDetector:
    """Boxes of the objectness network, most object-like first."""

    def __init__(
        self,
        weights: Path | None = None,
        score: float = 0.2,
        iou: float = 0.45,
        max_boxes: int = 5,
        mirrored: bool = True,
        device: str = "cpu",
    ) -> None:
        """``weights`` None takes those of the package; ``score`` cuts boxes, ``iou`` is that of non-maximum
        suppression; ``mirrored`` also looks at the mirror image and averages, for twice the time.

        Raises ``MissingWeights`` and ``InvalidOption``.
        """
        if not 0 < score < 1 or not 0 < iou <= 1 or max_boxes < 1:
            raise InvalidOption(
                f"objectness with score={score}, iou={iou}, max_boxes={max_boxes}: "
                "give 0 < score < 1, 0 < iou <= 1 and max_boxes >= 1"
            )
        self._network = open_network(weights, device)
        self._score, self._iou, self._max_boxes = score, iou, max_boxes
        self._mirrored, self._device = mirrored, device

    def detect(self, images: Sequence[Image]) -> list[Boxes]:
        """Boxes of shape (n, 4), xyxy, pixels, for every image; none for an image of one colour."""
        found = []
        for maps in _maps(self._network, images, self._device, self._mirrored):
            for image, scores, boxes in zip(maps.images, maps.scores, maps.boxes, strict=True):
                found.append(self._choose(image, scores.ravel(), boxes.reshape(-1, 4)))
        return found

    def _choose(self, image: Image, scores: NDArray[np.float32], cells: NDArray[np.float32]) -> Boxes:
        kept = scores > self._score
        if not kept.any():
            return NO_BOXES
        half = cells[kept, 2:] / 2
        corners = np.concatenate([cells[kept, :2] - half, cells[kept, :2] + half], axis=1).clip(0, 1)
        best = suppress(corners, scores[kept], self._iou)[: self._max_boxes]
        return (corners[best] * np.tile(image.shape[1::-1], 2)).astype(np.float32)


class ObjectnessSegmenter:
    """Coarse masks (cells of a 32nd of the image, smoothed) of everything that the network takes for an object."""

    def __init__(
        self,
        weights: Path | None = None,
        threshold: float = 0.1,
        max_masks: int = 3,
        mirrored: bool = True,
        device: str = "cpu",
    ) -> None:
        """``threshold`` cuts the foreground's probability; ``mirrored`` as for ``ObjectnessDetector``.

        Raises ``MissingWeights`` and ``InvalidOption``.
        """
        if not 0 < threshold < 1 or max_masks < 1:
            raise InvalidOption(
                f"objectness masks with threshold={threshold}, max_masks={max_masks}: "
                "give 0 < threshold < 1 and max_masks >= 1"
            )
        self._network = open_network(weights, device)
        self._logit = float(np.log(threshold / (1 - threshold)))
        self._max_masks, self._mirrored, self._device = max_masks, mirrored, device

    def segment(self, images: Sequence[Image], boxes: Sequence[Boxes] | None) -> list[list[Mask]]:
        """The foreground in each box, or, without boxes, its parts between 1% and 90% of the image, largest first."""
        foregrounds = [
            _enlarge(mask, image) > self._logit
            for maps in _maps(self._network, images, self._device, self._mirrored)
            for image, mask in zip(maps.images, maps.mask, strict=True)
        ]
        if boxes is None:
            return [self._parts(mask) for mask in foregrounds]
        return [[_within(mask, box) for box in rows] for mask, rows in zip(foregrounds, boxes, strict=True)]

    def _parts(self, mask: Mask) -> list[Mask]:
        count, labels = cv2.connectedComponents(mask.astype(np.uint8), None, 8)
        return rank_masks([np.asarray(labels == i) for i in range(1, count)])[: self._max_masks]


def suppress(boxes: NDArray[np.float32], scores: NDArray[np.float32], iou: float) -> NDArray[np.intp]:
    """Greedy non-maximum suppression of xyxy boxes (n, 4): indices of those that stay, best first.

    >>> suppress(np.array([[0, 0, 2, 2], [0, 0, 2, 1.9], [5, 5, 6, 6]], np.float32), np.array([0.5, 0.9, 0.1]), 0.5)
    array([1, 2])
    """
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    order, kept = np.argsort(-scores, kind="stable"), []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        start, end = np.maximum(boxes[best, :2], boxes[rest, :2]), np.minimum(boxes[best, 2:], boxes[rest, 2:])
        shared = np.prod(np.maximum(end - start, 0), axis=1)
        order = rest[shared <= iou * (areas[best] + areas[rest] - shared)]
    return np.array(kept, np.intp)


class _BatchMaps:
    """The network's maps of some images as arrays: scores (n, G, G), boxes (n, G, G, 4), mask (n, M, M) of logits."""

    __slots__ = ("boxes", "images", "mask", "scores")

    def __init__(self, network: ObjectnessNetwork, images: Sequence[Image], device: str, mirrored: bool) -> None:
        import torch

        self.images = images
        inputs = torch.from_numpy(network_input(images)).to(device)
        with torch.inference_mode():
            found: tuple[NDArray[np.float32], ...] = _arrays(network(inputs))
            if mirrored:
                turned = _unmirror(*_arrays(network(inputs.flip(3))))
                found = tuple(np.mean(pair, axis=0) for pair in zip(found, turned, strict=True))
        self.scores, self.boxes, self.mask = found
        plain = [_of_one_colour(image) for image in images]
        self.scores[plain], self.mask[plain] = 0.0, -1e3


def _arrays(maps: ObjectnessMaps) -> tuple[NDArray[np.float32], ...]:
    return tuple(t.cpu().numpy() for t in (maps.scores.sigmoid(), maps.boxes, maps.mask))


def _unmirror(
    scores: NDArray[np.float32], boxes: NDArray[np.float32], mask: NDArray[np.float32]
) -> tuple[NDArray[np.float32], ...]:
    """The maps of the image from those of its mirror image."""
    boxes = boxes[:, :, ::-1].copy()
    boxes[..., 0] = 1 - boxes[..., 0]
    return scores[:, :, ::-1], boxes, mask[:, :, ::-1]


def _of_one_colour(image: Image) -> bool:
    """Whether there is nothing to see: no network need be asked, and none is to be trusted."""
    return bool((image[::8, ::8] == image[0, 0]).all() and (image == image[0, 0]).all())


def _maps(network: ObjectnessNetwork, images: Sequence[Image], device: str, mirrored: bool) -> Iterator[_BatchMaps]:
    for start in range(0, len(images), _BATCH):
        yield _BatchMaps(network, images[start : start + _BATCH], device, mirrored)


def network_input(images: Sequence[Image]) -> NDArray[np.float32]:
    """The images as the network sees them: resized to a square and normalised, float32 (n, 3, SIDE, SIDE)."""
    from semaug.oracles.objectness_network import MEAN, SIDE, STD

    scale = (1 / (255 * np.array(STD))).astype(np.float32)
    shift = (np.array(MEAN) / np.array(STD)).astype(np.float32)
    out = np.empty((len(images), SIDE, SIDE, 3), np.float32)
    for k, image in enumerate(images):
        shrinks = image.shape[0] * image.shape[1] > SIDE * SIDE
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        out[k] = cv2.resize(image, (SIDE, SIDE), interpolation=method)
    return (out * scale - shift).transpose(0, 3, 1, 2)


def _enlarge(mask: NDArray[np.float32], image: Image) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(mask, image.shape[1::-1], interpolation=cv2.INTER_LINEAR))


def _within(mask: Mask, box: NDArray[np.float32]) -> Mask:
    height, width = mask.shape
    x1, y1 = np.floor(box[:2]).astype(int).clip(0)
    x2, y2 = np.minimum(np.ceil(box[2:]), (width, height)).astype(int)
    found = np.zeros_like(mask)
    found[y1:y2, x1:x2] = mask[y1:y2, x1:x2]
    return found


def open_network(weights: Path | None, device: str = "cpu") -> ObjectnessNetwork:
    """The network with weights of a safetensors file (float16 or float32), or with the package's own, for inference.

    Raises ``MissingWeights`` where the file is not there or the package's own was altered, ``InvalidOption`` where it
    holds another network.
    """
    if weights is None:
        return _packaged(device)
    if not weights.is_file():
        raise MissingWeights(
            f"there are no objectness weights at {weights}; leave the option out for the package's own, or train "
            "some with tools/train_objectness.py"
        )
    return _load(weights.read_bytes(), str(weights), device)


@cache
def _packaged(device: str) -> ObjectnessNetwork:
    resource = files("semaug.oracles") / WEIGHTS
    if not resource.is_file():
        raise MissingWeights(f"{WEIGHTS} is missing from the installed package; reinstall semaug-oracles")
    content = resource.read_bytes()
    digest = f"blake2b:{hashlib.blake2b(content, digest_size=16).hexdigest()}"
    if digest != WEIGHTS_DIGEST:
        raise MissingWeights(
            f"the package's {WEIGHTS} is {digest}, not {WEIGHTS_DIGEST} as shipped; reinstall semaug-oracles, or give "
            "your own file as weights=PATH"
        )
    return _load(content, WEIGHTS, device)


def _load(content: bytes, name: str, device: str) -> ObjectnessNetwork:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    from semaug.oracles.objectness_network import ObjectnessNetwork

    network = ObjectnessNetwork()
    try:
        state = {k: v.float() if v.is_floating_point() else v for k, v in load(content).items()}
        network.load_state_dict(state)
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InvalidOption(f"{name} does not hold an objectness network: {reason}") from error
    network.fold_normalisation()
    return network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
