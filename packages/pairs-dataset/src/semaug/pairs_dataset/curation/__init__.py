"""Curating pairs: a journal of verdicts in SQLite, and a page that is served on loopback."""
