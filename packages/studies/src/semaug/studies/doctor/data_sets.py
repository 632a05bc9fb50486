"""Data sets known by name: which lie in the folders that are looked into. Nothing is read but names."""

from __future__ import annotations

from pathlib import Path

from semaug.studies.doctor.findings import Finding
from semaug.studies.doctor.surroundings import Surroundings

_FIRST, _LAST = "n01440764", "n15075141"
"""The first and the last class of ImageNet-1k; ImageNet-100 of the papers has neither of the two."""
_ROOTS = ("", "imagenet/", "ILSVRC/Data/CLS-LOC/", "Data/CLS-LOC/")
MARKERS: dict[str, tuple[str, ...]] = {
    "cifar10": ("cifar-10-batches-py/batches.meta", "cifar-10-batches-bin/data_batch_1.bin"),
    "cifar100": ("cifar-100-python/meta", "cifar-100-binary/train.bin"),
    "stl10": ("stl10_binary/train_X.bin",),
    "dtd": ("dtd/labels", "dtd/dtd/labels"),
    "flowers102": ("flowers-102/setid.mat",),
    "pets": ("oxford-iiit-pet/annotations",),
    "food101": ("food-101/meta/classes.txt",),
    "cars": ("stanford_cars/devkit",),
    "pathmnist": ("pathmnist.npz", "pathmnist_64.npz", "pathmnist_128.npz", "pathmnist_224.npz"),
    "aptos2019": ("aptos2019/train.csv", "aptos2019-blindness-detection/train.csv"),
    "imagenet": tuple(f"{root}train/{_LAST}" for root in _ROOTS),
    "imagenet100": ("imagenet100/train", *(f"{root}train/{_LAST}" for root in _ROOTS[:3])),
    "imagenet50k": tuple(f"{root}train/{_LAST}" for root in _ROOTS),
    "sketch1k": (f"sketch/{_FIRST}", f"imagenet-sketch/{_FIRST}"),
    "tiny-imagenet": ("tiny-imagenet-200/wnids.txt",),
    "imagenette": tuple(f"imagenette2{size}/train" for size in ("", "-320", "-160")),
}
"""Name of a data set -> files or folders of which one lies in its root."""
DATA_ROOT = "SEMAUG_DATA"
"""The environment variable that studies read, too."""
OPTIONS = {f"pathmnist_{side}.npz": f"&size={side}" for side in (64, 128, 224)}
"""Marker -> what its set is opened with beside the root."""


def roots(around: Surroundings) -> list[Path]:
    """The folders looked into: those given, ``SEMAUG_DATA``, the working directory, its ``data`` and ``datasets``."""
    named = [Path(around.environ[DATA_ROOT])] if around.environ.get(DATA_ROOT) else []
    places = [*around.data, *named, around.cwd, around.cwd / "data", around.cwd / "datasets"]
    return list(dict.fromkeys(p.expanduser().absolute() for p in places))


def find_data_sets(around: Surroundings) -> dict[str, str]:
    """Name -> the words that open it (a spec), of the data sets that lie in a root, or below it in their own name."""
    found: dict[str, str] = {}
    for name, markers in MARKERS.items():
        places = ((p, m) for root in roots(around) for p in (root, root / name) for m in markers if (p / m).exists())
        for place, marker in list(places)[:1]:
            found[name] = f"{name}?root={place}{OPTIONS.get(marker, '')}"
    return found


def examine_data_sets(around: Surroundings) -> list[Finding]:
    """The data sets found, with the words that open them, and the names of the others."""
    found = find_data_sets(around)
    places = ", ".join(str(root) for root in roots(around) if root.is_dir())
    findings = [Finding("scenes", "ok", "generated: scenes:train, scenes:test need nothing")]
    findings += [Finding(name, "ok", spec) for name, spec in found.items()]
    others = [name for name in MARKERS if name not in found]
    if others:
        findings.append(
            Finding(
                "others",
                "off",
                f"not in {places}: {', '.join(others)}",
                "semaug doctor --data FOLDER; studies look in $SEMAUG_DATA",
            )
        )
    return findings
