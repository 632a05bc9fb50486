"""Frozen features of the rows of a table, as ``features`` has them of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from semaug.artifacts.progress import OnProgress, Progress, ignore_progress
from semaug.artifacts.tables import TableSource
from semaug.eval.features import EmbeddedRows, Encode, Features, chosen_items, evaluation_mode

BATCH = 1024


def embed_rows(
    encode: Encode,
    table: TableSource,
    *,
    batch_size: int = BATCH,
    device: str = "cpu",
    limit: int | None = None,
    seed: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> Features:
    """Features of every row of a table, in its order; ``encode`` takes float32 (b, columns).

    ``limit`` keeps a seeded random subset. A ``torch.nn.Module`` is put into evaluation mode for the call.
    """
    groups = [chosen_items(len(table), limit, seed)]
    (rows,) = embed_row_groups(encode, table, groups, batch_size=batch_size, device=device, on_progress=on_progress)
    return Features(
        rows.features, rows.projections, rows.labels, rows.keys, table.class_names, notes=getattr(table, "notes", ())
    )


def embed_row_groups(
    encode: Encode,
    table: TableSource,
    groups: Sequence[Sequence[int]],
    *,
    batch_size: int = BATCH,
    device: str = "cpu",
    on_progress: OnProgress = ignore_progress,
    done: int = 0,
) -> Iterator[EmbeddedRows]:
    """Features of groups of rows, a group at a time; a batch never joins rows of two groups (see ``embed_groups``)."""
    total = done + sum(map(len, groups))
    with evaluation_mode(encode):
        for group in groups:
            indices = np.asarray(group, np.int64)
            parts: list[tuple[NDArray[np.float32], NDArray[np.float32] | None]] = []
            for start in range(0, len(indices), batch_size):
                rows = torch.from_numpy(table.rows(indices[start : start + batch_size]))
                with torch.inference_mode():
                    features, projections = encode(rows.to(device))
                parts.append((_plain(features), None if projections is None else _plain(projections)))
                done += len(rows)
                on_progress(Progress("embed", done, total))
            yield _joined(table, indices, parts)


def _plain(values: torch.Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = values.float().cpu().numpy()
    return found


def _joined(
    table: TableSource, indices: NDArray[np.int64], parts: list[tuple[NDArray[np.float32], NDArray[np.float32] | None]]
) -> EmbeddedRows:
    projections = [p for _, p in parts if p is not None]
    return EmbeddedRows(
        np.concatenate([f for f, _ in parts]) if parts else np.zeros((0, 0), np.float32),
        np.concatenate(projections) if projections else None,
        np.asarray(table.labels)[indices],
        tuple(table.key(int(i)) for i in indices),
        np.zeros((len(indices), 2), np.int32),
        (),
    )
