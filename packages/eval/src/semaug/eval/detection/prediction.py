"""A detector's answers for annotated images, at their own size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from semaug.artifacts.progress import OnProgress, Progress, ignore_progress
from semaug.eval.detection.average_precision import Detections
from semaug.eval.detection.data import AnnotatedImage
from semaug.eval.detection.examples import resized
from semaug.eval.detection.masks import pasted_codes


def predict(
    detector: nn.Module,
    images: Sequence[AnnotatedImage],
    *,
    side: int,
    max_side: int,
    device: str = "cpu",
    on_progress: OnProgress = ignore_progress,
) -> list[Detections]:
    """Answers for every image, one image at a time, so that no image's padding shapes another's.

    Images are resized to a shorter side of ``side`` pixels, or a longer of ``max_side``.
    """
    detector.to(device).eval()
    found = []
    with torch.inference_mode():
        for done, image in enumerate(images, 1):
            pixels = resized(image.read(), side, max_side).to(device)
            found.append(_at_own_size(detector([pixels])[0], image.size, tuple(pixels.shape[-2:])))
            on_progress(Progress("detect", done, len(images)))
    return found


def _at_own_size(answer: dict[str, Tensor], size: tuple[int, int], seen: tuple[int, ...]) -> Detections:
    scale = torch.tensor([size[1] / seen[1], size[0] / seen[0]] * 2)
    boxes = answer["boxes"].cpu() * scale
    masks = pasted_codes(answer["masks"], boxes, size) if "masks" in answer else ()
    labels = answer["labels"].cpu().numpy().astype(np.int64) - 1
    return Detections(boxes.numpy(), answer["scores"].cpu().numpy(), labels, masks)
