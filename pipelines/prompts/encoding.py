"""Prompts with weights and of any length, as the UNet sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.prompts.chunks import Chunk, Cutter
from pipelines.prompts.weights import parse_weights, refuse_unsupported

if TYPE_CHECKING:
    import torch

    from pipelines.base import Base
    from pipelines.conditioning import Conditioning

_Cut = list[list[Chunk]]
"""Per prompt, its chunks for one text encoder."""

_Encoded = tuple["torch.Tensor", "torch.Tensor | None"]
"""Hidden states (B, L, D), and what is pooled (B, P) where the encoder has it."""


def encode(
    base: Base, prompts: Sequence[str], negatives: Sequence[str], *, clip_skip: int | None = None
) -> tuple[Conditioning, Conditioning]:
    """Encode B prompts and their negative prompts: (positive, negative), of one length.

    Shorter ones are filled up with chunks of no words, to the length of the longest of them all: a
    prompt's numbers depend on what it is encoded with, so encode a picture's own two together. What is
    pooled is of the first chunk. A prompt without brackets that fits into one chunk gives bit for bit
    what `base.condition` gives. negatives: empty where guidance is off.
    clip_skip: the text encoders' layer, counted from the last, 1; None: the family's own.

    Raises: ConfigError for a weight that can't be read, for what isn't supported (see the package), or
    for a layer that isn't there.
    """
    for prompt in prompts:
        refuse_unsupported(prompt)
    for prompt in negatives:
        refuse_unsupported(prompt, negative=True)
    parsed = [parse_weights(prompt) for prompt in (*prompts, *negatives)]
    components = [row.component for row in base.family.text_encoders]
    cut = {name: [Cutter(base, name).cut(segments) for segments in parsed] for name in components}
    count = max((len(chunks) for part in cut.values() for chunks in part), default=1)
    positive = _told(base, {name: part[: len(prompts)] for name, part in cut.items()}, count, clip_skip)
    if not negatives:
        return positive, _none_of(positive)
    negative = _told(base, {name: part[len(prompts) :] for name, part in cut.items()}, count, clip_skip)
    return positive, base.zeroed(negative, negatives)


@dataclass(frozen=True, eq=False)
class Tokens:
    """B prompts as numbers.

    ids: by text encoder, runs of chunks, each (B, L). count: chunks that all are filled up to.
    """

    ids: Mapping[str, Sequence[torch.Tensor]]
    count: int


def encode_literal(base: Base, prompts: Sequence[str]) -> Conditioning:
    """Encode B prompts of any length as they stand: brackets and weights are text, as in captions.

    Shorter ones are filled up with chunks of no words to the length of the longest. Prompts that fit into
    one chunk give what `base.condition` gives. Gradients flow where the caller has them on.
    """
    return encode_numbers(base, tokenise_literal(base, prompts))


def tokenise_literal(base: Base, prompts: Sequence[str]) -> Tokens:
    """Return what `encode_literal` takes of B prompts' text; the ids are on the CPU."""
    components = [row.component for row in base.family.text_encoders]
    cut = {name: [Cutter(base, name).cut([[(text, 1.0)]]) for text in prompts] for name in components}
    count = max(len(found) for part in cut.values() for found in part)
    runs = {name: _runs(base, name, found, count) for name, found in cut.items()}
    return Tokens({name: [_ids(chunks) for chunks in found] for name, found in runs.items()}, count)


def encode_numbers(base: Base, tokens: Tokens) -> Conditioning:
    """Encode prompts that are numbers already, as `encode_literal` does; asks nothing of the host."""
    encoded = {name: [base.encode_tokens(name, ids) for ids in runs] for name, runs in tokens.ids.items()}
    return _side_by_side(base, encoded, tokens.count)


def count_chunks(base: Base, prompts: Sequence[str]) -> int:
    """Return how many chunks the longest of `prompts` takes, as they stand; at least 1."""
    cutters = [Cutter(base, row.component) for row in base.family.text_encoders]
    return max((len(cutter.cut([[(text, 1.0)]])) for cutter in cutters for text in prompts), default=1)


def _told(base: Base, cut: dict[str, _Cut], count: int, clip_skip: int | None) -> Conditioning:
    """Encode every prompt's chunks, all first ones together, then all second ones …"""
    encoded: dict[str, list[_Encoded]] = {}
    for component, prompts in cut.items():
        encoded[component] = []
        for chunks in _runs(base, component, prompts, count):
            hidden, pooled = base.encode_tokens(component, _ids(chunks), clip_skip)
            encoded[component].append((_emphasised(hidden, chunks), pooled))
    return _side_by_side(base, encoded, count)


def _runs(base: Base, component: str, prompts: _Cut, count: int) -> list[list[Chunk]]:
    """Return all first chunks, all second ones …, at most one run beyond the longest prompt: of no words."""
    empty = Cutter(base, component).empty()
    longest = max(len(chunks) for chunks in prompts)
    return [
        [chunks[index] if index < len(chunks) else empty for chunks in prompts]
        for index in range(min(count, longest + 1))
    ]


def _ids(chunks: Sequence[Chunk]) -> torch.Tensor:
    """Token ids, (B, L)."""
    import torch

    return torch.tensor([chunk.ids for chunk in chunks])


def _side_by_side(base: Base, encoded: Mapping[str, Sequence[_Encoded]], count: int) -> Conditioning:
    """Put each encoder's runs behind each other, to `count`, and the encoders beside each other."""
    import torch

    from pipelines.conditioning import Conditioning

    hidden: list[torch.Tensor] = []
    pooled: torch.Tensor | None = None
    for found in encoded.values():
        runs = [run for run, _ in found]
        runs += runs[-1:] * (count - len(runs))  # the last is of no words then
        hidden.append(runs[0] if count == 1 else torch.cat(runs, dim=1))  # (B, count · L, D)
        pooled = found[0][1]
    return Conditioning(torch.cat(hidden, dim=-1), pooled if base.family.pooled else None)


def _emphasised(hidden: torch.Tensor, chunks: Sequence[Chunk]) -> torch.Tensor:
    """Multiply the hidden states (B, L, D) by their tokens' weights, and give each chunk its mean back.

    Chunks of weights 1 stay as they are, bit for bit; the others are reckoned in fp32.
    Source: A1111 web UI, `modules/sd_emphasis.py`, "Original". Deviation: the mean is each prompt's own,
    so that it doesn't depend on the batch.
    """
    import torch

    if all(weight == 1.0 for chunk in chunks for weight in chunk.weights):
        return hidden
    rows = []
    for row, chunk in zip(hidden, chunks, strict=True):  # (L, D)
        if all(weight == 1.0 for weight in chunk.weights):
            rows.append(row)
            continue
        weights = torch.tensor(chunk.weights, dtype=torch.float32, device=row.device)
        weighted = row.float() * weights[:, None]
        mean, now = row.float().mean(), weighted.mean()
        scale = torch.where(now == 0, torch.ones_like(now), mean / now)
        rows.append((weighted * scale).to(row.dtype))
    return torch.stack(rows)


def _none_of(told: Conditioning) -> Conditioning:
    """Return no prompts, of the shapes of these."""
    from pipelines.conditioning import Conditioning

    return Conditioning(told.hidden[:0], None if told.pooled is None else told.pooled[:0])
