"""Adapter files: every form that is read and written."""

from pipelines.formats.inspecting import inspect_adapter
from pipelines.formats.reading import read_adapter
from pipelines.formats.table import FORMATS, Format
from pipelines.formats.writing import WRITE_DTYPES, write_adapter

__all__ = ["FORMATS", "WRITE_DTYPES", "Format", "inspect_adapter", "read_adapter", "write_adapter"]
