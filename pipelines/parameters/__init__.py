"""What pictures say about how they were made: written for A1111, read from A1111's kin and ComfyUI."""

from pipelines.parameters.a1111 import parse_a1111
from pipelines.parameters.comfyui import parse_comfyui
from pipelines.parameters.reading import restore
from pipelines.parameters.restored import AdapterHint, BaseHint, Restored
from pipelines.parameters.writing import a1111_parameters

__all__ = [
    "AdapterHint",
    "BaseHint",
    "Restored",
    "a1111_parameters",
    "parse_a1111",
    "parse_comfyui",
    "restore",
]
