"""A detector of one's own: FastestDet, a 1 MB network, through onnxruntime.

    semaug guide extract FOLDER --out guidance.zarr --granularity object \\
        --detector examples/fastestdet/fastestdet_detector.py:FastestDet --detector-option model=fastestdet.onnx
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray


class FastestDet:
    """Boxes of FastestDet, best first; its classes and scores do not leave this class."""

    trained_on = "COCO train2017, 80 classes with boxes"

    def __init__(self, model: Path, score: float = 0.45, iou: float = 0.45, max_boxes: int = 20) -> None:
        """``score`` cuts detections, ``iou`` is that of class-agnostic non-maximum suppression."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # semaug runs one worker a core
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0]
        self._score, self._iou, self._max_boxes = score, iou, max_boxes

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """Boxes float32 (n, 4), xyxy, pixels, for every RGB uint8 image."""
        return [self._detect_one(image) for image in images]

    def dense(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Every cell's box (n, 4), xyxy in shares of the image, score (n,) and class distribution (n, 80).

        For training a network of one's own on what this one thinks (``tools/train_objectness.py``).
        """
        output = self._run(image)
        boxes, scores = decode(output)
        return boxes, scores, output[5:].reshape(len(output) - 5, -1).T

    def _run(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        side = self._input.shape[-1]
        bgr = cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR)[..., ::-1]
        tensor = np.ascontiguousarray(bgr.transpose(2, 0, 1)[None], np.float32) / 255
        return self._session.run(None, {self._input.name: tensor})[0][0]

    def _detect_one(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        boxes, scores = decode(self._run(image))
        kept = scores > self._score
        boxes = boxes[kept] * np.tile(image.shape[1::-1], 2)
        return boxes[suppress(boxes, scores[kept], self._iou)][: self._max_boxes].astype(np.float32)


def decode(output: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Boxes (cells, 4) in shares of the image and their scores (cells,) from the output (85, rows, columns)."""
    rows, columns = output.shape[1:]
    y, x = np.mgrid[:rows, :columns]
    centre_x, centre_y = (np.tanh(output[1]) + x) / columns, (np.tanh(output[2]) + y) / rows
    half_width, half_height = (1 / (1 + np.exp(-output[i])) / 2 for i in (3, 4))
    corners = [centre_x - half_width, centre_y - half_height, centre_x + half_width, centre_y + half_height]
    scores = output[0] ** 0.6 * output[5:].max(axis=0) ** 0.4
    return np.stack(corners, axis=-1).reshape(-1, 4), scores.ravel()


def suppress(boxes: NDArray[np.floating], scores: NDArray[np.floating], iou: float) -> NDArray[np.intp]:
    """Greedy non-maximum suppression: indices of the boxes that stay, best first."""
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    order, kept = np.argsort(-scores, kind="stable"), []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        start, end = np.maximum(boxes[best, :2], boxes[rest, :2]), np.minimum(boxes[best, 2:], boxes[rest, 2:])
        shared = np.prod(np.maximum(end - start, 0), axis=1)
        order = rest[shared <= iou * (areas[best] + areas[rest] - shared)]
    return np.array(kept, np.intp)
