"""``semaug pairs``: a lazy group, since proposing and curating have libraries of their own."""

from __future__ import annotations

from semaug.cli.console import LazyGroup

COMMANDS = {
    "export": ("pairs_tables:export", "Write pairs as JSON lines or CSV."),
    "import": ("pairs_tables:import_", "Turn JSON lines or CSV into a pair artifact."),
}
"""verb -> (module:attribute below ``semaug.cli.commands``, short help)."""

group = LazyGroup(
    "pairs", COMMANDS, help="Semantic pairs: propose, curate, build and check pairs of two images of one class."
)
