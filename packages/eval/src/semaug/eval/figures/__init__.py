"""Figures of results, drawn by matplotlib without a display, as SVG (light and dark) or PNG bytes."""
