"""Imported by every interpreter that is started with this folder on its path: spawned workers of a moved clock."""

import os

from moved_clock import move

move(os.environ["MOVED_CLOCK"])
