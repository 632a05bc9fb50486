"""YOLO boxes through ultralytics (an optional dependency under AGPL-3.0).

Weights are read from the path that is given and never downloaded: ``.pt`` (loaded without pickled code), ``.onnx``,
or ``.safetensors`` with the model's ``.yaml``.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from semaug.artifacts.errors import InvalidOption, MissingDependency, MissingWeights
from semaug.artifacts.network import forbid_telemetry
from semaug.oracles.protocols import NO_BOXES, Boxes, Image

WHERE = "https://github.com/ultralytics/assets/releases"
FORMATS = (".pt", ".onnx", ".safetensors")
_SAFE = "ULTRALYTICS_SAFE_LOAD"
_SET_BY_IMPORT = (
    "OMP_NUM_THREADS",
    "NUMEXPR_MAX_THREADS",
    "TORCH_CPP_LOG_LEVEL",
    "TF_CPP_MIN_LOG_LEVEL",
    "KINETO_LOG_LEVEL",
)


class YoloDetector:
    """Boxes of an ultralytics ``YOLO`` model, most confident first; classes and confidences stay inside."""

    def __init__(
        self, model: Any, conf: float = 0.25, iou: float = 0.7, imgsz: int = 640, max_det: int = 20, device: str = "cpu"
    ) -> None:
        """``conf`` cuts detections, ``iou`` is that of class-agnostic NMS, ``imgsz`` the side in pixels."""
        self._model = model
        self._options = {"conf": conf, "iou": iou, "imgsz": imgsz, "max_det": max_det, "device": device}

    def detect(self, images: Sequence[Image]) -> list[Boxes]:
        """Boxes of shape (n, 4), xyxy, pixels of the images; a batch gives what its images give alone."""
        if not images:
            return []
        bgr = [np.ascontiguousarray(image[..., ::-1]) for image in images]
        results = self._model.predict(
            bgr,
            **self._options,
            batch=len(bgr),
            rect=False,  # the default pads a batch to its own shape, which changes results
            agnostic_nms=True,
            verbose=False,
            save=False,
        )
        return [self._boxes(result) for result in results]

    def _boxes(self, result: Any) -> Boxes:
        boxes = result.boxes.xyxy.cpu().numpy().astype(np.float32)
        return boxes if len(boxes) else NO_BOXES


def open_yolo(
    weights: Path,
    model: Path | None = None,
    conf: float = 0.25,
    iou: float = 0.7,
    imgsz: int = 640,
    max_det: int = 20,
    device: str = "cpu",
) -> YoloDetector:
    """Load YOLOv8, 11 or 26 weights; ``model`` is the ``.yaml`` that ``.safetensors`` weights belong to.

    Raises ``MissingWeights`` before anything could be downloaded, ``MissingDependency`` without ultralytics, and
    ``InvalidOption`` for a file that is no YOLO model.
    """
    _require_file(weights)
    if weights.suffix not in FORMATS:
        raise InvalidOption(f"{weights} ends in {weights.suffix!r}; YOLO weights are read from {', '.join(FORMATS)}")
    yolo = import_yolo()
    try:
        network = (
            _from_safetensors(yolo, weights, model)
            if weights.suffix == ".safetensors"
            else yolo(str(weights), task="detect", verbose=False)
        )
    except (InvalidOption, MissingWeights):
        raise
    except ModuleNotFoundError as error:
        raise MissingDependency(f"{weights} needs the package {error.name!r}; pip install {error.name}") from error
    except Exception as error:  # ultralytics reports a file that is no model by errors of many types
        reason = " ".join(str(error).split())[:120]
        raise InvalidOption(f"{weights} is not a YOLO model that can be loaded safely: {reason}") from error
    return YoloDetector(network, conf, iou, imgsz, max_det, device)


def import_yolo() -> Any:
    """``ultralytics.YOLO``, imported without its network calls and with this process's settings put back.

    Raises ``MissingDependency`` without ultralytics, and for one that would run what a file of weights says.
    """
    try:
        import torch  # noqa: F401  # first, so that ultralytics does not set its threads
    except ImportError as error:
        raise MissingDependency("the oracle yolo needs ultralytics; pip install 'semaug-oracles[yolo]'") from error
    with _untouched_process():
        try:
            from ultralytics import YOLO
            from ultralytics.nn import tasks
            from ultralytics.utils import SETTINGS, __version__
        except ImportError as error:
            raise MissingDependency("the oracle yolo needs ultralytics; pip install 'semaug-oracles[yolo]'") from error
        dict.__setitem__(SETTINGS, "sync", False)  # in this process only: nothing is reported, no file is written
    if not hasattr(tasks, "SAFE_LOAD"):
        raise MissingDependency(
            f"ultralytics {__version__} runs pickled code in weights and is not used; "
            "pip install --upgrade 'semaug-oracles[yolo]' ultralytics"
        )
    tasks.SAFE_LOAD = True  # also where it was imported before, or the environment says otherwise
    return YOLO


@contextmanager
def _untouched_process() -> Iterator[None]:
    """Undo what importing ultralytics changes: environment, OpenCV's threads, numpy's printing, Pillow's ``open``."""
    import cv2
    from PIL import Image

    forbid_telemetry()
    os.environ.setdefault("YOLO_VERBOSE", "false")
    os.environ[_SAFE] = "true"  # nobody may turn it off
    os.environ.setdefault("YOLO_CONFIG_DIR", _settings_folder())
    kept = {name: os.environ.get(name) for name in _SET_BY_IMPORT}
    threads, line_width = cv2.getNumThreads(), np.get_printoptions()["linewidth"]
    open_image = Image.open
    try:
        yield
    finally:
        for name, before in kept.items():
            if before is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = before
        cv2.setNumThreads(threads)
        Image.open = open_image
        np.set_printoptions(linewidth=line_width)


def _settings_folder() -> str:
    """A folder for the settings that ultralytics writes; nobody else can have put some there."""
    folder = Path(tempfile.gettempdir()) / f"semaug-ultralytics-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
    return str(folder) if ours else tempfile.mkdtemp(prefix="semaug-ultralytics-")


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise MissingWeights(
            f"there are no YOLO weights at {path}; get a file such as yolov8n.pt from {WHERE} and give its path as "
            "--detector-option weights=PATH (nothing is downloaded for you)"
        )


def _from_safetensors(yolo: Any, weights: Path, model: Path | None) -> Any:
    if model is None:
        raise InvalidOption(
            f"{weights} holds tensors only; name the model's yaml with --detector-option model=yolov8n.yaml"
        )
    from safetensors.torch import load_file

    network = yolo(str(model), task="detect", verbose=False)
    network.model.load_state_dict(load_file(weights))
    return network
