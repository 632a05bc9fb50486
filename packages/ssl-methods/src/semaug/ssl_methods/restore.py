"""Where a run goes on: its last checkpoint, held against the method that is to go on from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from semaug.artifacts.errors import ArtifactMismatch
from semaug.ssl_methods.methods import Method
from semaug.ssl_methods.runs import RunFolder

METHOD = "semaug_method"
"""Where a checkpoint names its method."""
_PREFIX = "method."
_REMEDY = "put the run's own checkpoint back, or start anew with --overwrite"


def restore(method: Method, folder: RunFolder, steps: int) -> int:
    """The step to go on from; of a run that was stopped after its last one, the method's state too.

    Raises ``ArtifactMismatch`` for a checkpoint of another method or other shapes, ``ArtifactError`` for a damaged one.
    """
    checkpoint = folder.load_checkpoint()
    if checkpoint is None:
        return 0
    state = _state(method, checkpoint, folder.checkpoint)
    if checkpoint["global_step"] >= steps:
        method.load_state_dict(state)
    return int(checkpoint["global_step"])


def _state(method: Method, checkpoint: Mapping[str, Any], path: Path) -> dict[str, Any]:
    if not isinstance(checkpoint, Mapping) or not {"global_step", "state_dict"} <= set(checkpoint):
        raise ArtifactMismatch(f"{path} is no checkpoint of a semaug run; {_REMEDY}")
    made = checkpoint.get(METHOD, method.name)
    if made != method.name:
        raise ArtifactMismatch(
            f"{path} is a checkpoint of method {made!r} and this run trains {method.name!r}; {_REMEDY}"
        )
    state = {k.removeprefix(_PREFIX): v for k, v in checkpoint["state_dict"].items()}
    wanted = method.state_dict()
    for name in sorted({*state, *wanted}):
        shapes = [tuple(t[name].shape) if name in t else None for t in (state, wanted)]
        if shapes[0] != shapes[1]:
            raise ArtifactMismatch(f"{path} has {name} of shape {shapes[0]}, this {method.name} {shapes[1]}; {_REMEDY}")
    return state
