"""Reading a materialised folder back as the second half of an inflated set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semaug.artifacts.errors import ArtifactError
from semaug.artifacts.ragged import unpack_strings
from semaug.artifacts.reader import Artifact
from semaug.artifacts.sources import ImageSource, open_source
from semaug.artifacts.verify import MATERIALIZED

SPLIT = "train"
"""The folder of the crops within a materialised folder."""


def open_materialized(
    folder: Path, source: ImageSource, images: NDArray[np.int64]
) -> tuple[ImageSource, NDArray[np.int64], NDArray[np.int64]]:
    """The crops as a source; for each pair of crop and original, the crop's index there and the original's index.

    ``folder`` is what ``materialize_crops`` wrote, or the artifact in it.
    Originals without a crop (skipped when the crops were made) are left out of both. Raises ``ArtifactError`` when
    the crops were made from other images.
    """
    folder = folder.parent if folder.name == MATERIALIZED else folder
    artifact = Artifact.open(folder / MATERIALIZED, "materialized")
    made_from = artifact.manifest.inputs.get("source", "")
    if made_from != source.fingerprint:
        raise ArtifactError(
            f"{folder} was made from images {made_from}, these are {source.fingerprint}; "
            "run `semaug views materialize` on this folder"
        )
    crops = open_source(str(folder / SPLIT))
    place = {crops.key(i): i for i in range(len(crops))}
    files = [f for m in artifact.markers for f in unpack_strings(artifact.shard(m.shard), "file")]
    file_of = dict(zip(artifact.keys, files, strict=True))
    kept = [(int(i), file_of[k].removeprefix(f"{SPLIT}/")) for i in images if (k := source.key(int(i))) in file_of]
    if missing := [name for _, name in kept if name not in place]:
        raise ArtifactError(f"{folder / SPLIT} lacks {missing[0]} and {len(missing) - 1} more; make it again")
    return crops, np.array([place[n] for _, n in kept], np.int64), np.array([i for i, _ in kept], np.int64)
