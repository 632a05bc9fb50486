"""SAM through transformers, from a local folder that ``save_pretrained`` wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from semaug.artifacts.errors import InvalidOption, MissingDependency, MissingWeights
from semaug.artifacts.network import forbid_telemetry
from semaug.oracles.protocols import Boxes, Image, Mask

WHERE = "https://huggingface.co/facebook/sam-vit-base"


class SamHfSegmenter:
    """Masks of transformers' ``SamModel``: one a box, or, without boxes, of a grid of points."""

    def __init__(self, model: Any, processor: Any, device: str = "cpu", points_per_side: int = 4) -> None:
        """``points_per_side``: without boxes, the grid of single-point prompts."""
        self._model, self._processor, self._device = model.to(device).eval(), processor, device
        self._points_per_side = points_per_side

    def segment(self, images: Sequence[Image], boxes: Sequence[Boxes] | None) -> list[list[Mask]]:
        """Masks, bool, at the images' sizes: one a box in the boxes' order, or one a grid point, most certain first."""
        if boxes is None:
            return [self._of_points(image) for image in images]
        return [self._of_boxes(image, rows) if len(rows) else [] for image, rows in zip(images, boxes, strict=True)]

    def _of_boxes(self, image: Image, boxes: Boxes) -> list[Mask]:
        masks, _ = self._predict(image, input_boxes=[boxes.tolist()])
        return [mask[0] for mask in masks]

    def _of_points(self, image: Image) -> list[Mask]:
        height, width = image.shape[:2]
        shares = (np.arange(self._points_per_side) + 0.5) / self._points_per_side
        points = [[[[float(x * width), float(y * height)]] for y in shares for x in shares]]
        masks, scores = self._predict(image, input_points=points)
        order = np.argsort(-scores[:, 0], kind="stable")
        return [masks[i][0] for i in order]

    def _predict(self, image: Image, **prompts: Any) -> tuple[Any, Any]:
        """Masks (prompts, 1, height, width) bool and their predicted IoU (prompts, 1)."""
        import torch

        inputs = self._processor(images=image, return_tensors="pt", **prompts)
        sizes = inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes")
        tensors = {
            k: v.to(self._device, torch.float32 if v.is_floating_point() else v.dtype) for k, v in inputs.items()
        }
        with torch.inference_mode():
            out = self._model(**tensors, multimask_output=False)
        masks = self._processor.image_processor.post_process_masks(out.pred_masks.cpu(), *(s.tolist() for s in sizes))
        return masks[0].numpy().astype(bool), out.iou_scores[0].cpu().numpy()


def open_sam_hf(weights: Path, device: str = "cpu", points_per_side: int = 4) -> SamHfSegmenter:
    """Load a SAM from a folder with ``config.json``, ``model.safetensors`` and ``preprocessor_config.json``.

    Raises ``MissingWeights`` where there is no such folder, ``MissingDependency`` without transformers, and
    ``InvalidOption`` for a folder that holds no SAM.
    """
    if not (weights / "config.json").is_file():
        raise MissingWeights(
            f"there is no transformers model in {weights}; get the files of {WHERE} and give their folder as "
            "--segmenter-option weights=FOLDER (nothing is downloaded for you)"
        )
    forbid_telemetry()
    try:
        from transformers import SamModel, SamProcessor
        from transformers.utils import logging
    except ImportError as error:
        raise MissingDependency("the oracle sam-hf needs transformers; pip install 'semaug-oracles[hf]'") from error
    logging.disable_progress_bar()  # progress is the caller's to draw
    try:
        model = SamModel.from_pretrained(weights, local_files_only=True, use_safetensors=True)
        processor = SamProcessor.from_pretrained(weights, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InvalidOption(f"{weights} does not hold a SAM of transformers: {reason}") from error
    return SamHfSegmenter(model, processor, device, points_per_side)
