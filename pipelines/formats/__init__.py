"""Adapter files: every form that is read and written."""

from pipelines.formats.editing import edit_metadata
from pipelines.formats.inspecting import inspect_adapter
from pipelines.formats.partial import ReadReport, read_part
from pipelines.formats.reading import read_adapter
from pipelines.formats.table import FORMATS, Format
from pipelines.formats.writing import WRITE_DTYPES, write_adapter

__all__ = [
    "FORMATS",
    "WRITE_DTYPES",
    "Format",
    "ReadReport",
    "edit_metadata",
    "inspect_adapter",
    "read_adapter",
    "read_part",
    "write_adapter",
]
