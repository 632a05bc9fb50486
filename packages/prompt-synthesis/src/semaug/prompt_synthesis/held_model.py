"""A model whose weights are read at its first use and can be let go of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from semaug.prompt_synthesis.model_folders import free_device_memory

Loaded = TypeVar("Loaded")


class HeldModel(ABC, Generic[Loaded]):
    """Holds at most one loaded model; subclasses say how it is read."""

    _loaded: Loaded | None = None

    @abstractmethod
    def _read(self) -> Loaded:
        """The model with its weights, on its device."""

    def _open(self) -> Loaded:
        """The model, read now where it is not there."""
        if self._loaded is None:
            self._loaded = self._read()
        return self._loaded

    def load(self) -> None:
        """Read the weights now; otherwise that happens at first use."""
        self._open()

    def close(self) -> None:
        """Let go of the model and its device memory; the next use reads it again."""
        self._loaded = None
        free_device_memory()
