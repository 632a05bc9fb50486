"""Schemas, stores, image sources and counter-based draws that every semaug package stands on."""
