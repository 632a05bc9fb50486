"""``semaug eval``: a lazy group, since each family of protocols has libraries of its own."""

from __future__ import annotations

from semaug.cli.console import LazyGroup

COMMANDS = {
    "linear": ("evaluation.probes:linear", "Linear probe on frozen features."),
    "knn": ("evaluation.probes:knn", "Weighted kNN over k and temperature."),
    "all": ("evaluation.everything:everything", "Every protocol that fits, and a report."),
}
"""verb -> (module:attribute below ``semaug.cli.commands``, short help)."""

group = LazyGroup("eval", COMMANDS, help="Evaluate the encoder of a run on labelled images.")
