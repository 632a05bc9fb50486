"""Learning curves: ``metrics.csv`` and TensorBoard events, without rows twice after a resumed run."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from semaug.artifacts.files import fsync_path, write_atomic, writing

Row = Mapping[str, float | int]


class CurveWriter:
    """Appends rows of numbers by step; what lies behind ``step`` is dropped first, since it will come again."""

    def __init__(self, csv_path: Path, step: int = 0, *, tensorboard: bool = True) -> None:
        self.path = csv_path
        self._rows = [r for r in read_rows(csv_path) if int(r["step"]) <= step]
        self._columns = list(dict.fromkeys(name for r in self._rows for name in r))
        self._rewrite()
        self._events = _open_events(csv_path.parent, step) if tensorboard else None

    def write(self, row: Row) -> None:
        """Add one row; it must hold ``step``."""
        self._rows.append({name: f"{value:.12g}" for name, value in row.items()})
        added = [name for name in row if name not in self._columns]
        self._columns += added
        if added:
            self._rewrite()
        else:
            self._append(self._rows[-1])
        if self._events is not None:
            for name, value in row.items():
                if name != "step":
                    self._events.add_scalar(name, value, int(row["step"]))

    def flush(self) -> None:
        """Put the rows on the disk: a run that goes on from a checkpoint made after this has them."""
        with writing(self.path):
            if self.path.exists():
                fsync_path(self.path)

    def close(self) -> None:
        """Flush and close the TensorBoard events."""
        if self._events is not None:
            self._events.close()
            self._events = None

    def _append(self, row: Mapping[str, str]) -> None:
        with writing(self.path), open(self.path, "a", newline="") as file:
            csv.DictWriter(file, self._columns, lineterminator="\n").writerow(row)

    def _rewrite(self) -> None:
        if not self._columns:
            self.path.unlink(missing_ok=True)
            return
        text = io.StringIO()
        table = csv.DictWriter(text, self._columns, lineterminator="\n")
        table.writeheader()
        table.writerows(self._rows)
        write_atomic(self.path, text.getvalue().encode())


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a ``metrics.csv``: text by column, empty cells left out, a torn last line dropped."""
    if not path.exists():
        return []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    return [{k: v for k, v in row.items() if v} for row in csv.DictReader(io.StringIO(whole))]


def _open_events(folder: Path, step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)
