"""What adapters do to each other: weights of equal effect, sizes and agreement, the blocks they reach."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.errors import AdapterError
from studio.library import Entry, Library
from studio.making.held import Held
from studio.mixing import MixPart
from studio.whole import read_whole

if TYPE_CHECKING:
    from pipelines.adapter import Adapter
    from pipelines.interference import BlockInterference, Interference


def balance(held: Held, base: str, mix: Sequence[MixPart], measure: str) -> dict[str, Any]:
    """Weights at which the adapters change as much as each other, by id (see `pipelines.balance`).

    Their mean size is that of the weights that they have now, and their signs stay.

    Raises:
        AdapterError: fewer than two adapters, or ones that don't fit the base. ConfigError: no such measure.
    """
    from pipelines.balance import MAX_BALANCED, balanced_weights

    entries, adapters = _two(held, mix)
    with held.device.taken("weighing adapters"), held.lent(base) as (mixer, _):
        mixer.restore()
        found = balanced_weights(adapters, mixer.base, measure=measure)
    now = {part.id: part.weight for part in mix}
    level = sum(abs(weight) for weight in now.values()) / len(now) or 1.0
    weights = {}
    for adapter_id, entry in entries.items():
        size = min(MAX_BALANCED if now[adapter_id] >= 0 else 2.0, found[entry.name] * level)
        weights[adapter_id] = round(size if now[adapter_id] >= 0 else -size, 3)
    return {"weights": weights}


def interference(held: Held, base: str, mix: Sequence[MixPart]) -> dict[str, Any]:
    """What the adapters do to each other at their weights: "picture" (a heat map's data URL), "text" (lines
    for people), "table" (all numbers as text), "report" (as JSON).

    Raises:
        AdapterError: fewer than two adapters, or ones that don't fit the base. PictureError: more than six.
    """
    from pipelines.heatmap import interference_picture
    from pipelines.interference import interference as measured

    entries, adapters = _two(held, mix)
    parts = {entries[part.id].name: part for part in mix}
    weights = {
        name: (part.weight, part.weight if part.text is None else part.text) for name, part in parts.items()
    }
    blocks = {name: dict(part.blocks) for name, part in parts.items()}
    with held.device.taken("comparing adapters"), held.lent(base) as (mixer, _):
        mixer.restore()
        for adapter in adapters.values():
            adapter.check(mixer.base)
        report = measured(adapters, weights, mixer.base, blocks)
    buffer = io.BytesIO()
    interference_picture(report).save(buffer, "PNG")
    return {
        "picture": f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}",
        "text": in_words(report),
        "table": report.as_text(),
        "report": report.as_dict(),
    }


def blocks(held: Held, ids: Iterable[str]) -> dict[str, Any]:
    """The blocks that adapters reach, by their ids, in the model's order; needs no base."""
    from pipelines.families import block_of

    library, found = Library(held.workspace), {}
    for adapter_id in ids:
        adapter = read_whole(library, library.get(adapter_id))
        reached = {block_of(module) for module in adapter.factors}
        reached |= {encoder for vectors in adapter.tokens.values() for encoder in vectors}
        found[adapter_id] = sorted(reached, key=_place)
    return {"blocks": found}


_ORDER = ("text_encoder", "text_encoder_2", "time_embedding", "add_embedding", "conv_in", "down_blocks",
          "mid_block", "up_blocks", "conv_out")  # fmt: skip


def _place(block: str) -> tuple[int, str]:
    first = block.partition(".")[0]
    return (_ORDER.index(first) if first in _ORDER else len(_ORDER), block)


def _two(held: Held, mix: Sequence[MixPart]) -> tuple[dict[str, Entry], dict[str, Adapter]]:
    """The library's entries by id, and the adapters by name; two or more."""
    if len({part.id for part in mix}) != len(mix) or len(mix) < 2:
        raise AdapterError(f"got {len(mix)} adapters to compare; put two or more into the mix, each once")
    library = Library(held.workspace)
    entries = {part.id: library.get(part.id) for part in mix}
    return entries, {entry.name: read_whole(library, entry) for entry in entries.values()}


def in_words(report: Interference) -> list[str]:
    """The report for people: who is larger and where, and whether pairs pull together or apart.

    Who overwrites whom is measured, see `Meetings`; size alone doesn't say it.
    """
    shares = report.total.share
    if not any(shares.values()):
        return ["At these weights no adapter changes anything."]
    lines = []
    strongest = max(shares, key=lambda name: shares[name])
    if report.total.dominant is not None:
        lines.append(f"By size “{strongest}” is ahead: {shares[strongest]:.0%} of ‖ΔW‖² is its own.")
    else:
        each = ", ".join(f"“{name}” {share:.0%}" for name, share in shares.items())
        lines.append(f"By size none is ahead: {each} of ‖ΔW‖².")
    for name in report.adapters:
        others = _ruled(report.blocks, name)
        if others and (report.total.dominant != name or len(others) < len(report.blocks)):
            lines.append(f"“{name}” is twice as large as any other in {', '.join(others)}.")
    return [*lines, *_pairs(report)]


def _ruled(blocks: Mapping[str, BlockInterference], name: str) -> list[str]:
    return [block for block, found in blocks.items() if found.dominant == name]


def _pairs(report: Interference) -> list[str]:
    """A line for each pair: whether their changes agree."""
    lines = []
    for (first, second), pair in report.total.pairs.items():
        both = f"“{first}” and “{second}”"
        if pair.cosine is None:
            lines.append(f"{both} touch different parts and leave each other alone.")
            continue
        ways = ((0.1, "pull the same way"), (-0.1, "hardly touch each other"))
        way = next((words for least, words in ways if pair.cosine >= least), "pull against each other")
        lines.append(f"{both} {way} (cosine {round(pair.cosine, 2) + 0.0:+.2f}).")
    return lines
