"""Detectors and segmenters that turn images into class-agnostic guidance."""
