"""Tables of cells (rows of numbers) and the one door to them."""

from semaug.artifacts.tables.checks import require_classes, require_same_features
from semaug.artifacts.tables.door import is_table, open_table, table_file
from semaug.artifacts.tables.pca import principal_components
from semaug.artifacts.tables.protocol import TableSource
from semaug.artifacts.tables.recipes import RECIPES
from semaug.artifacts.tables.steps import STEPS
from semaug.artifacts.tables.table import Table, names_digest
from semaug.artifacts.tables.writing import Written, write_embedding, write_embeddings

__all__ = [
    "RECIPES",
    "STEPS",
    "Table",
    "TableSource",
    "Written",
    "is_table",
    "names_digest",
    "open_table",
    "principal_components",
    "require_classes",
    "require_same_features",
    "table_file",
    "write_embedding",
    "write_embeddings",
]
