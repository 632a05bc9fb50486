"""``semaug eval``: a lazy group, since each family of protocols has libraries of its own."""

from __future__ import annotations

from semaug.cli.console import LazyGroup

COMMANDS = {
    "embed": ("evaluation.features:embed", "Features of images, as an artifact, NPY or Parquet."),
    "linear": ("evaluation.probes:linear", "Linear probe on frozen features."),
    "knn": ("evaluation.probes:knn", "Weighted kNN over k and temperature."),
    "geometry": ("evaluation.geometry:geometry", "Dimension, uniformity, alignment, Betti curves."),
    "invariance": ("evaluation.geometry:invariance", "What features keep of changed images."),
    "all": ("evaluation.everything:everything", "Every protocol that fits, and a report."),
}
"""verb -> (module:attribute below ``semaug.cli.commands``, short help)."""

group = LazyGroup("eval", COMMANDS, help="Evaluate the encoder of a run on labelled images.")
