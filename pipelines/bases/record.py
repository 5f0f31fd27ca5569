"""What a single file that Pigment wrote says about its model, so that any model can be read back from it.

Published models need none of it: their configs ship with Pigment. A model of other widths or with a tokenizer
of its own carries its configs, and its tokenizers where they are small, in the file's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.errors import BaseError
from pipelines.families import Family
from pipelines.plain_json import parse_json

RECORD = "pigment.base"
"""The key in a file's metadata."""

_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json"
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Record:
    """A model without its weights.

    index: `model_index.json`. configs: of each network and the scheduler, by part. tokenizers: the text of
    each tokenizer's files by name; one that isn't there is the family's own.
    """

    index: Mapping[str, Any]
    configs: Mapping[str, Mapping[str, Any]]
    tokenizers: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def as_text(self) -> str:
        """Return the JSON that `read_record` reads."""
        return json.dumps(
            {"index": self.index, "configs": self.configs, "tokenizers": self.tokenizers},
            sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=dict,
        )  # fmt: skip


def read_record(metadata: Mapping[str, str], family: Family, shown: str) -> Record | None:
    """Return the record in a file's metadata, or None where there is none.

    Raises: BaseError for a record that is damaged or lacks a part.
    """
    if RECORD not in metadata:
        return None
    try:
        found = parse_json(metadata[RECORD])
        record = Record(index=found["index"], configs=found["configs"], tokenizers=found["tokenizers"])
        parts = {*family.components, "vae", "scheduler"}
        whole = parts <= set(record.configs) and all(isinstance(c, dict) for c in record.configs.values())
        files = [(name, text) for texts in record.tokenizers.values() for name, text in texts.items()]
        whole = whole and all(n in _TOKENIZER_FILES and isinstance(text, str) for n, text in files)
        whole = whole and isinstance(record.index, dict)
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise BaseError(f"{shown!r} has a damaged record of its model ({RECORD}); fetch or write it again")
    return record
