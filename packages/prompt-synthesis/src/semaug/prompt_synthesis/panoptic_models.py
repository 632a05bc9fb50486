"""Panoptic segmentation through transformers: Mask2Former, OneFormer and EoMT."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from semaug.artifacts.errors import InvalidOption
from semaug.prompt_synthesis.ade20k import check_labels
from semaug.prompt_synthesis.mask_maps import NOTHING, Image, PanopticMap, Segment
from semaug.prompt_synthesis.model_folders import (
    ModelLocation,
    free_device_memory,
    loading,
    locate_model,
    read_config,
    resolve_dtype,
)

_WHAT = "the panoptic model"
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "mask2former": {"label_ids_to_fuse": set()},
    "oneformer": {"label_ids_to_fuse": set()},
    "eomt": {},
    "eomt_dinov3": {},
}
"""model type -> what its post-processing is told besides the thresholds."""


class TransformersPanoptic:
    """A universal segmentation model of transformers behind ``mask_maps.Panoptic``."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        device: str = "cpu",
        batch_size: int = 4,
        thresholds: Mapping[str, float] | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        """``thresholds``: arguments of the processor's panoptic post-processing; its defaults for the others."""
        self._model: Any = model.to(device).eval()
        self._processor, self._device, self._batch_size = processor, device, batch_size
        self._family = model.config.model_type
        self._labels = _labels_of(model.config)
        self._thresholds = dict(thresholds or {})
        self._identity = {**(identity or {}), "family": self._family, "thresholds": self._thresholds}

    def segment(self, images: Sequence[Image]) -> list[PanopticMap]:
        """One map an image, of its size; images of one size share a batch, so that none is padded for another."""
        found: dict[int, PanopticMap] = {}
        for places in _batches(images, self._batch_size):
            found.update(zip(places, self._segment_batch([images[i] for i in places]), strict=True))
        return [found[i] for i in range(len(images))]

    def _segment_batch(self, images: Sequence[Image]) -> list[PanopticMap]:
        import torch

        if self._model is None:
            raise ValueError("the panoptic model is closed; open it again")
        task = {"task_inputs": ["panoptic"] * len(images)} if self._family == "oneformer" else {}
        inputs = self._processor(images=list(images), return_tensors="pt", **task)
        inputs = {k: v.to(self._device) for k, v in inputs.items() if torch.is_tensor(v)}
        inputs["pixel_values"] = inputs["pixel_values"].to(self._model.dtype)
        with torch.inference_mode():
            out = self._model(**inputs)
            for name in ("class_queries_logits", "masks_queries_logits"):
                out[name] = out[name].float()
            results = getattr(self._processor, "image_processor", self._processor).post_process_panoptic_segmentation(
                out, target_sizes=[i.shape[:2] for i in images], **self._thresholds, **FAMILIES[self._family]
            )
        return [self._map(result) for result in results]

    def _map(self, result: Mapping[str, Any]) -> PanopticMap:
        segments = tuple(Segment(int(s["id"]), self._labels[int(s["label_id"])]) for s in result["segments_info"])
        ids = result["segmentation"].cpu().numpy().astype(np.int32)
        ids[~np.isin(ids, [segment.id for segment in segments])] = NOTHING
        return PanopticMap(ids, segments)

    def identity(self) -> dict[str, Any]:
        """Model, revision, digest and thresholds; never a path."""
        return dict(self._identity)

    def close(self) -> None:
        """Let go of the model and give its memory back."""
        self._model = None
        free_device_memory()


def open_transformers_panoptic(
    model: str | os.PathLike[str],
    more_labels: Mapping[str, str] | None = None,
    device: str = "cpu",
    dtype: str = "auto",
    batch_size: int = 4,
    threshold: float | None = None,
    mask_threshold: float = 0.5,
    overlap: float | None = None,
    revision: str | None = None,
) -> TransformersPanoptic:
    """Load a model whose labels are ADE20K's or COCO's, or mapped by ``more_labels``; safetensors only.

    Raises ``MissingWeights``, ``MissingDependency``, and ``InvalidOption`` for another kind of model or label.
    """
    location = locate_model(model, _WHAT, revision)
    config = read_config(location, _WHAT)
    if config.model_type not in FAMILIES:
        raise InvalidOption(
            f"{_WHAT}: {location.name} is a {config.model_type} model, which gives no panoptic maps; "
            f"use one of {', '.join(FAMILIES)}"
        )
    check_labels(_labels_of(config), more_labels)
    with loading(location, _WHAT):
        from transformers import AutoModelForUniversalSegmentation

        network = AutoModelForUniversalSegmentation.from_pretrained(
            location.source, dtype=resolve_dtype(dtype, device), use_safetensors=True, **location.options()
        )
        processor = _processor(location, config)
    thresholds = {
        name: value
        for name, value in (
            ("threshold", threshold),
            ("mask_threshold", mask_threshold),
            ("overlap_mask_area_threshold", overlap),
        )
        if value is not None
    }
    identity = {**location.identity(), "more_labels": dict(more_labels or {}), "dtype": str(network.dtype)[6:]}
    return TransformersPanoptic(network, processor, device, batch_size, thresholds, identity)


def _processor(location: ModelLocation, config: Any) -> Any:
    """The image processor, with OneFormer's task tokenizer. Always Pillow's, so that no install changes the maps."""
    from transformers import AutoImageProcessor, AutoTokenizer, OneFormerProcessor

    options = {"trust_remote_code": False, **location.options()}
    if config.model_type != "oneformer":
        return AutoImageProcessor.from_pretrained(location.source, backend="pil", **options)
    # its list of class names serves training alone, and would be fetched from another repository
    images = AutoImageProcessor.from_pretrained(location.source, backend="pil", class_info_file=None, **options)
    tokenizer = AutoTokenizer.from_pretrained(location.source, **options)
    return OneFormerProcessor(images, tokenizer, task_seq_length=config.task_seq_len)


def _labels_of(config: Any) -> list[str]:
    return [config.id2label[number] for number in sorted(config.id2label)]


def _batches(images: Sequence[Image], size: int) -> Iterator[list[int]]:
    """Places of images of one shape, at most ``size`` together."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, image in enumerate(images):
        groups.setdefault(image.shape, []).append(place)
    for places in groups.values():
        yield from (places[start : start + size] for start in range(0, len(places), size))
