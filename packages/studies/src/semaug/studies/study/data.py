"""Which images (or tables) fill a preset's data roles: given, found below a data root, or generated stand-ins."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from semaug.artifacts.errors import InvalidOption
from semaug.studies.study.schema import Data, Preset, Scale

DATA_ROOT = "SEMAUG_DATA"
"""The environment variable that names the folder in which known data sets are looked for."""
Origin = Literal["given", "found", "stand-in", "missing"]
HELD_OUT = "held-out:"
"""What stands for test images that are yet to be taken out of the training images; the share follows."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data role filled: specs of ``open_source`` (or of ``open_detection_set``), and where they come from."""

    name: str
    wants: str
    train: str
    test: str
    origin: Origin

    @property
    def is_wanted(self) -> bool:
        """Whether it is the set that the paper has, as far as that is known."""
        return self.origin == "found"


def resolve_data(
    preset: Preset, scale: Scale, given: Mapping[str, str] | None = None, root: Path | None = None
) -> dict[str, DataSet]:
    """Fill every role. ``given`` maps ``ROLE.train`` and ``ROLE.test`` to specs; ``root`` is ``$SEMAUG_DATA`` unless
    told. A role that nothing fills is ``missing``. Raises ``InvalidOption`` for a role that the preset does not have.
    """
    given = dict(given or {})
    known = [f"{name}.{split}" for name in preset.data for split in ("train", "test")]
    if unknown := sorted(set(given) - set(known)):
        raise InvalidOption(f"{preset.name} has no data {unknown[0]!r}; it has {', '.join(known) or 'none'}")
    root = root or (Path(os.environ[DATA_ROOT]) if os.environ.get(DATA_ROOT) else None)
    return {
        name: _resolved(name, data, scale, place, given, root) for place, (name, data) in enumerate(preset.data.items())
    }


def _resolved(name: str, data: Data, scale: Scale, place: int, given: Mapping[str, str], root: Path | None) -> DataSet:
    train, test = given.get(f"{name}.train"), given.get(f"{name}.test")
    test = test or (train if data.train_only else None)
    if train and not test and data.held_out:
        test = f"{HELD_OUT}{data.held_out:g}"
    if train or test:
        if not (train and test):
            raise InvalidOption(f"data {name!r} has {train or test} alone; give both, {name}.train and {name}.test")
        return DataSet(name, data.wants, train, test, "given")
    if scale.train_items is not None:
        return DataSet(name, data.wants, *_stand_in(data, scale, place), "stand-in")
    found = _named(data, root)
    return DataSet(name, data.wants, *(found or ("", "")), "found" if found else "missing")


def _stand_in(data: Data, scale: Scale, seed: int) -> tuple[str, str]:
    if data.stand_in != "scenes":
        return data.stand_in, data.stand_in
    return f"scenes:train?items={scale.train_items}&seed={seed}", f"scenes:test?items={scale.test_items}&seed={seed}"


def _named(data: Data, root: Path | None) -> tuple[str, str] | None:
    """The splits of a known set that lies below the root, in a folder of its name."""
    if root is None or not data.named or not (root / data.named).is_dir():
        return None
    folder = (root / data.named).resolve()
    train = f"{data.named}:{data.train or 'train'}?root={folder}"
    return train, train if data.train_only else f"{data.named}:{data.test or 'test'}?root={folder}"


def held_out_share(test: str) -> float | None:
    """The share of the training images that is to be tested on; None for test images of their own.

    >>> held_out_share("held-out:0.2"), held_out_share("folder")
    (0.2, None)
    """
    return float(test.removeprefix(HELD_OUT)) if test.startswith(HELD_OUT) else None


def remedy_of(name: str, data: Data) -> str:
    """How to fill a role."""
    below = f", or put it into ${DATA_ROOT}/{data.named}" if data.named else ""
    splits = ("train",) if data.train_only or data.held_out else ("train", "test")
    return f"{data.wants}: give {' and '.join(f'--data {name}.{split}=SPEC' for split in splits)}{below}"
