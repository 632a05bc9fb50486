"""Decorators that declare options, shared by verbs with many of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

Decorator = Callable[[Any], Any]


def together(*options: Decorator) -> Decorator:
    """Several options as one decorator, in this order."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def choice(flag: str, values: Sequence[str], default: str | None, help_: str) -> Decorator:
    """One of ``values``."""
    return click.option(flag, type=click.Choice(values), default=default, show_default=default is not None, help=help_)


def number(flag: str, default: Any, help_: str, kind: Any = None) -> Decorator:
    """A number of a click type; without one, of the type of ``default``."""
    return click.option(flag, type=kind, default=default, show_default=default is not None, help=help_)
