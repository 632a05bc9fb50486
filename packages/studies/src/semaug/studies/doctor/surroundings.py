"""What an examination looks at: installed distributions, modules, environment variables and folders.

It is passed in, so that an examination can be made of surroundings other than this process's own.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from semaug.studies.doctor.studies import StudyState


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution, None where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def declared_requirements(distribution: str) -> Sequence[str]:
    """The requirements of an installed distribution as its metadata spells them, those of its extras included."""
    return metadata.requires(distribution) or ()


def module_folder(module: str) -> Path | None:
    """Where a module's files lie, None where it cannot be found; the module itself is not imported."""
    try:
        found = find_spec(module)
    except (ImportError, AttributeError, ValueError):
        return None
    if found is None:
        return None
    if found.submodule_search_locations:
        return Path(next(iter(found.submodule_search_locations)))
    return Path(found.origin).parent if found.origin else Path()


def registered_plugins(group: str) -> Mapping[str, str]:
    """Name -> ``module:attribute`` of the entry points of a group."""
    return {point.name: point.value for point in metadata.entry_points(group=group)}


@dataclass(frozen=True, slots=True)
class Surroundings:
    """This process's surroundings, or fabricated ones.

    ``weights`` and ``data`` are folders to look into beside the usual places; ``studies`` lists the studies, None for
    those that are shipped.
    """

    version: Callable[[str], str | None] = installed_version
    requirements: Callable[[str], Sequence[str]] = declared_requirements
    module: Callable[[str], Path | None] = module_folder
    plugins: Callable[[str], Mapping[str, str]] = registered_plugins
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    home: Path = field(default_factory=Path.home)
    cwd: Path = field(default_factory=Path.cwd)
    temporary: Path = field(default_factory=lambda: Path(tempfile.gettempdir()))
    weights: tuple[Path, ...] = ()
    data: tuple[Path, ...] = ()
    studies: Callable[[], Sequence[StudyState]] | None = None

    def has(self, module: str) -> bool:
        """Whether a module could be imported; nothing is imported."""
        return self.module(module) is not None

    @property
    def cache(self) -> Path:
        """Where programs keep caches."""
        return Path(self.environ.get("XDG_CACHE_HOME") or self.home / ".cache")

    @property
    def hub_cache(self) -> Path:
        """Where Hugging Face keeps models: ``HF_HUB_CACHE``, else ``hub`` below ``HF_HOME``."""
        if self.environ.get("HF_HUB_CACHE"):
            return Path(self.environ["HF_HUB_CACHE"]).expanduser()
        home = self.environ.get("HF_HOME") or self.cache / "huggingface"
        return Path(home).expanduser() / "hub"

    @property
    def torch_checkpoints(self) -> Path:
        """Where torch keeps downloaded weights."""
        home = self.environ.get("TORCH_HOME") or self.cache / "torch"
        return Path(home).expanduser() / "hub" / "checkpoints"
