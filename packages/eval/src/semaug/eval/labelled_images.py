"""Images as training inside an evaluation needs them: random views by row and epoch, and plain ones to score on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from semaug.artifacts.schemas import Skipped
from semaug.eval.errors import EvaluationError
from semaug.eval.features import UNLABELLED, Features
from semaug.eval.splits import labelled_pair

Views = Callable[[NDArray[np.intp], int], torch.Tensor]
Plain = Callable[[NDArray[np.intp]], torch.Tensor]


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """n images that can be read, in the source's order.

    ``views(rows, epoch)`` gives one random view of each row, a pure function of both; ``plain(rows)`` the prepared
    image; both float32 (len(rows), 3, S, S), normalised. ``labels`` are int64 (n,), -1 for images without a class,
    ``class_names`` what they index. ``skipped`` lists images that could not be read; ``notes`` say what a reader of
    any result must know.
    """

    labels: NDArray[np.int64]
    keys: tuple[str, ...]
    class_names: tuple[str, ...]
    views: Views
    plain: Plain
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.keys):
            raise EvaluationError(f"{len(self.labels)} labels and {len(self.keys)} keys; give one each an image")

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: NDArray[np.intp]) -> LabelledImages:
        """The images at ``rows``; their views do not change."""
        return replace(
            self,
            labels=self.labels[rows],
            keys=tuple(self.keys[row] for row in rows),
            views=lambda chosen, epoch: self.views(rows[chosen], epoch),
            plain=lambda chosen: self.plain(rows[chosen]),
        )


@dataclass(frozen=True, slots=True)
class ImagePair:
    """Labelled training and test images whose labels index one list of ``class_names``, and warnings to tell."""

    train: LabelledImages
    test: LabelledImages
    class_names: tuple[str, ...]
    warnings: tuple[str, ...]


def image_pair(train: LabelledImages, test: LabelledImages) -> ImagePair:
    """Leave unlabelled images out and match the classes by name, with the errors and warnings of ``labelled_pair``."""
    pair = labelled_pair(_stand_in(train), _stand_in(test))
    matched = [_matched(images, part) for images, part in ((train, pair.train), (test, pair.test))]
    notes = tuple(dict.fromkeys((*train.notes, *test.notes)))
    return ImagePair(matched[0], matched[1], pair.train.class_names, pair.warnings + notes)


def _stand_in(images: LabelledImages) -> Features:
    """The images' labels as ``Features``, which the probes' matching of classes reads."""
    return Features(np.zeros((len(images), 1), np.float32), None, images.labels, images.keys, images.class_names)


def _matched(images: LabelledImages, part: Features) -> LabelledImages:
    kept = images.take(np.flatnonzero(images.labels > UNLABELLED))
    return replace(kept, labels=part.labels, class_names=part.class_names)
