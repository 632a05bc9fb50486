"""Every target by name."""

from __future__ import annotations

from collections.abc import Mapping

from tests.fuzzing import annotations as objects
from tests.fuzzing import artifacts, images, models, tables, texts
from tests.fuzzing.target import Target

TARGETS: Mapping[str, Target] = {
    target.name: target for part in (images, objects, tables, artifacts, models, texts) for target in part.TARGETS
}
