"""What the probes share: labelled, matched, finite features, and the split that settings are chosen on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.draws import generator
from semaug.artifacts.joined import release_rows
from semaug.eval.errors import EvaluationError, LabelsMissing, NonFiniteFeatures, OneClass
from semaug.eval.features import Features


@dataclass(frozen=True, slots=True)
class LabelledPair:
    """Training and test features whose labels index one list of classes.

    ``warnings`` say what a reader of the result must know, such as test classes that were never trained on.
    """

    train: Features
    test: Features
    warnings: tuple[str, ...] = ()

    @property
    def classes(self) -> int:
        return self.train.classes


def labelled_pair(train: Features, test: Features) -> LabelledPair:
    """Drop unlabelled images, match the classes by name, and refuse what no probe can use.

    Classes are the union of both sets' (test images of a class without training images stay and count as wrong).
    Raises ``LabelsMissing``, ``OneClass``, ``NonFiniteFeatures`` or ``EvaluationError`` (widths that differ).
    """
    train, test = _require_labels(train, "training"), _require_labels(test, "test")
    if train.features.shape[1] != test.features.shape[1]:
        raise EvaluationError(
            f"training features have {train.features.shape[1]} columns and test features {test.features.shape[1]}; "
            "embed both with one encoder"
        )
    train, test = match_classes(train, test)
    present = np.unique(train.labels)
    if len(present) < 2:
        raise OneClass(f"the training set has one class ({train.class_names[present[0]]}); a probe needs at least 2")
    for features, role in ((train, "training"), (test, "test")):
        require_finite(features, role)
    unseen = np.setdiff1d(np.unique(test.labels), present)
    notes = [f"{role} images: {note}" for part, role in ((train, "training"), (test, "test")) for note in part.notes]
    return LabelledPair(train, test, (*_unseen_warning(test, unseen), *notes))


def match_classes(train: Features, test: Features) -> tuple[Features, Features]:
    """Rewrite both sets' labels to index one list of class names: the training set's, then what only test has.

    Sets without class names are taken to share the numbering of their labels.
    """
    if bool(train.class_names) != bool(test.class_names):
        named, bare = ("training", "test") if train.class_names else ("test", "training")
        raise EvaluationError(f"the {named} set names its classes and the {bare} set does not; give both names")
    if not train.class_names:
        names = tuple(str(label) for label in range(max(train.classes, test.classes)))
        return replace(train, class_names=names), replace(test, class_names=names)
    if train.class_names == test.class_names:
        return train, test
    known = set(train.class_names)
    joint = train.class_names + tuple(name for name in test.class_names if name not in known)
    position = {name: index for index, name in enumerate(joint)}
    renumber = np.asarray([position[name] for name in test.class_names], dtype=np.int64)
    labels = np.where(test.labels >= 0, renumber[np.maximum(test.labels, 0)], test.labels)
    return replace(train, class_names=joint), replace(test, class_names=joint, labels=labels)


def selection_split(
    labels: NDArray[np.int64], share: float = 0.2, seed: int = 0, limit: int | None = None
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Split training images into a fitting and a selection part, class by class; the test set is read only once.

    Each class gives ``round(share * count)`` images to selection and keeps at least one to fit; a class with a
    single image is fitted and never selected on. ``limit`` caps the selection part (seeded, the rest goes back).
    Returns sorted row indices. Raises ``EvaluationError`` where nothing is left to select on.
    """
    rng = generator(seed, "selection-split")
    chosen: list[NDArray[np.intp]] = []
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        count = min(len(rows) - 1, max(1, round(share * len(rows))))
        chosen.append(rows[:count])
    selection = np.concatenate(chosen)
    if limit is not None and len(selection) > limit:
        selection = rng.permutation(selection)[:limit]
    if not len(selection):
        raise EvaluationError(
            f"{len(labels)} training images of {len(np.unique(labels))} classes leave none to select settings on; "
            "give a class with at least 2 images, or fix the settings"
        )
    selection = np.sort(selection)
    return np.setdiff1d(np.arange(len(labels)), selection), selection


def _require_labels(features: Features, role: str) -> Features:
    kept = features.labelled()
    if not len(kept):
        raise LabelsMissing(
            f"none of the {len(features)} {role} images has a label; give a folder of class folders or a list "
            "with a label column"
        )
    return kept


def require_finite(features: Features, role: str) -> None:
    """Raises ``NonFiniteFeatures``, with their count and the first, where features hold NaN or infinity."""
    spaces = {"features": features.features, "projections": features.projections}
    for space, values in spaces.items():
        if values is None:
            continue
        broken = ~finite_rows(values)
        if broken.any():
            first = features.keys[int(np.flatnonzero(broken)[0])]
            raise NonFiniteFeatures(
                f"{int(broken.sum())} of {len(features)} {role} {space} hold NaN or infinity, first {first}; "
                "check the encoder (did its training diverge?)"
            )


def finite_rows(values: NDArray[np.float32], chunk: int = 16_384) -> NDArray[np.bool_]:
    """Which rows hold neither NaN nor infinity: bool (n,), looked at ``chunk`` rows at a time."""
    found = np.empty(len(values), dtype=bool)
    for start in range(0, len(values), chunk):
        np.isfinite(values[start : start + chunk]).all(axis=1, out=found[start : start + chunk])
        release_rows(values, start, start + chunk)
    return found


def _unseen_warning(test: Features, unseen: NDArray[np.int64]) -> tuple[str, ...]:
    if not len(unseen):
        return ()
    names = ", ".join(test.class_names[label] for label in unseen[:3]) + (", ..." if len(unseen) > 3 else "")
    count = int(np.isin(test.labels, unseen).sum())
    return (f"{count} test images are of {len(unseen)} classes without training images ({names}): they count as wrong",)
