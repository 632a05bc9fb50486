"""``semaug``: the root command. Groups are imported when they are used, so that ``--help`` costs what click costs."""

from __future__ import annotations

import os
import sys

import click

from semaug.artifacts.network import forbid_telemetry, keep_offline
from semaug.cli.console import GLOBAL_OPTIONS, LazyGroup, explain, load_config, store_global

COMMANDS = {
    "quickstart": ("quickstart:command", "See semantic guidance work in four minutes, without any data."),
    "doctor": ("doctor:command", "Say what is installed, what can run here, and the remedy for what is missing."),
    "data": ("data:group", "Index, pack, describe and verify images and artifacts."),
    "quality": ("quality:group", "Score image quality and report how images are routed."),
    "guide": ("guide:group", "Extract, exchange and look at boxes and masks."),
    "views": ("views:group", "Show the view pairs of a variant, or write guided crops to disk."),
    "pairs": ("pairs:group", "Propose, curate, build and check semantic pairs."),
    "synth": ("synth:group", "Generate synthetic positives: caption, rewrite, segment, generate, compare."),
    "diffaug": ("diffaug:group", "Learn augmentation from scratch, for tables and images; compare projections."),
    "pretrain": ("pretrain:group", "Train an encoder on positive pairs."),
    "eval": ("evaluate:group", "Evaluate an encoder: linear probe, kNN, everything."),
    "study": ("study:group", "Run the papers' tables and figures, variants against controls, like for like."),
}
"""name -> (module:attribute below ``semaug.cli.commands``, short help)."""


@click.group(
    cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(package_name="semaug")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False),
    is_eager=True,
    expose_value=False,
    callback=load_config,
    help="TOML file of options: one table a verb ([guide.extract]); flags win, unknown keys are refused.",
)
def root() -> None:
    """Better positive pairs for self-supervised learning of images.

    Start with `semaug quickstart`. Exit codes: 0 done, 1 failed, 2 usage, 3 finished but some inputs were skipped,
    75 stopped by a signal and ready to go on.
    """


root.params += [option.copy_for(store_global) for option in GLOBAL_OPTIONS]


def main() -> None:
    """Run the command line; every expected failure is one line on stderr."""
    # OpenMP threads that wait for each other spin; on shared cores that made training steps five times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    forbid_telemetry()
    keep_offline()
    try:
        code = root.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted. Run the same command again to go on from here.", err=True)
        code = 130
    except Exception as error:  # the last door: no traceback without --debug
        code = explain(error)
    sys.exit(code if isinstance(code, int) else 0)
