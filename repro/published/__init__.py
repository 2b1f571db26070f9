"""The printed numbers as data: CSV files beside this module, and the reader that knows their units and decimals."""

from repro.published.reader import FOLDER, Printed, PublishedError, path, read
from repro.published.tables import PublishedTable, table

__all__ = ["FOLDER", "Printed", "PublishedError", "PublishedTable", "path", "read", "table"]
