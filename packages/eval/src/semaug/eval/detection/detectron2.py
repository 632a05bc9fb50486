"""A ResNet for detectron2: its names, and the pickle that detectron2 reads weights from.

Configure detectron2 for what it is given: INPUT.FORMAT "RGB", MODEL.PIXEL_MEAN and PIXEL_STD 255 times the encoder's
mean and std, RESNETS.STRIDE_IN_1X1 False, RESNETS.NORM "SyncBN" and BACKBONE.FREEZE_AT 0.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from semaug.artifacts.errors import ArtifactError, InvalidOption
from semaug.artifacts.files import write_atomic
from semaug.eval.detection.model import require_resnet

Weights = dict[str, NDArray[np.float32]]
AUTHOR = "semaug"
_SAFE = {("numpy", "ndarray"): np.ndarray, ("builtins", "bytearray"): bytearray}


def detectron2_name(name: str) -> str | None:
    """detectron2's name of one of torchvision's ResNet tensors; None for what it has none of (batch counters, the
    classifier).

    >>> detectron2_name("layer1.0.downsample.1.running_mean"), detectron2_name("bn1.weight")
    ('res2.0.shortcut.norm.running_mean', 'stem.conv1.norm.weight')
    """
    if name.endswith("num_batches_tracked") or name.startswith("fc."):
        return None
    name = re.sub(r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
    name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    name = re.sub(r"(^|\.)bn(\d)\.", r"\1conv\2.norm.", name)
    return name if name.startswith("res") else f"stem.{name}"


def detectron2_weights(backbone: nn.Module) -> Weights:
    """The tensors of a ResNet by detectron2's names, float32.

    Raises ``InvalidOption`` for another backbone or the small-image stem, which detectron2 does not have.
    """
    resnet = require_resnet(backbone)
    if resnet.conv1.kernel_size != (7, 7):
        raise InvalidOption(
            f"the encoder has the small-image stem ({resnet.conv1.kernel_size[0]}x{resnet.conv1.kernel_size[1]}) and "
            "detectron2 has no such ResNet; pretrain with --large-stem"
        )
    named = ((detectron2_name(name), tensor) for name, tensor in resnet.state_dict().items())
    return {name: _array(tensor) for name, tensor in named if name is not None}


def export_detectron2(backbone: nn.Module, out: Path) -> tuple[str, ...]:
    """Write a ``.pkl`` that detectron2's checkpointer reads as MODEL.WEIGHTS; returns what must be known to use it.

    The dictionary is that of its model zoo: ``model``, ``__author__`` and ``matching_heuristics``, by which names are
    found behind ``backbone.`` and ``roi_heads.``. Arrays are pickled as plain buffers, so any NumPy reads them.
    Raises ``InvalidOption``, ``OutputError``.
    """
    if out.suffix != ".pkl":
        raise InvalidOption(f"detectron2 reads .pkl files and not {out.name!r}; end --out in .pkl")
    content = {"model": detectron2_weights(backbone), "__author__": AUTHOR, "matching_heuristics": True}
    buffer = io.BytesIO()
    _PlainPickler(buffer, protocol=4).dump(content)
    write_atomic(out, buffer.getvalue())
    return ('set INPUT.FORMAT "RGB", RESNETS.STRIDE_IN_1X1 False, RESNETS.NORM "SyncBN", BACKBONE.FREEZE_AT 0',)


def read_detectron2(path: Path) -> dict[str, Any]:
    """What ``export_detectron2`` wrote; nothing but arrays and plain values is ever built from the file.

    Raises ``ArtifactError`` for any other pickle.
    """
    try:
        found = _PlainUnpickler(io.BytesIO(path.read_bytes())).load()
    except Exception as error:  # pickle raises whatever the bytes make it do
        raise ArtifactError(f"{path} is no export of semaug for detectron2 ({error}); export it again") from error
    if not isinstance(found, Mapping) or "model" not in found:
        raise ArtifactError(f"{path} holds no 'model'; export it again")
    return dict(found)


class _PlainPickler(pickle.Pickler):
    """Writes arrays as (shape, dtype, bytes): pickles of NumPy 2 name modules that NumPy 1 does not have."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, np.ndarray):
            return np.ndarray, (obj.shape, obj.dtype.str, bytearray(obj.tobytes()))
        return NotImplemented


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _SAFE[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which could run code") from None


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor.detach().cpu().float().numpy())
