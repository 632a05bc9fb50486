"""Segment Anything masks through segment-anything (Kirillov et al., ICCV 2023).

The architecture is read off the weights' own shapes, so ViT-B, L, H and any other size load from one path, a ``.pth``
(loaded without pickled code) or a ``.safetensors``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from semaug.artifacts.errors import InvalidOption, MissingDependency, MissingWeights
from semaug.artifacts.outside import DAMAGE, refuse_expanded
from semaug.oracles.protocols import Boxes, Image, Mask

WHERE = "https://github.com/facebookresearch/segment-anything#model-checkpoints"


class SamSegmenter:
    """Masks of a ``segment_anything`` model.

    With boxes: the image encoder runs once a batch, and the mask decoder once over all boxes of a batch, flattened
    to (image, box) pairs in chunks. Without: automatic masks, most certain first.
    """

    def __init__(
        self,
        model: Any,
        device: str = "cpu",
        *,
        multimask: bool = False,
        prompts_per_call: int = 64,
        points_per_side: int = 16,
        pred_iou_thresh: float = 0.88,
        stability_score_thresh: float = 0.95,
    ) -> None:
        """``multimask``: of three masks a box, take the one whose predicted IoU is highest."""
        self._model, self._device = model.to(device).eval(), device
        self._multimask, self._prompts_per_call = multimask, prompts_per_call
        self._automatic = {
            "points_per_side": points_per_side,
            "pred_iou_thresh": pred_iou_thresh,
            "stability_score_thresh": stability_score_thresh,
        }

    def segment(self, images: Sequence[Image], boxes: Sequence[Boxes] | None) -> list[list[Mask]]:
        """Masks, bool, at the images' sizes: one a box in the boxes' order, or automatic ones."""
        import torch

        with torch.inference_mode():
            if boxes is None:
                return [self._everything(image) for image in images]
            return self._in_boxes(images, boxes)

    def _in_boxes(self, images: Sequence[Image], boxes: Sequence[Boxes]) -> list[list[Mask]]:
        import torch
        from segment_anything.utils.transforms import ResizeLongestSide

        resize = ResizeLongestSide(self._model.image_encoder.img_size)
        chosen = [i for i, rows in enumerate(boxes) if len(rows)]
        result: list[list[Mask]] = [[] for _ in images]
        if not chosen:
            return result
        inputs = [torch.as_tensor(resize.apply_image(images[i]), device=self._device).permute(2, 0, 1) for i in chosen]
        embeddings = self._model.image_encoder(torch.stack([self._model.preprocess(x) for x in inputs]))
        prompts = [
            resize.apply_boxes_torch(torch.as_tensor(boxes[i], device=self._device), images[i].shape[:2])
            for i in chosen
        ]
        owners = torch.cat([torch.full((len(p),), j, device=self._device) for j, p in enumerate(prompts)])
        low = self._decode(embeddings, torch.cat(prompts), owners)
        for j, i in enumerate(chosen):
            full = self._model.postprocess_masks(low[owners == j], tuple(inputs[j].shape[1:]), images[i].shape[:2])
            result[i] = list((full[:, 0] > self._model.mask_threshold).cpu().numpy())
        return result

    def _decode(self, embeddings: Any, prompts: Any, owners: Any) -> Any:
        """Low-resolution mask logits of all (image, box) pairs: shape (pairs, 1, h, w)."""
        import torch

        rows = []
        for chunk, owner in zip(
            prompts.split(self._prompts_per_call), owners.split(self._prompts_per_call), strict=True
        ):
            sparse, dense = self._model.prompt_encoder(points=None, boxes=chunk, masks=None)
            rows.append(self._decode_chunk(embeddings[owner], sparse, dense))
        return torch.cat(rows)

    def _decode_chunk(self, embeddings: Any, sparse: Any, dense: Any) -> Any:
        """One decoder pass in which every prompt has its own image."""
        import torch

        decoder = self._model.mask_decoder
        tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight], dim=0)
        tokens = torch.cat((tokens.unsqueeze(0).expand(len(sparse), -1, -1), sparse), dim=1)
        positions = self._model.prompt_encoder.get_dense_pe().repeat_interleave(len(sparse), dim=0)
        count, channels, height, width = embeddings.shape
        hidden, image = decoder.transformer(embeddings + dense, positions, tokens)
        upscaled = decoder.output_upscaling(image.transpose(1, 2).reshape(count, channels, height, width))
        first = 1 if self._multimask else 0
        last = decoder.num_mask_tokens if self._multimask else 1
        weights = torch.stack(
            [decoder.output_hypernetworks_mlps[i](hidden[:, 1 + i]) for i in range(decoder.num_mask_tokens)], dim=1
        )
        masks = (weights @ upscaled.flatten(2)).view(count, -1, *upscaled.shape[2:])[:, first:last]
        if not self._multimask:
            return masks
        best = decoder.iou_prediction_head(hidden[:, 0])[:, first:last].argmax(dim=1)
        return masks[torch.arange(count, device=masks.device), best][:, None]

    def _everything(self, image: Image) -> list[Mask]:
        from segment_anything import SamAutomaticMaskGenerator

        found = SamAutomaticMaskGenerator(self._model, **self._automatic).generate(image)
        found.sort(key=lambda row: -row["predicted_iou"])
        return [np.asarray(row["segmentation"], bool) for row in found]


def open_sam(
    weights: Path,
    device: str = "cpu",
    multimask: bool = False,
    points_per_side: int = 16,
    pred_iou_thresh: float = 0.88,
    stability_score_thresh: float = 0.95,
) -> SamSegmenter:
    """Load SAM weights from a ``.pth`` or ``.safetensors`` file.

    Raises ``MissingWeights`` where there is no file, ``MissingDependency`` without segment-anything, and
    ``InvalidOption`` for a file that holds no SAM.
    """
    if not weights.is_file():
        raise MissingWeights(
            f"there are no SAM weights at {weights}; get sam_vit_b_01ec64.pth from {WHERE} and give its path as "
            "--segmenter-option weights=PATH (nothing is downloaded for you)"
        )
    try:
        import segment_anything  # noqa: F401
    except ImportError as error:
        raise MissingDependency("the oracle sam needs segment-anything; pip install 'semaug-oracles[sam]'") from error
    return SamSegmenter(
        build_sam(_read_weights(weights), weights),
        device,
        multimask=multimask,
        points_per_side=points_per_side,
        pred_iou_thresh=pred_iou_thresh,
        stability_score_thresh=stability_score_thresh,
    )


def _read_weights(path: Path) -> Mapping[str, Any]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        import torch

        found = torch.load(path, map_location="cpu", weights_only=True)
        refuse_expanded(found)
        return found if isinstance(found, Mapping) else {}
    except Exception as error:  # damaged files show as errors of many types
        reason = " ".join(str(error).split())[:120]
        raise InvalidOption(f"{path} is not a weight file that can be loaded safely: {reason}") from error


def sam_shape(weights: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes of a SAM, read off the shapes of its weights; raises ``KeyError`` where it is no SAM."""
    position = weights["image_encoder.pos_embed"].shape
    patch = weights["image_encoder.patch_embed.proj.weight"].shape[-1]
    depth = 1 + max(int(n.split(".")[2]) for n in weights if n.startswith("image_encoder.blocks."))
    spans = [weights[f"image_encoder.blocks.{i}.attn.rel_pos_h"].shape[0] for i in range(depth)]
    full = 2 * position[1] - 1
    windows = [(s + 1) // 2 for s in spans if s != full]
    head = weights["image_encoder.blocks.0.attn.rel_pos_h"].shape[1]
    return {
        "img_size": position[1] * patch,
        "patch_size": patch,
        "embed_dim": position[3],
        "depth": depth,
        "num_heads": position[3] // head,
        "mlp_ratio": weights["image_encoder.blocks.0.mlp.lin1.weight"].shape[0] / position[3],
        "window_size": windows[0] if windows else 0,
        "global_attn_indexes": [i for i, s in enumerate(spans) if s == full],
        "out_chans": weights["image_encoder.neck.0.weight"].shape[0],
        "mask_mlp_dim": weights["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0],
        "iou_hidden": weights["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0],
        "mask_in_chans": weights["prompt_encoder.mask_downscaling.3.weight"].shape[0],
    }


def build_sam(weights: Mapping[str, Any], origin: Path) -> Any:
    """A ``segment_anything.modeling.Sam`` of the size of these weights, with them loaded."""
    try:
        model = _assemble(sam_shape(weights))
        model.load_state_dict(weights)
    except (RuntimeError, *DAMAGE) as error:
        reason = " ".join(str(error).split())[:120]
        raise InvalidOption(f"{origin} does not hold the weights of a segment-anything model: {reason}") from error
    return model


def _assemble(shape: Mapping[str, Any]) -> Any:
    from functools import partial

    import torch
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    dim, side = shape["out_chans"], shape["img_size"] // shape["patch_size"]
    encoder_sizes = {k: v for k, v in shape.items() if k not in ("mask_mlp_dim", "iou_hidden", "mask_in_chans")}
    return Sam(
        image_encoder=ImageEncoderViT(
            **encoder_sizes, qkv_bias=True, use_rel_pos=True, norm_layer=partial(torch.nn.LayerNorm, eps=1e-6)
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=dim,
            image_embedding_size=(side, side),
            input_image_size=(shape["img_size"], shape["img_size"]),
            mask_in_chans=shape["mask_in_chans"],
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=dim, mlp_dim=shape["mask_mlp_dim"], num_heads=8),
            transformer_dim=dim,
            iou_head_depth=3,
            iou_head_hidden_dim=shape["iou_hidden"],
        ),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    )
