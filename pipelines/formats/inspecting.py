"""What an adapter file is, said from its header alone: fast enough for ten thousand of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.formats.keys import ALPHA
from pipelines.formats.metadata import about_of, read_metadata
from pipelines.formats.reading import (
    commonest_method,
    peft_path,
    recognise,
    stated_method,
    token_name,
    weight_file,
)
from pipelines.formats.recognition import ghost_factors


def inspect_adapter(path: str | Path, *, family: str | None = None) -> dict[str, Any]:
    """Say what an adapter file is from its header alone; no numbers are read, torch isn't needed.

    family: as in `read_adapter`.
    Returns: name, title, format, family, method (the commonest), methods, rank (the largest), alpha (None
    where the header doesn't say), components, modules (count), tokens, tensors (count), dtype, bytes,
    triggers, metadata.
    Raises: AdapterError like `read_adapter`, except for what only the numbers show.
    """
    path = Path(path)
    if peft_path(path):
        from pipelines.formats.peft import inspect_peft

        return inspect_peft(path, family=family)
    path = weight_file(path)
    found = recognise(path, family)
    raw, entries = found.header.metadata, found.header.tensors
    name, triggers, metadata = read_metadata(raw, path)
    about = about_of(raw)
    methods: Counter[str] = Counter()
    rank = 0
    for module, parts in found.parsed.modules.items():
        method, options = stated_method(module, parts, found.format, about)
        methods[method] += 1
        factor = ghost_factors(found.header, parts, method, options)
        rank = max(rank, factor.rank if factor else 0)
    tokens = [token_name(token, found.format, about, path.stem) for token in found.parsed.tokens]
    numbers = Counter(
        entries[key].dtype
        for parts in found.parsed.parts.values()
        for part, key in parts.items()
        if part != ALPHA
    )
    reached = {module.split(".", 1)[0] for module in found.parsed.modules}
    return {
        "name": name,
        "title": raw.get("modelspec.title", name)[:120],
        "format": found.format.id,
        "family": found.family.id,
        "method": commonest_method(methods.elements()) if methods else "embedding",
        "methods": sorted(methods),
        "rank": rank,
        "alpha": _number(raw),
        "components": sorted(reached.union(*found.parsed.tokens.values())),
        "modules": len(found.parsed.modules),
        "tokens": tokens,
        "tensors": len(entries),
        "dtype": numbers.most_common(1)[0][0],
        "bytes": path.stat().st_size,
        "triggers": list(triggers) or (tokens if not methods else []),
        "metadata": metadata,
    }


def _number(raw: Mapping[str, str]) -> float | None:
    try:
        return float(raw["ss_network_alpha"])
    except (KeyError, ValueError):
        return None
