"""Adapter files of which only a part fits: read on request, with a report of all that was left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.adapter import Adapter, AnyFactors
from pipelines.errors import AdapterError
from pipelines.formats.checks import misshapen
from pipelines.formats.reading import load, peft_path, read_adapter, recognise, weight_file
from pipelines.places import places, weight_shape

if TYPE_CHECKING:
    from pipelines.base import Base


@dataclass(frozen=True, kw_only=True)
class ReadReport:
    """What became of a file's tensors. keys: how many it has. matched: how many are in the adapter.

    left: for each of the others its key and why it was left out, "key: reason".
    """

    keys: int
    matched: int
    left: tuple[str, ...]

    def as_text(self) -> str:
        """Return the report for people: one line, and one more for each tensor left out."""
        lines = [f"{self.matched} of {self.keys} tensors read"]
        return "\n".join([*lines, *(f"left out {line}" for line in self.left)])


def read_part(
    path: str | Path, base: Base | None = None, *, family: str | None = None
) -> tuple[Adapter, ReadReport]:
    """Read what is sound in an adapter file and leave out the rest, naming every tensor of it.

    base: where given, modules that it lacks or has in another shape are left out as well. family: as in
    `read_adapter`; None takes the base's. PEFT's folders are read whole or not at all, then compared
    with the base.

    Raises: AdapterError where nothing fits, the adapter is for another family than the base, or the
    file is damaged as a whole (see `read_adapter`).
    """
    path = Path(path)
    hint = family or (base.family.id if base is not None else None)
    if peft_path(path):
        whole = read_adapter(path, family=hint)
        keys = {module: tuple(factor.parts) for module, factor in whole.factors.items()}
        names = {module: [f"{module}.{part}" for part in parts] for module, parts in keys.items()}
        adapter, left, count = whole, {}, sum(len(parts) for parts in names.values())
    else:
        path = weight_file(path)
        found = recognise(path, hint, partly=True)
        adapter, left, count = load(path, found), dict(found.left), len(found.header.tensors)
        names = {module: list(parts.values()) for module, parts in found.parsed.parts.items()}
    if base is not None and adapter.family != base.family.id:
        raise AdapterError(
            f"adapter {adapter.name!r} is for {adapter.family}, base {base.ref!r} is {base.family.id}; "
            f"choose a {adapter.family} base"
        )
    bad = dict(_unsound(adapter, base))
    left |= {key: why for module, why in bad.items() for key in names[module]}
    factors = {module: factor for module, factor in adapter.factors.items() if module not in bad}
    adapter = replace(adapter, factors=factors)
    if not factors and not adapter.tokens:
        example = f", for instance {_first(left)}" if left else ""
        raise AdapterError(f"nothing of {path.name!r} fits: all {count} tensors would be left out{example}")
    adapter.check_factors()
    lines = tuple(f"{key}: {why}" for key, why in sorted(left.items()))
    return adapter, ReadReport(keys=count, matched=count - len(left), left=lines)


def _first(left: dict[str, str]) -> str:
    key, why = next(iter(left.items()))
    return f"{key[:80]!r}: {why[:100]}"


def _unsound(adapter: Adapter, base: Base | None) -> Iterator[tuple[str, str]]:
    """Find modules that are damaged by themselves, or that the base lacks or has in another shape."""
    layers = None if base is None else places(base)
    misshaped = {fault.module: f"the file {fault.says}" for fault in misshapen(adapter.factors)}
    for module, factor in adapter.factors.items():
        why = misshaped.get(module) or factor.problem() or _misplaced(factor, module, layers)
        if why:
            yield module, why


def _misplaced(
    factor: AnyFactors, module: str, layers: Mapping[bool, Mapping[str, Any]] | None
) -> str | None:
    if layers is None:
        return None
    layer = layers[factor.on_attention].get(module)
    return "the base has no such module" if layer is None else factor.misfit(weight_shape(layer))
