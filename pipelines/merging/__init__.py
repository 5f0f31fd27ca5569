"""Several adapters made one: the algorithms as a table, and the merge module by module."""

from __future__ import annotations

from pipelines.merging.adapters import MergeReport, merge_adapters
from pipelines.merging.algorithms import MERGES, Merge, Parameter

__all__ = ["MERGES", "Merge", "MergeReport", "Parameter", "merge_adapters"]
