"""Kind `measurement`: nothing is compared by training; artifacts are made and looked at (and runs timed).

With the option `train = false` the variants are measured alone.
"""

from __future__ import annotations

from semaug.artifacts.errors import InvalidOption
from semaug.studies.study import kind_training
from semaug.studies.study.kinds import Kind, Planned
from semaug.studies.study.makers import check_artifact
from semaug.studies.study.measurements import check_measurements, measurement_sections
from semaug.studies.study.plan import Study
from semaug.studies.study.prepare import Ready
from semaug.studies.study.schema import Preset

TRAIN = "train"


def check(preset: Preset) -> None:
    """Raise ``InvalidOption`` for a preset that measures nothing."""
    if not preset.measurements:
        raise InvalidOption(f"{preset.name}: a measurement needs a table [measurements.NAME]; there is none")
    for name, artifact in preset.artifacts.items():
        check_artifact(name, artifact.kind, artifact.options)
    check_measurements(preset)


def plan(study: Study, ready: Ready) -> list[Planned]:
    """Runs of the variants, to be timed; none where the option `train` is false."""
    return kind_training.plan(study, ready) if study.preset.options.get(TRAIN, True) else []


KIND = Kind(
    "make artifacts and look at them; its variants are trained to be timed", check, plan,
    sections=measurement_sections, compares=False,
)  # fmt: skip
