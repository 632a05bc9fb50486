"""Panoptic segmentation by an exported file, TorchScript or ONNX: YOSO, or any model that keeps to its contract.

- In: one float32 tensor (batch, 3, height, width), RGB, 0 to 255; the graph normalises it itself.
- Out: the class scores of the queries before softmax (batch, queries, labels + 1), the last column for "nothing", and
  the queries' masks before the sigmoid (batch, queries, any height, any width), in either order.

Sizes and batches that the file fixes are kept to. A pickled checkpoint is refused: it could run any code; so is a
TorchScript program that does more than compute.
"""

from __future__ import annotations

import json
import os
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import InvalidOption, MissingDependency, MissingWeights
from semaug.artifacts.files import hash_file
from semaug.prompt_synthesis.ade20k import check_labels, class_names, coco_panoptic_names
from semaug.prompt_synthesis.mask_maps import NOTHING, Image, PanopticMap, Segment
from semaug.prompt_synthesis.model_folders import free_device_memory
from semaug.prompt_synthesis.visual_prompts import resize_image

Tensors = tuple[NDArray[np.float32], ...]
LABELS: Mapping[str, Callable[[], tuple[str, ...]]] = {"ade20k": class_names, "coco": coco_panoptic_names}
"""name -> the labels in the order of the model's classes."""

SIDE = 640
THRESHOLD = 0.8
OVERLAP = 0.98
"""YOSO's own least score, and least share of a mask that is left visible."""

_LARGEST_CODE = 1 << 26
_REACHES_OUT = re.compile(
    rb"\.\s*(?:save|from_file|from_file_out|read_file|write_file)\b|\btorch\s*\.\s*classes\b"
    rb"|\bops\s*\.\s*(?!(?:aten|prim|quantized|torchvision)\b)\w+"
)
"""In TorchScript's code: what reads or writes files, objects of C++, and operators that other libraries brought."""


@dataclass(frozen=True, slots=True)
class Graph:
    """A loaded file: ``run`` takes the images, float32; the sizes that the file fixes, or None."""

    run: Callable[[NDArray[np.float32]], Tensors]
    batch: int | None = None
    height: int | None = None
    width: int | None = None


class ExportedPanoptic:
    """An exported model behind ``mask_maps.Panoptic``."""

    def __init__(
        self,
        graph: Graph,
        labels: Sequence[str],
        side: int = SIDE,
        batch_size: int = 4,
        threshold: float = THRESHOLD,
        mask_threshold: float = 0.5,
        overlap: float = OVERLAP,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        """``side``: the square that images are stretched to, where the graph takes any size."""
        self._graph: Graph | None = graph
        self._labels = tuple(labels)
        self._size = graph.height or side, graph.width or side
        self._batch_size = graph.batch or batch_size
        self._thresholds = (threshold, mask_threshold, overlap)
        self._identity = {**(identity or {}), "size": self._size, "thresholds": self._thresholds}

    def segment(self, images: Sequence[Image]) -> list[PanopticMap]:
        """One map an image, of its size. Raises ``InvalidOption`` where the file breaks the contract."""
        found: list[PanopticMap] = []
        for start in range(0, len(images), self._batch_size):
            part = images[start : start + self._batch_size]
            scores, masks = self._run(np.stack([resize_image(image, self._size) for image in part]))
            for image, score, mask in zip(part, scores[: len(part)], masks[: len(part)], strict=True):
                found.append(panoptic_map(score, mask, image.shape[:2], self._labels, *self._thresholds))
        return found

    def _run(self, images: Image) -> Tensors:
        """Class logits (batch, queries, labels + 1) and mask logits (batch, queries, height, width)."""
        if self._graph is None:
            raise ValueError("the panoptic model is closed; open it again")
        full = images if self._graph.batch is None else np.resize(images, (self._graph.batch, *images.shape[1:]))
        try:
            out = self._graph.run(np.ascontiguousarray(full.transpose(0, 3, 1, 2), np.float32))
        except Exception as error:  # each runtime has types of its own
            raise InvalidOption(
                f"the exported model fails on {len(full)} images of {self._size}: {_line(error)}"
            ) from error
        scores, masks = (next((o for o in out if o.ndim == n), None) for n in (3, 4))
        if scores is None or masks is None or scores.shape[:2] != masks.shape[:2] or len(scores) != len(full):
            shapes = [o.shape for o in out]
            raise InvalidOption(
                f"the exported model gave {shapes}, expected (batch, queries, labels + 1) and (batch, queries, h, w)"
            )
        if scores.shape[2] != len(self._labels) + 1:
            raise InvalidOption(
                f"the exported model has {scores.shape[2] - 1} classes and one for nothing, but {len(self._labels)} "
                "labels were given; give its own list as labels"
            )
        return scores, masks

    def identity(self) -> dict[str, Any]:
        """The file's digest, labels and thresholds; never a path."""
        return dict(self._identity)

    def close(self) -> None:
        """Let go of the model and give its memory back."""
        self._graph = None
        free_device_memory()


def panoptic_map(
    scores: NDArray[np.float32],
    masks: NDArray[np.float32],
    size: tuple[int, int],
    labels: Sequence[str],
    threshold: float,
    mask_threshold: float,
    overlap: float,
) -> PanopticMap:
    """One image's segments from class logits (queries, labels + 1) and mask logits (queries, height, width).

    Queries sure of a class each claim the pixels where score times mask is greatest; one that others have covered
    beyond ``overlap`` is dropped (Cheng et al., "Per-Pixel Classification is Not All You Need", 2021, section 3.4).
    """
    import torch

    shares = torch.from_numpy(np.ascontiguousarray(scores)).float().softmax(-1)
    best, label = shares.max(-1)
    sure = (label < len(labels)) & (best > threshold)
    ids = np.full(size, NOTHING, np.int32)
    if not sure.any():
        return PanopticMap(ids, ())
    logits = torch.from_numpy(np.ascontiguousarray(masks)).float()[sure]
    mask = torch.nn.functional.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0].sigmoid()
    owner, inside = (best[sure][:, None, None] * mask).argmax(0), mask >= mask_threshold
    segments: list[Segment] = []
    for query, number in enumerate(label[sure].tolist()):
        claimed = (owner == query) & inside[query]
        if claimed.any() and (owner == query).sum() >= overlap * inside[query].sum():
            ids[claimed.numpy()] = len(segments)
            segments.append(Segment(len(segments), labels[number]))
    return PanopticMap(ids, tuple(segments))


def open_exported(
    path: Path,
    labels: str | os.PathLike[str] | None = None,
    more_labels: Mapping[str, str] | None = None,
    side: int | None = None,
    device: str = "cpu",
    batch_size: int = 4,
    threshold: float | None = None,
    mask_threshold: float = 0.5,
    overlap: float | None = None,
) -> ExportedPanoptic:
    """Load a ``.onnx`` or TorchScript file. ``labels``: ade20k (the default), coco, or a JSON list of names.

    Raises ``MissingWeights``, ``MissingDependency``, and ``InvalidOption`` for a pickle and for what is no such file.
    """
    if not path.is_file():
        raise MissingWeights(f"there is no file {path}; give an exported panoptic model, .onnx or TorchScript")
    if side is not None and side < 1:
        raise InvalidOption(f"side is {side} pixels; give 1 or more")
    names = _read_labels(labels)
    check_labels(names, more_labels)
    graph = _open_onnx(path, device) if path.suffix.lower() == ".onnx" else _open_torchscript(path, device)
    identity = {
        "model": path.name,
        "digest": hash_file(path),
        "labels": list(names),
        "more_labels": dict(more_labels or {}),
    }
    chosen = THRESHOLD if threshold is None else threshold, mask_threshold, OVERLAP if overlap is None else overlap
    return ExportedPanoptic(graph, names, side or SIDE, batch_size, *chosen, identity)


def _read_labels(labels: str | os.PathLike[str] | None) -> tuple[str, ...]:
    text = os.fspath(labels or "ade20k")
    if text in LABELS:
        return LABELS[text]()
    try:
        names = json.loads(Path(text).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidOption(f"labels is {text!r}; give {', '.join(LABELS)}, or a JSON file with a list") from error
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise InvalidOption(f"{text} holds no list of names; write the model's labels in the order of its classes")
    return tuple(names)


def _open_onnx(path: Path, device: str) -> Graph:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependency(
            f"{path.name} needs onnxruntime; pip install 'semaug-prompt-synthesis[onnx]'"
        ) from error
    wanted = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
    known = set(onnxruntime.get_available_providers())
    try:
        session = onnxruntime.InferenceSession(
            str(path), providers=[*(p for p in wanted if p in known), "CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime raises types of its own
        raise InvalidOption(f"{path} is no ONNX model that can be run: {_line(error)}") from error
    inputs = session.get_inputs()
    shape = inputs[0].shape
    if len(inputs) != 1 or len(shape) != 4:
        raise InvalidOption(
            f"{path} takes {len(inputs)} inputs, the first {shape}; export one (batch, 3, height, width)"
        )
    batch, _, height, width = (length if isinstance(length, int) else None for length in shape)
    return Graph(lambda images: tuple(session.run(None, {inputs[0].name: images})), batch, height, width)


def _open_torchscript(path: Path, device: str) -> Graph:
    import torch

    _require_torchscript(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch advises other formats; the user has this one
        try:
            network = torch.jit.load(str(path), map_location=device).eval()
        except (RuntimeError, ValueError) as error:
            raise InvalidOption(f"{path} is no TorchScript model that can be run: {_line(error)}") from error

    def run(images: NDArray[np.float32]) -> Tensors:
        with torch.inference_mode():
            out = network(torch.from_numpy(images).to(device))
        parts = out.values() if isinstance(out, dict) else out
        return tuple(part.float().cpu().numpy() for part in parts)

    return Graph(run)


def _require_torchscript(path: Path) -> None:
    """Raise ``InvalidOption`` unless the file is an archive with code, which is what ``torch.jit.save`` writes, and
    its code computes only."""
    inner = dict(_code_of(path))
    if "constants.pkl" not in inner or not any(name.startswith("code/") for name in inner):
        raise InvalidOption(
            f"{path} is no TorchScript file; a pickled checkpoint is never loaded: export the model with "
            "torch.jit.trace or to ONNX"
        )
    found = next((m for text in inner.values() if (m := _REACHES_OUT.search(text))), None)
    if found is not None:
        raise InvalidOption(
            f"{path} is a TorchScript program that calls {found[0].decode()!r}, which reaches beyond computing, and is "
            "not loaded; export the network alone with torch.jit.trace or to ONNX"
        )


def _code_of(path: Path) -> Iterator[tuple[str, bytes]]:
    """The names within an archive, each with its text where it is code or says which classes to make."""
    with open(path, "rb") as file:
        if file.read(4) != b"PK\3\4":  # other forms that torch.jit.load takes have code elsewhere
            return
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                inner = entry.filename.split("/", 1)[-1]
                is_code = inner.endswith((".py", ".pkl"))
                if is_code and entry.file_size > _LARGEST_CODE:
                    raise InvalidOption(f"{path} has {entry.file_size} bytes of code in one file; export it again")
                yield inner, archive.read(entry) if is_code else b""
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, OSError, ValueError) as error:
        if isinstance(error, InvalidOption):
            raise
        raise InvalidOption(f"{path} is a damaged archive ({error}); export it again") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]
