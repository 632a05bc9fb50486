"""Image sources and the one door to them."""

from semaug.artifacts.sources.protocol import ImageSource

__all__ = ["ImageSource"]
