"""``semaug doctor``: what is installed, what can run here, what is missing, and the remedy for each.

Nothing is downloaded, no heavy library but torch is imported, and nothing is written that stays.
"""

from __future__ import annotations

from semaug.studies.doctor.capabilities import (
    DETECTORS,
    OTHERS,
    SEGMENTERS,
    SYNTHESIS,
    examine_capabilities,
    examine_methods,
    examine_plugins,
)
from semaug.studies.doctor.data_sets import examine_data_sets
from semaug.studies.doctor.findings import Diagnosis, Finding, Section, State
from semaug.studies.doctor.packages import examine_extras, examine_imports, examine_packages
from semaug.studies.doctor.studies import examine_studies
from semaug.studies.doctor.surroundings import Surroundings
from semaug.studies.doctor.system import (
    examine_devices,
    examine_disk,
    examine_numba,
    examine_processor,
    examine_python,
)
from semaug.studies.doctor.weights import examine_weights, find_models

__all__ = ["Diagnosis", "Finding", "Section", "State", "Surroundings", "diagnose"]


def diagnose(around: Surroundings | None = None, *, quick: bool = False, imports: bool = False) -> Diagnosis:
    """Examine this process's surroundings, or given ones.

    ``quick`` leaves out devices and studies, which import torch; ``imports`` tries every library in a process of its
    own, which takes minutes.
    """
    around = around or Surroundings()
    models = find_models(around)
    oracles = examine_capabilities(around, (*DETECTORS, *SEGMENTERS), models) + examine_plugins(around)
    others = examine_capabilities(around, OTHERS, models)
    sections = {
        "System": [*examine_python(), *examine_processor(around), *examine_numba(around)],
        "Devices": [] if quick else examine_devices(around),
        "Disk": examine_disk(around),
        "Packages": examine_packages(around),
        "Extras": examine_extras(around),
        "Imports": examine_imports(around) if imports else [],
        "Weights": examine_weights(around, models),
        "Oracles": oracles,
        "Synthesis": examine_capabilities(around, SYNTHESIS, models),
        "Methods and tools": [examine_methods(around), *others],
        "Studies": [] if quick else examine_studies(around),
        "Data sets": examine_data_sets(around),
    }
    return Diagnosis(tuple(Section(title, tuple(found)) for title, found in sections.items() if found))
