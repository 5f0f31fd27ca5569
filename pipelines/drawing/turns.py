"""Which pictures are drawn at once, and what the UNet is told for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.base import Base
    from pipelines.conditioning import Conditioning
    from pipelines.generation import GenerationConfig


@dataclass(frozen=True, eq=False)
class Turn:
    """Pictures that are drawn at once: B seeds, prompts, negative prompts, and what the UNet is told."""

    seeds: tuple[int, ...]
    prompts: tuple[tuple[str, str], ...]
    context: Conditioning


def make_turns(base: Base, config: GenerationConfig) -> Iterator[Turn]:
    """Resolve and encode each seed's prompts; those of one length go together, up to `batch_size`."""
    from pipelines.prompts import resolve_wildcards

    encoded: dict[tuple[str, str], Conditioning] = {}
    waiting: list[tuple[int, tuple[str, str]]] = []

    def turn() -> Turn:
        seeds, prompts = zip(*waiting, strict=True)
        contexts = [encoded[pair] for pair in prompts]
        waiting.clear()
        return Turn(seeds, prompts, _side_by_side(contexts))

    for seed in range(config.seed, config.seed + config.num_images):
        texts = (config.prompt, config.negative_prompt)
        pair = (resolve_wildcards(texts[0], seed), resolve_wildcards(texts[1], seed))
        if pair not in encoded:
            encoded[pair] = _context(base, pair, config)
        other = waiting and encoded[waiting[0][1]].hidden.shape != encoded[pair].hidden.shape
        if len(waiting) == config.batch_size or other:
            yield turn()
        waiting.append((seed, pair))
    yield turn()


def _context(base: Base, prompts: tuple[str, str], config: GenerationConfig) -> Conditioning:
    """Encode a prompt, after its negative one where guidance is on."""
    from pipelines.prompts import encode, split_tags

    _, tags = split_tags(prompts[0])
    if tags:
        raise ConfigError(
            f"the prompt names the adapter {tags[0].name!r} by a tag, but nothing mixed it in; "
            f"mix it by its weight, and take the tag out of the prompt"
        )
    negatives = [prompts[1]] if config.guidance_scale > 1 else []
    positive, negative = encode(base, [prompts[0]], negatives, clip_skip=config.clip_skip)
    return positive.after(negative) if negatives else positive


def _side_by_side(contexts: Sequence[Conditioning]) -> Conditioning:
    """Join contexts of one prompt, or of a negative and a positive one each: all negative ones first."""
    import torch

    from pipelines.conditioning import Conditioning

    if len(contexts) == 1:
        return contexts[0]
    # (B, 1 or 2, …) → (1 or 2, B, …) → (B or 2B, …)
    hidden = torch.stack([context.hidden for context in contexts]).transpose(0, 1).flatten(0, 1)
    pooled = [context.pooled for context in contexts if context.pooled is not None]
    return Conditioning(hidden, torch.stack(pooled).transpose(0, 1).flatten(0, 1) if pooled else None)
