"""``semaug pairs``: a lazy group, since proposing and curating have libraries of their own."""

from __future__ import annotations

from semaug.cli.console import LazyGroup

COMMANDS = {
    "propose": ("pairs_propose:propose", "Rank pairs of images of each class: the same object, another context."),
    "curate": ("pairs_curate:curate", "Judge proposals in the browser, pair by pair."),
    "status": ("pairs_curate:status", "How far the judging is, and how far curators agree."),
    "build": ("pairs_tables:build", "Freeze accepted pairs into an artifact, or make a control of them."),
    "check": ("pairs_tables:check", "Find what is wrong with a set of pairs."),
    "compare": ("pairs_compare:compare", "Train on pairs and on their controls, like for like; rank the gains."),
    "export": ("pairs_tables:export", "Write pairs as JSON lines or CSV."),
    "import": ("pairs_tables:import_", "Turn JSON lines or CSV into a pair artifact."),
}
"""verb -> (module:attribute below ``semaug.cli.commands``, short help)."""

group = LazyGroup(
    "pairs", COMMANDS, help="Semantic pairs: propose, curate, build and check pairs of two images of one class."
)
