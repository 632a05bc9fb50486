"""Well-known data sets by name, read from a folder where they lie already: nothing is ever downloaded.

``NAME:SPLIT?root=FOLDER`` is what ``open_source`` takes; without a split it is the training split.
"""

from semaug.artifacts.sources.named.catalogue import NAMED_SETS, NamedSet, open_named, train_and_test

__all__ = ["NAMED_SETS", "NamedSet", "open_named", "train_and_test"]
